"""What is shown of images whose tokens were kept: pictures, figures, arrays, and a table."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..colours import Look
from .components import Shared
from .keeping import Kept
from .lens import Called
from .norms import Norms
from .patches import PatchTokens
from .pca import PCA
from .similarity import Similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("image", "block", "patches", "lowest", "median", "highest", "artifacts")


@dataclass(frozen=True, eq=False)
class Common:
    """What all images of a run have in common.

    block: after which the tokens stand.  shared: the basis of their PCA.
    patch: which of the first image they are compared with; None where none was named.  look: its colours.
    names: number -> name of a class.  order: the classes, the commonest first.
    """

    block: str
    shared: Shared
    patch: tuple[int, ...] | None
    look: Look
    names: Mapping[int, str]
    order: Sequence[int]


@dataclass(frozen=True, eq=False)
class Sheet:
    """What one or several images are shown by."""

    pca: PCA
    norms: Norms
    similarity: Similarity | None
    called: Called | None
    common: Common

    @classmethod
    def of(cls, photos: Sequence[PatchTokens], kept: Sequence[Kept], common: Common, *, first: bool) -> "Sheet":
        """Of photographs and what was kept of each.

        Args:
            photos: with the tokens after one block.
            kept: of each.
            common: to all images, these and others.
            first: whether the first of them is the one that has the chosen patch.
        """
        norms = Norms(photos, {block: tuple(each.norms[block] for each in kept) for block in kept[0].norms})
        maps = tuple(each.similarity for each in kept if each.similarity is not None)
        similarity = called = None
        if maps and common.patch is not None:
            similarity = Similarity(photos, common.block, 0 if first else -1, common.patch, maps)
        if kept[0].numbers:
            numbers = {block: tuple(each.numbers[block] for each in kept) for block in kept[0].numbers}
            shares = {block: tuple(each.shares[block] for each in kept) for block in kept[0].numbers}
            called = Called(photos, numbers, shares, common.names, common.order)
        return cls(PCA.by(common.shared, photos, common.block), norms, similarity, called, common)

    def pictures(self) -> dict[str, Image.Image]:
        """The first image's, by the name of their file."""
        block = self.common.block
        drawn = {"pca.png": self.pca.pictures()[0], "norms.png": self.norms.pictures(block)[0]}
        if self.similarity is not None:
            drawn["similarity.png"] = self.similarity.pictures(look=self.common.look)[0]
        if self.called is not None:
            last = block if block in self.called.numbers else list(self.called.numbers)[-1]
            drawn["names.png"] = self.called.pictures(last)[0]
        return drawn

    def figures(self) -> "dict[str, Callable[[], Figure]]":
        """What draws all images side by side, by the name of its file."""
        drawn: dict[str, Callable[[], Figure]] = {"pca.png": self.pca.plot, "norms.png": self.norms.plot}
        similarity = self.similarity
        if similarity is not None:
            drawn["similarity.png"] = lambda: similarity.plot(look=self.common.look)
        if self.called is not None:
            drawn["names.png"] = self.called.plot
        return drawn

    def arrays(self, kept: Kept) -> bytes:
        """The first image's numbers as a file of NumPy, `.npz`; floats in 32 bits.

        Args:
            kept: of that image.
        """
        basis = self.pca.basis
        found: dict[str, Tensor] = {"colours": self.pca.colours[0], "projections": self.pca.projections[0]}
        found |= {"mean": basis.mean, "components": basis.components, "explained": basis.explained, **kept.arrays}
        told: dict[str, Any] = {
            name: each.float() if each.is_floating_point() else each for name, each in found.items()
        }
        file = BytesIO()
        np.savez_compressed(file, **told)
        return file.getvalue()

    def table(self) -> bytes:
        """The first image's norms, one block a line, as a file of comma-separated values."""
        text = StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for block, (norms, *_) in self.norms.maps.items():
            ends = (f"{float(each):.6g}" for each in (norms.min(), norms.median(), norms.max()))
            artifacts = int(self.norms.artifacts[block][0].sum())
            lines.writerow([self.norms.photos[0].source, block, norms.numel(), *ends, artifacts])
        return text.getvalue().encode("utf-8", "backslashreplace")
