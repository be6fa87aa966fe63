"""Maps of several grids on one: those of a model of any architecture lie where each method reads it."""

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor

from ..access import TokenLayout
from ..access.tokens import ENLARGING
from ..errors import OptionError

SAME = 1e-6  # of a side


def finest(layouts: Sequence[TokenLayout], size: Sequence[int]) -> TokenLayout:
    """The layout with the most cells, onto which maps of the others can be enlarged.

    Args:
        layouts: where the maps of each method lie.
        size: (height, width) of the model's input, which a layout lies on that says nothing else.
    Raises:
        OptionError: they lie on different parts of the image.
    """
    found = max(layouts, key=lambda layout: prod(layout.grid))
    for layout in layouts:
        sides = [
            [cells * patch for cells, patch in zip(each.grid, each.patch, strict=True)] for each in (layout, found)
        ]
        apart = any(abs(a - b) > SAME * b for a, b in zip(*sides, strict=True))
        seen = {tuple(each.image_size or size) for each in (layout, found)}
        if apart or layout.view != found.view or len(seen) > 1:
            raise OptionError(
                f"maps of {_told(layout)} and {_told(found)} cells lie on different parts of the image: ask for their "
                f"methods one by one, or for images whose sides the model's strides divide"
            )
    return found


def placed(flow: Tensor, layout: TokenLayout) -> Tensor:
    """A flow (N, layers, *grid) on the grid of this layout: bilinear, as a map is enlarged over pixels."""
    if tuple(flow.shape[2:]) == layout.grid:
        return flow
    return F.interpolate(flow, layout.grid, mode=ENLARGING[len(layout.grid)], align_corners=False)


def _told(layout: TokenLayout) -> str:
    return "x".join(map(str, layout.grid))
