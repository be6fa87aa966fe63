"""From the tokens of a stream to the patches of a map."""

from math import prod

import torch.nn.functional as F
from torch import Tensor

from ..access import TokenLayout
from ..access.tokens import ENLARGING

EMBEDDED = "embedding"  # what a run calls the stream before the first block


def of_patches(evidence: Tensor, layout: TokenLayout, name: str) -> Tensor:
    """What belongs to the patches on the grid of the maps, (N, patches), out of a stream's tokens, (N, tokens).

    A stream of prefix tokens alone has none. Where patches were pooled, each of the finer ones gets an equal part.
    """
    grid = layout.grids.get(name, layout.grid)
    if name == EMBEDDED and layout.grids:
        grid = next(iter(layout.grids.values()))
    count = prod(grid)
    if evidence.shape[1] < count:
        return evidence.new_zeros(len(evidence), prod(layout.grid))
    if layout.order is not None and grid == layout.grid:
        order = layout.order[layout.prefix :]
        order = order if evidence.shape[1] == layout.tokens else order.argsort().argsort()
        patches = evidence[:, order.to(evidence.device)]
    else:
        patches = evidence[:, -count:]
    if grid == layout.grid:
        return patches
    coarse = patches.reshape(len(patches), 1, *grid)
    fine = F.interpolate(coarse, layout.grid, mode=ENLARGING[len(grid)], align_corners=False)
    return fine.flatten(1) * (count / prod(layout.grid))
