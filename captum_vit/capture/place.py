"""Where the tokens of a model lie on the images that it is given, as far as that was measured."""

from dataclasses import dataclass

from torch import Tensor

from ..access import Grid
from ..geometry import View


@dataclass(frozen=True)
class Place:
    """How the images that reach a ViT lie on those that its owner is given, and how its tokens lie on them.

    view: of the images, where they are cropped or padded on the way; None where the whole image arrives.
    order: of the tokens, as in `TokenLayout`; None where they stand as the adapter says.
    size: (height, width) of the images that reach the ViT; None where that is the size of those that are given.
    """

    view: View | None = None
    order: Tensor | None = None
    size: Grid | None = None


WHOLE = Place()
