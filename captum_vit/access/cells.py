"""Where in what a module gives the cells of a grid over the image are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from ..errors import UnsupportedModelError
from .tokens import PATCHES, Grid, TokenLayout

SQUARE = 4 / 3  # how many times a cell may be longer one way than the other


@dataclass(frozen=True)
class Cells:
    """The cells of a grid in a tensor of a module.

    >>> from captum_vit.access.cells import Cells
    >>> cells = Cells((2, 3), (1,))  # of tokens in one row
    >>> cells.tokens(torch.zeros(5, 6, 8)).shape
    torch.Size([5, 6, 8])
    >>> Cells((2, 3), (2, 3)).tokens(torch.zeros(5, 8, 2, 3)).shape  # of channels that come first
    torch.Size([5, 6, 8])

    grid: (rows, columns); of volumes (slices, rows, columns).
    axes: those of the grid in the tensor, or the one in which all cells stand in reading order.
    """

    grid: Grid
    axes: tuple[int, ...]

    def tokens(self, values: Tensor) -> Tensor:
        """The cells in reading order, with all that each holds, (N, cells, channels)."""
        there = values.movedim(self.axes, tuple(range(1, len(self.axes) + 1))).flatten(1, len(self.axes))
        return there.flatten(2) if there.dim() > 2 else there.unsqueeze(2)

    def layout(self, sides: Sequence[int]) -> TokenLayout:
        """Where the cells lie on images of these sides.

        They cover the image, but for a margin behind the last of them that is smaller than a cell: no cell sees it.
        """
        steps = [max(1, round(side / count)) for side, count in zip(sides, self.grid, strict=True)]
        left = [side - count * step for side, count, step in zip(sides, self.grid, steps, strict=True)]
        margins = [margin if 0 <= margin < step else 0 for margin, step in zip(left, steps, strict=True)]
        covered = [side - margin for side, margin in zip(sides, margins, strict=True)]
        patch = tuple(part / count for part, count in zip(covered, self.grid, strict=True))
        return TokenLayout(self.grid, 0, patch, readout=PATCHES)


def cells_in(values: Tensor, images: Tensor, name: str, *, channels_first: bool = False) -> Cells:
    """The cells in what a module gives, of images (N, C, H, W) or volumes (N, C, D, H, W).

    Args:
        values: (N, C, *grid), (N, *grid, C), or (N, cells, C).
        images: those that it was given.
        name: of the module.
        channels_first: whether it is known to give (N, C, *grid), as a convolution does.
    Raises:
        UnsupportedModelError: there is no grid in it, or which axes it has is not clear.
    """
    sides = tuple(images.shape[2:])
    found = list(_possible(values, sides, channels_first)) if len(values) == len(images) else []
    if len(found) > 1:  # of a volume, whose slices may be of any thickness: as thick as the others are wide
        found = [cells for cells in found if fits(cells.grid, sides, even=True)] or found
    if len(found) == 1:
        return found[0]
    several = "two pairs of axes may be" if values.dim() == len(sides) + 2 else "several numbers may be those of"
    raise UnsupportedModelError(
        f"{name} gives {tuple(values.shape)} for images {tuple(images.shape)}, in which "
        f"{several if found else 'there are no'} rows and columns of cells of each image: layer= takes a convolution, "
        f"or a module that gives (N, C, rows, cols), (N, rows, cols, C) or (N, rows * cols, C)"
    )


def _possible(values: Tensor, sides: Grid, channels_first: bool) -> Iterator[Cells]:
    count = len(sides)
    if values.dim() == count + 2:
        last = tuple(range(2, count + 2))
        for axes in [last] if channels_first else [last, tuple(range(1, count + 1))]:
            grid = tuple(values.shape[axis] for axis in axes)
            if channels_first or fits(grid, sides):
                yield Cells(grid, axes)
    elif values.dim() == 3 and not channels_first:
        grids = [grid for grid in _grids(values.shape[1], count) if fits(grid, sides)]
        even = [grid for grid in grids if all(side % cells == 0 for side, cells in zip(sides, grid, strict=True))]
        for grid in even or grids:
            yield Cells(grid, (1,))


def fits(grid: Sequence[int], sides: Sequence[int], *, even: bool = False) -> bool:
    """Whether cells of one size, about as high as wide, cover an image; slices of a volume may be of any thickness.

    even: whether these have to be about as thick, too.
    """
    if 0 in grid:
        return False
    lengths = [side / cells for side, cells in zip(sides, grid, strict=True)]
    across = lengths if even else lengths[-2:]
    return min(lengths) > 0.99 and max(across) < SQUARE * min(across)


def _grids(cells: int, dimensions: int) -> Iterator[Grid]:
    """All grids of so many cells, of which there are several."""
    if dimensions == 1:
        yield (cells,)
        return
    for length in range(1, cells + 1):
        if cells % length == 0:
            yield from ((length, *rest) for rest in _grids(cells // length, dimensions - 1) if prod(rest) > 0)
