"""From the tokens of a stream, and from pixels, to the patches of a map."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import TokenLayout
from ..access.tokens import ENLARGING

EMBEDDED = "embedding"  # what a run calls the stream before the first block


def patch_tokens(stream: Tensor, layout: TokenLayout, name: str) -> Tensor | None:
    """The patches' tokens of a stream (N, tokens, D) in reading order, (N, *grid, D), on the stream's own grid.

    It is coarser than that of the maps where patches were pooled. None of a stream of prefix tokens alone.
    """
    grid = layout.grids.get(name, layout.grid)
    if name == EMBEDDED and layout.grids:
        grid = next(iter(layout.grids.values()))
    count = prod(grid)
    if stream.shape[1] < count:
        return None
    if layout.order is not None and grid == layout.grid:
        order = layout.order[layout.prefix :]
        order = order if stream.shape[1] == layout.tokens else order.argsort().argsort()
        patches = stream[:, order.to(stream.device)]
    else:
        patches = stream[:, -count:]
    return patches.unflatten(1, grid)


def of_patches(evidence: Tensor, layout: TokenLayout, name: str) -> Tensor:
    """What belongs to the patches on the grid of the maps, (N, patches), out of a stream's tokens, (N, tokens).

    A stream of prefix tokens alone has none. Where patches were pooled, each of the finer ones gets an equal part.
    """
    found = patch_tokens(evidence[..., None], layout, name)
    if found is None:
        return evidence.new_zeros(len(evidence), prod(layout.grid))
    grid = tuple(found.shape[1:-1])
    if grid == layout.grid:
        return found.flatten(1)
    fine = F.interpolate(found[..., 0].unsqueeze(1), layout.grid, mode=ENLARGING[len(grid)], align_corners=False)
    return fine.flatten(1) * (prod(grid) / prod(layout.grid))


def patch_of_pixels(layout: TokenLayout, size: Sequence[int]) -> Tensor:
    """The patch that holds the centre of each pixel of an image, (H, W), counted in reading order; -1 where none does.

    size: (H, W) of the images that the model is given.
    """
    numbers = torch.arange(prod(layout.grid)).view(layout.grid)
    if layout.view is not None:
        height, width = (round(cells * patch) for cells, patch in zip(layout.grid, layout.patch, strict=True))
        placed = layout.view.cropped(0, 0, width, height).place(numbers, smooth=False)
        return torch.from_numpy(np.nan_to_num(placed, nan=-1.0)).round().long()
    seen = layout.image_size or size
    rows, columns = (
        ((torch.arange(side) + 0.5) * shown / side / patch).floor().long()
        for side, shown, patch in zip(size, seen, layout.patch, strict=True)
    )
    inside = (rows < layout.grid[0])[:, None] & (columns < layout.grid[1])
    found = rows[:, None] * layout.grid[1] + columns
    return found.where(inside, -1)


def mean_of_patches(pixels: Tensor, patches: Tensor, count: int) -> Tensor:
    """The mean over the pixels of each patch, (..., count), of values (..., H, W).

    patches: as `patch_of_pixels` has them, at least one pixel for each.
    """
    inside = patches.flatten() >= 0
    where, values = patches.flatten()[inside].to(pixels.device), pixels.flatten(-2)[..., inside.to(pixels.device)]
    sums = values.new_zeros(*values.shape[:-1], count).index_add_(-1, where, values)
    return sums / torch.bincount(where, minlength=count)


def enlarged(channels: Tensor, layout: TokenLayout, size: Sequence[int], *, corners: bool) -> Tensor:
    """Channels (D, rows, cols) over the patches, bilinear over the pixels of an image, (D, H, W).

    What no patch covers has the lowest value of its channel.

    Args:
        channels: of any grid that lies on the patches.
        layout: where these lie.
        size: (H, W) of the images that the model is given.
        corners: whether the centres of the outermost cells lie at the edges.
    """
    seen = size if layout.view is not None else layout.image_size or size
    sides = (1.0, 1.0) if layout.view is not None else [side / shown for side, shown in zip(size, seen, strict=True)]
    height, width = (
        round(cells * patch * side) for cells, patch, side in zip(layout.grid, layout.patch, sides, strict=True)
    )
    large = F.interpolate(channels[None], (height, width), mode="bilinear", align_corners=corners)[0]
    lowest = large.flatten(1).amin(1)[:, None, None]
    if layout.view is None:
        right, below = size[1] - width, size[0] - height
        return F.pad(large - lowest, (0, right, 0, below)) + lowest
    view = layout.view.cropped(0, 0, width, height)
    placed = torch.from_numpy(np.stack([view.place(each) for each in large])).to(large)
    return placed.where(~placed.isnan(), lowest)
