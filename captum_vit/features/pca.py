"""Principal components of patch tokens, over one image or many together, as red, green and blue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from .components import Basis, Shared
from .drawing import Row, coloured, figure
from .patches import PatchTokens, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class PCA:
    """Patch tokens along their first three principal components: one basis for all images.

    block: after which the tokens stand.
    projections: of each image (*grid, 3), float64, in the units of the tokens.
    foreground: of each image which patches were looked at, bool (*grid); all of them where none were left out.
    basis: the components.
    span: (2, 3), the least and the greatest value along each component in all images.
    """

    photos: Sequence[PatchTokens]
    block: str
    projections: tuple[Tensor, ...]
    foreground: tuple[Tensor, ...]
    basis: Basis
    span: Tensor

    @classmethod
    def of(cls, photos: Sequence[PatchTokens], block: str, *, foreground: bool = False) -> "PCA":
        """See `Tokens.pca`."""
        return cls.by(
            Shared.of(lambda: [photo.features[block] for photo in photos], foreground=foreground), photos, block
        )

    @classmethod
    def by(cls, shared: Shared, photos: Sequence[PatchTokens], block: str) -> "PCA":
        """Of images that share a basis, with others perhaps."""
        features = [photo.features[block] for photo in photos]
        projections, masks = map(shared.basis.project, features), map(shared.mask, features)
        return cls(photos, block, tuple(projections), tuple(masks), shared.basis, shared.span)

    @property
    def colours(self) -> tuple[Tensor, ...]:
        """Of each image (*grid, 3) in 0..1: each component from its least to its greatest value in all images; NaN in
        the background."""
        low, high = self.span
        scale = (high - low).where(high > low, 1)
        blank = torch.tensor(torch.nan, dtype=torch.float64)
        return tuple(
            ((each - low) / scale).where(mask[..., None], blank)
            for each, mask in zip(self.projections, self.foreground, strict=True)
        )

    def pictures(self, *, alpha: float = 0.8) -> list[Image.Image]:
        """The colours on each photograph, RGB in its size; where there is none the photograph is grey.

        Args:
            alpha: opacity of the colours, 0 to 1.
        """
        pairs = zip(self.photos, self.colours, strict=True)
        return [coloured(photo.image, photo.view, colours, alpha=alpha) for photo, colours in pairs]

    def plot(self, ax: "Axes | None" = None, *, alpha: float = 0.8) -> "Figure":
        """The pictures side by side, with the share of the variance that they show."""
        shares = " + ".join(f"{100 * share:.0f}" for share in self.basis.explained.tolist())
        title = f"PCA of patch tokens, {named(self.block)}", f": {shares} % of the variance"
        return figure([Row("", self.pictures(alpha=alpha), [photo.source for photo in self.photos])], title, ax)
