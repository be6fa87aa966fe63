"""How long patch tokens are after each block, and which are so long that they are artifacts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..attr.patches import EMBEDDED
from ..colours import LOOK, Look
from ..figures.panels import Bar
from ..metrics.artifacts import artifact_tokens
from ..visualization import overlay, thinned
from ..wording import number
from .drawing import Row, figure, outlined
from .patches import PatchTokens, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Norms:
    """The norm of each patch's token after each block, and the artifacts among them.

    Artifacts are tokens of an abnormal norm, on which some models keep what belongs to the whole image: what a map
    marks there says nothing of that place. The rule is that of `captum_vit.metrics.artifact_tokens`; before the first
    block, where each token holds its own patch alone, there is none.

    maps: by block, of each image (*grid), float64.
    """

    photos: Sequence[PatchTokens]
    maps: Mapping[str, tuple[Tensor, ...]]

    @classmethod
    def of(cls, photos: Sequence[PatchTokens], blocks: Sequence[str]) -> "Norms":
        """See `Tokens.norms`."""
        return cls(
            photos, {block: tuple(photo.features[block].double().norm(dim=-1) for photo in photos) for block in blocks}
        )

    @cached_property
    def artifacts(self) -> dict[str, tuple[Tensor, ...]]:
        """By block, of each image which patches are artifacts, bool (*grid)."""
        found = {block: tuple(artifact_tokens(each[None])[0] for each in maps) for block, maps in self.maps.items()}
        if EMBEDDED in found:  # there each token holds its own patch alone
            found[EMBEDDED] = tuple(torch.zeros_like(each) for each in found[EMBEDDED])
        return found

    @property
    def scores(self) -> Tensor:
        """The artifact score of each block and image, (blocks, images): the share of the patches that are artifacts."""
        return torch.stack([torch.stack([m.double().mean() for m in masks]) for masks in self.artifacts.values()])

    @property
    def peaks(self) -> Tensor:
        """How many times the median the greatest norm is, (blocks, images)."""
        return torch.stack([torch.stack([m.max() / m.median() for m in maps]) for maps in self.maps.values()])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of each image one line that says where artifacts are; empty where there are none."""
        return tuple(self._warning(image) for image in range(len(self.photos)))

    def _warning(self, image: int) -> str:
        found = {block: masks[image] for block, masks in self.artifacts.items() if bool(masks[image].any())}
        if not found:
            return ""
        worst = max(found, key=lambda block: int(found[block].sum()))
        count, patches = int(found[worst].sum()), found[worst].numel()
        times = float(self.peaks[list(self.maps).index(worst), image])
        return (
            f"{count} of {patches} patches are artifacts {named(worst)}, by norms up to {times:.1f} times the median "
            f"({'in this block alone' if len(found) == 1 else f'in {len(found)} of {len(self.maps)} blocks'}): some "
            f"models keep what belongs to the whole image there, and maps that mark them say nothing of the place"
        )

    def pictures(self, block: str, *, look: Look = LOOK) -> list[Image.Image]:
        """The norms after a block on each photograph, RGB in its size; artifacts are outlined.

        Args:
            block: one of `maps`.
            look: how the colours are painted.
        """
        found = zip(self.photos, self.maps[block], self.artifacts[block], strict=True)
        return [
            outlined(
                overlay(photo.image, norms, photo.view, look, scale=look.spanning(norms, [norms], False)),
                photo.view,
                norms.shape,
                [(row, column) for row, column in mask.nonzero().tolist()],
            )
            for photo, norms, mask in found
        ]

    def plot(self, ax: "Axes | None" = None, *, count: int | None = 6, look: Look = LOOK) -> "Figure":
        """A row for each image: the norms after so many of the blocks, each in its own scale.

        Args:
            ax: axes of yours, to be drawn in.
            count: how many of the blocks, at even distance; None for all.
            look: how the colours are painted.
        """
        every = list(self.maps)
        blocks = [every[i] for i in thinned(len(every), count)]
        columns = {block: self.pictures(block, look=look) for block in blocks}
        rows = [
            Row(photo.source, [columns[block][i] for block in blocks], [self._told(block, i) for block in blocks])
            for i, photo in enumerate(self.photos)
        ]
        bar = Bar(("norm", ", each in its own scale"), None)
        return figure(rows, ("norms of patch tokens", ", artifacts outlined"), ax, bar, look)

    def _told(self, block: str, image: int) -> str:
        low, high = (number(float(end)) for end in self.maps[block][image].aminmax())
        count = int(self.artifacts[block][image].sum())
        found = f"{count} artifact{'s' * (count != 1)}" if count else "no artifact"
        return f"{named(block)}\n{low} to {high}\n{found}"
