"""The tokens of one image's patches, after each block, and where they lie on its photograph."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from ..attr.patches import EMBEDDED
from ..figures.titles import block_names
from ..geometry import View


@dataclass(frozen=True, eq=False)
class PatchTokens:
    """One image's patch tokens.

    image: the original, upright, RGB.  view: how the model looked at it.  source: the name of the file.
    features: by block, (*grid, D), on the grid of that block's patches, in reading order, without class token and
    registers.
    called: by block, (*grid, classes), what the model's head makes of each token, in 0..1; where that was asked for.
    """

    image: Image.Image
    view: View
    source: str
    features: Mapping[str, Tensor]
    called: Mapping[str, Tensor] = field(default_factory=dict)

    def reduced(self, side: int) -> "PatchTokens":
        """The same on a copy of the photograph with no side longer than `side` pixels."""
        if max(self.image.size) <= side:
            return self
        image = self.image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return replace(self, image=image, view=self.view.of_copy(image.size))


def named(block: str) -> str:
    """Where tokens stand, in words: "after block 3" for blocks.3.attn.

    >>> from captum_vit.features.patches import named
    >>> named("blocks.3.attn"), named("embedding"), named("norm")
    ('after block 3', 'before the first block', 'after norm')
    """
    if block == EMBEDDED:
        return "before the first block"
    return f"after {block_names([block])[0]}"
