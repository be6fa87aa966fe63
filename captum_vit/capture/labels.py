"""Which token each pixel goes into: the grid of a model that nobody has described.

From one forward up to the first attention and three ways back: for the sum over tokens r of `c(r) <u, v_r>` with a
random u, the gradient at a pixel is that of its token, times c. So its ratio for c(r) = r and c = 1 is the token's
number, and c(r) = r^2 shows whether several tokens read the pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..access import Grid
from ..errors import UnsupportedModelError

DIRECTIONS = 6  # in which the values are looked at where each token is asked by itself
TRIES = 3  # directions for all tokens together: in one, a pixel of a large grey volume may weigh next to nothing
CERTAIN = 0.1  # of a token's number, up to which a ratio counts as it


@dataclass(frozen=True)
class Patches:
    """Where the patches are: their grid, sides in pixels, the first pixel, and the token of each, row by row."""

    grid: Grid
    patch: tuple[float, ...]
    start: tuple[int, ...]
    tokens: Tensor


def patches_of(values: Tensor, images: Tensor, kind: str) -> Patches:
    """The patches, from the values (1, H, N, d) of the first attention and the image (1, C, *size) they come from.

    Where each pixel goes into one token, they are the pixels of each. Where patches overlap, the image is resized on
    the way or normalised as a whole, they are the cells around the centre of what each token reads.

    Raises:
        UnsupportedModelError: the tokens lie on no grid of equal cells.
    """
    labels = _labels(values, images)
    if not (labels != -1).any():
        raise UnsupportedModelError(f"where the tokens of {kind} lie is not known: no gradient reaches the image")
    found = None if (labels == -2).any() else _of_pixels(labels)
    found = found or _of_centres(values, images)
    if found is None:
        raise UnsupportedModelError(
            f"where the tokens of {kind} lie on the image is not known: what they read of it is no grid of equal "
            f"cells, as where tokens meet before the first attention"
        )
    return found


def _of_pixels(labels: Tensor) -> Patches | None:
    """From the token of each pixel; None unless they are a grid of equal rectangles."""
    known = labels >= 0
    boxes = _boxes(labels)
    axes = [sorted({(box[0][axis], box[1][axis]) for box in boxes.values()}) for axis in range(labels.dim())]
    grid = tuple(map(len, axes))
    filled = sum(prod(stop - first for first, stop in zip(*box, strict=True)) for box in boxes.values())
    if prod(grid) != len(boxes) or filled != int(known.sum()):
        return None
    starts, patch = [], []
    for cells in axes:
        side = max(stop - first for first, stop in cells)  # the first and the last may reach over the image's edge
        start = cells[0][1] - side
        if any(first != max(start + i * side, cells[0][0]) for i, (first, _) in enumerate(cells)):
            return None
        if any(stop != start + (i + 1) * side for i, (_, stop) in enumerate(cells[:-1])):
            return None
        starts.append(start)
        patch.append(float(side))
    by_place = sorted(boxes, key=lambda token: boxes[token][0])
    return Patches(grid, tuple(patch), tuple(starts), torch.tensor(by_place))


def _of_centres(values: Tensor, images: Tensor) -> Patches | None:
    """From the centre of what each token reads; None unless centres are a grid."""
    centres = _centres(values, images)  # (tokens, axes); NaN for those that read nothing
    tokens = (~centres.isnan().any(1)).nonzero().flatten()
    size = images.shape[2:]
    for grid in _grids(len(tokens), len(size)):
        found = [_lines(centres[tokens, axis], grid[axis], side) for axis, side in enumerate(size)]
        axes = [axis for axis in found if axis is not None]
        if len(axes) < len(grid):
            continue
        order = torch.zeros(len(tokens), dtype=torch.long)
        for (index, _), cells in zip(axes, grid, strict=True):
            order = order * cells + index
        if len(order.unique()) == len(tokens):
            return Patches(grid, tuple(patch for _, patch in axes), tuple(0 for _ in grid), tokens[order.argsort()])
    return None


def _lines(places: Tensor, cells: int, side: int) -> tuple[Tensor, float] | None:
    """Along one axis, in which of so many lines of equally many tokens each is, and how far apart lines are; None if
    they are not apart."""
    if cells == 1:
        return torch.zeros(len(places), dtype=torch.long), float(side)
    lines = places.sort().values.view(cells, -1)
    gaps = lines[1:, 0] - lines[:-1, -1]
    if not gaps.min() > (lines[:, -1] - lines[:, 0]).max():
        return None
    pitch = float(lines.mean(1).diff().median())
    if pitch < 1 or lines.mean(1).diff().min() < pitch / 4:  # as of any places at all, where each line has one token
        return None
    index = places.argsort().argsort() // lines.shape[1]
    whole = abs(pitch * cells - side) < pitch
    return index, side / cells if whole else float(round(pitch))


def _grids(count: int, axes: int) -> Iterator[Grid]:
    """Grids of so many cells, squares first."""
    if axes == 1:
        yield (count,)
        return
    firsts = [n for n in range(1, count + 1) if count % n == 0]
    for first in sorted(firsts, key=lambda n: abs(n - count ** (1 / axes))):
        for rest in _grids(count // first, axes - 1):
            yield (first, *rest)


def _centres(values: Tensor, images: Tensor) -> Tensor:
    """Mean place of the pixels that each token reads most, in pixels as edges count."""
    draw = torch.Generator().manual_seed(0)
    shape, count = images.shape[2:], values.shape[2]
    axes = [(torch.arange(side) + 0.5).double() for side in shape]
    directions = [torch.randn(values.shape[1], 1, values.shape[3], generator=draw) for _ in range(DIRECTIONS)]
    each = [(values[0] * direction.to(values)).sum((0, 2)) for direction in directions]
    strongest = torch.zeros(count, dtype=torch.float64)
    places = torch.full((count, len(shape)), torch.nan, dtype=torch.float64)
    for token in range(count):  # one after another: all of a volume at once would take gigabytes
        energy = torch.zeros(shape, dtype=torch.float64)
        for of_tokens in each:
            (gradient,) = torch.autograd.grad(of_tokens[token], images, retain_graph=True, allow_unused=True)
            if gradient is not None:
                energy += gradient[0].double().square().sum(0).cpu()
        strongest[token] = energy.max()
        energy = torch.where(energy > 0.02 * strongest[token], energy.sqrt(), 0)
        for axis, place in enumerate(axes):
            others = [other for other in range(len(shape)) if other != axis]
            along = energy.sum(others) if others else energy
            places[token, axis] = (along * place).sum() / energy.sum()
    places[strongest < 1e-9 * strongest.max()] = torch.nan
    return places


def _labels(values: Tensor, images: Tensor) -> Tensor:
    """Of each pixel the token that it goes into; -1 where it goes into none, -2 where into several."""
    draw, kept = torch.Generator().manual_seed(0), []
    found = torch.empty(0)
    for _ in range(TRIES):
        direction = torch.randn(values.shape[1], 1, values.shape[3], generator=draw).to(values)
        kept.append(_three_ways((values * direction).sum((0, 1, 3)), images))
        found = _named(torch.cat(kept, 1), values.shape[2])
        if not (found == -2).any():
            break
    return found


def _three_ways(each: Tensor, images: Tensor) -> Tensor:
    """Gradients of the sum over tokens, of that by their numbers, and by the squares of these, (3, C, *size)."""
    number = (torch.arange(len(each), device=each.device) / len(each)).to(each)
    gradients = []
    for weights in (torch.ones_like(number), number, number.square()):
        (gradient,) = torch.autograd.grad((each * weights).sum(), images, retain_graph=True, allow_unused=True)
        gradients.append(torch.zeros_like(images[0]) if gradient is None else gradient[0].double())
    return torch.stack(gradients)


def _named(gradients: Tensor, count: int) -> Tensor:
    """What `_labels` gives, by the channel and the direction that tell most of each pixel."""
    one, first, second = gradients
    strongest = one.abs().argmax(0, keepdim=True)
    one, first, second = (gradient.gather(0, strongest)[0] for gradient in (one, first, second))
    largest = one.abs().max()
    seen = one.abs() > 1e-9 * largest
    ratio = torch.where(seen, first / torch.where(seen, one, 1), 0)
    square = torch.where(seen, second / torch.where(seen, one, 1), 0)
    label = (ratio * count).round()
    certain = ((ratio * count - label).abs() < CERTAIN) & ((square - ratio.square()).abs() * count < CERTAIN)
    certain &= (label >= 0) & (label < count)
    return torch.where(seen & certain, label, torch.where(seen, -2.0, -1.0)).long().cpu()


def _boxes(labels: Tensor) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each token its first pixel and the one after the last, along each axis."""
    places = (labels >= 0).nonzero()  # (pixels, axes)
    tokens, index = labels[labels >= 0].unique(return_inverse=True)
    ends = [
        torch.zeros(len(tokens), places.shape[1], dtype=places.dtype).scatter_reduce(
            0, index[:, None].expand_as(places), places, end, include_self=False
        )
        for end in ("amin", "amax")
    ]
    firsts, lasts = ends[0].tolist(), (ends[1] + 1).tolist()
    return {int(t): (tuple(a), tuple(b)) for t, a, b in zip(tokens, firsts, lasts, strict=True)}
