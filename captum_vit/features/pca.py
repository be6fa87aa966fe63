"""Principal components of patch tokens, over one image or many together, as red, green and blue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .drawing import Row, coloured, figure
from .patches import PatchTokens, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANNELS = 3


@dataclass(frozen=True)
class Basis:
    """Orthogonal directions in which vectors differ most.

    mean: (D,).  components: (count, D), of length 1, the most important first.  explained: (count,), the share of the
    variance that each has.
    """

    mean: Tensor
    components: Tensor
    explained: Tensor

    def project(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., count), float64."""
        return (vectors.double() - self.mean) @ self.components.mT


def principal_components(vectors: Tensor, count: int = CHANNELS) -> Basis:
    """The first principal components of vectors (M, D), in float64.

    >>> from captum_vit.features import principal_components
    >>> points = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> basis = principal_components(points, count=1)
    >>> basis.components, basis.explained
    (tensor([[1., 0.]], dtype=torch.float64), tensor([0.9000], dtype=torch.float64))

    The sign of a component is nothing that the data say: the entry with the largest absolute value is made positive,
    as scikit-learn has it, so that the same tokens get the same colours everywhere.

    Raises:
        InputError: fewer vectors or channels than components, or NaN or infinite values among them.
    """
    if len(vectors) <= count or vectors.shape[1] < count:
        raise InputError(
            f"{count} principal components need more than {count} tokens of at least {count} channels, got "
            f"{tuple(vectors.shape)}"
        )
    if not vectors.isfinite().all():
        raise InputError("the tokens hold NaN or infinite values: the model's weights or its input do")
    vectors = vectors.double()
    mean = vectors.mean(0)
    centred = vectors - mean
    found, directions = torch.linalg.eigh(centred.mT @ centred)  # in ascending order
    components = directions.flip(1).mT[:count]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    spread = found.flip(0).clamp(min=0)
    return Basis(mean, components * largest.sign(), spread[:count] / spread.sum().where(spread.sum() > 0, 1))


@dataclass(frozen=True, eq=False)
class PCA:
    """Patch tokens along their first three principal components: one basis for all images.

    block: after which the tokens stand.
    projections: of each image (*grid, 3), float64, in the units of the tokens.
    foreground: of each image which patches were looked at, bool (*grid); all of them where none were left out.
    basis: the components.
    """

    photos: Sequence[PatchTokens]
    block: str
    projections: tuple[Tensor, ...]
    foreground: tuple[Tensor, ...]
    basis: Basis

    @classmethod
    def of(cls, photos: Sequence[PatchTokens], block: str, *, foreground: bool = False) -> "PCA":
        """See `Tokens.pca`."""
        features = [photo.features[block] for photo in photos]
        masks = [torch.ones(each.shape[:-1], dtype=torch.bool) for each in features]
        if foreground:
            masks = split(features)
        basis = principal_components(torch.cat([each[mask] for each, mask in zip(features, masks, strict=True)]))
        return cls(photos, block, tuple(map(basis.project, features)), tuple(masks), basis)

    @property
    def colours(self) -> tuple[Tensor, ...]:
        """Of each image (*grid, 3) in 0..1: each component from its least to its greatest value in all images; NaN in
        the background."""
        shown = torch.cat([each[mask] for each, mask in zip(self.projections, self.foreground, strict=True)])
        low, high = shown.amin(0), shown.amax(0)
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


def split(features: Sequence[Tensor]) -> list[Tensor]:
    """Which patches are of the foreground, bool (*grid) of each image: one side of the first component of all patches.

    Which side that is no component says: it is the one that has fewer of the patches at the edges of the images.

    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision" (arXiv:2304.07193), figure
        1: the first component at a threshold, then a PCA of what is left, over all images.

    Raises:
        InputError: fewer than four patches are left, or no grid has an inner part.
    """
    flat = [each.flatten(0, -2) for each in features]
    basis = principal_components(torch.cat(flat), 1)
    above = [basis.project(part).view(each.shape[:-1]) > 0 for part, each in zip(flat, features, strict=True)]
    edges = torch.cat([mask[edge_of(mask)] for mask in above]).double()
    inner = torch.cat([mask[~edge_of(mask)] for mask in above]).double()
    if not len(inner):
        raise InputError("a foreground needs patches that lie at no edge: the grid of these images has none")
    if edges.mean() / max(float(inner.mean()), 1e-12) > (1 - edges.mean()) / max(float(1 - inner.mean()), 1e-12):
        above = [~mask for mask in above]
    if sum(int(mask.sum()) for mask in above) <= CHANNELS:
        raise InputError("the first component leaves hardly a patch for the foreground: look at all patches instead")
    return above


def edge_of(mask: Tensor) -> Tensor:
    """The cells of a grid that lie at its rim, bool of its shape; of videos and volumes in each frame or slice."""
    found = torch.ones_like(mask)
    found[..., 1:-1, 1:-1] = False
    return found
