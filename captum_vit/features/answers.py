"""The patch tokens of images, and what can be asked of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..attr.patches import EMBEDDED
from ..errors import OptionError, brief, nearest
from .lens import Lens
from .norms import Norms
from .patches import PatchTokens
from .pca import PCA
from .similarity import Similarity

Block = str | int


@dataclass(frozen=True, eq=False)
class Tokens:
    """The patch tokens of one or several images, after each block of a model.

    >>> tokens.features(-1)[0].shape  # of the first image after the last block, (rows, cols, D)
    torch.Size([14, 14, 768])

    Class tokens and registers are left out. A block is named by its attention layer, or by its number, -1 being the
    last; "embedding" is before the first.

    photos: of each image its photograph and its tokens.
    blocks: "embedding", then each block by the name of its attention layer, then other modules that were asked for.
    model: its name.  class_names: number -> name.  notes: what a user should know of the model.
    """

    photos: tuple[PatchTokens, ...]
    blocks: tuple[str, ...]
    model: str = ""
    class_names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def features(self, block: Block = -1) -> tuple[Tensor, ...]:
        """The tokens after a block, of each image (*grid, D)."""
        name = self.block(block)
        return tuple(photo.features[name] for photo in self.photos)

    def pca(self, block: Block = -1, *, foreground: bool = False) -> PCA:
        """The first three principal components of the tokens of all images, as colours.

        >>> tokens.pca(foreground=True).plot()

        Args:
            block: after which block.
            foreground: leave out the background, as DINOv2's authors show it: one side of the first component of all
                patches, the side that has fewer of those at the edges of the images.
        Raises:
            OptionError: no such block.
            InputError: hardly a token is left.
        """
        return PCA.of(self.photos, self.block(block), foreground=foreground)

    def similarity(
        self,
        patch: Sequence[int] | None = None,
        *,
        pixel: Sequence[float] | None = None,
        image: int = 0,
        block: Block = -1,
    ) -> Similarity:
        """How alike a patch is to all patches of all images, by the cosine of their tokens.

        >>> tokens.similarity(pixel=(320, 200)).maps[0].shape  # of the first image
        torch.Size([14, 14])

        Args:
            patch: its (row, column); of a video or a volume (frame or slice, row, column).
            pixel: instead of it a pixel (x, y) of the original photograph that lies in it.
            image: the number of the image that it is of.
            block: after which block.
        Raises:
            OptionError: no such patch, image or block.
            InputError: the model sees nothing at that pixel.
        """
        return Similarity.of(self.photos, self.block(block), patch, pixel, image)

    def norms(self, block: Block | None = None) -> Norms:
        """The norms of the tokens after each block, or one, and the artifacts among them.

        >>> tokens.norms().scores.shape  # (blocks, images): the share of the patches that are artifacts
        torch.Size([2, 1])
        """
        return Norms.of(self.photos, self.blocks if block is None else [self.block(block)])

    def lens(self, block: Block | None = None) -> Lens:
        """What each patch would be called after each block, or one; asked for by `lens=True` when tokens are read.

        >>> captum_vit.tokens("photo.jpg", "timm/vit_base_patch16_224", lens=True).lens().plot()

        Raises:
            OptionError: it was not asked for, or no such block.
        """
        kept = list(self.photos[0].called)
        if not kept:
            raise OptionError("what patches would be called was not kept: pass lens=True to tokens()")
        asked = kept if block is None else [self.block(block)]
        if asked[0] not in kept:
            raise OptionError(f"the head reads tokens after a block, and not after {asked[0]!r}")
        shares = {name: tuple(photo.called[name] for photo in self.photos) for name in asked}
        return Lens(self.photos, shares, self.class_names)

    def block(self, block: Block) -> str:
        """The name of a block in `blocks`.

        Raises:
            OptionError: there is none.
        """
        if isinstance(block, int) and not isinstance(block, bool):
            numbered = [name for name in self.blocks if name != EMBEDDED]
            if -len(numbered) <= block < len(numbered):
                return numbered[block]
        elif isinstance(block, str):
            found = [name for name in self.blocks if name == block or name.startswith(f"{block}.")]
            if len(found) == 1 or block in found:
                return block if block in found else found[0]
        raise OptionError(
            f"no tokens were kept after {brief(block)}; there are {', '.join(self.blocks)}"
            f"{nearest(str(block), list(self.blocks))}"
        )

    def reduced(self, side: int) -> "Tokens":
        """The same on copies of the photographs with no side longer than `side` pixels; smaller ones stay as they are.

        Pixels are then those of the copies.
        """
        return replace(self, photos=tuple(photo.reduced(side) for photo in self.photos))

    def __len__(self) -> int:
        return len(self.photos)

    def __repr__(self) -> str:
        last = self.photos[0].features[self.blocks[-1]]
        count, grid = len(self), "x".join(map(str, last.shape[:-1]))
        return (
            f"Tokens({count} image{'s' * (count != 1)}, {self.model or 'model'}: {len(self.blocks)} places, after the "
            f"last of them {grid} patches of {last.shape[-1]} channels)"
        )
