"""Which token each pixel goes into: the grid of a model that nobody has described.

From one forward up to the first attention and three ways back: for the sum over tokens r of `c(r) <u, v_r>` with a
random u, the gradient at a pixel is that of its token, times c. So its ratio for c(r) = r and c = 1 is the token's
number, and c(r) = r^2 shows whether several tokens read the pixel.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..access import Grid
from ..errors import UnsupportedModelError

CERTAIN = 0.1  # of a token's number, up to which a ratio counts as it


@dataclass(frozen=True)
class Patches:
    """Where the patches are: their grid, sides in pixels, the first pixel, and the token of each, row by row."""

    grid: Grid
    patch: tuple[int, ...]
    start: tuple[int, ...]
    tokens: Tensor


def patches_of(values: Tensor, images: Tensor, kind: str) -> Patches:
    """The patches, from the values (1, H, N, d) of the first attention and the image (1, C, *size) they come from.

    Raises:
        UnsupportedModelError: pixels go into several tokens, or the patches are no grid of equal rectangles.
    """
    labels = _labels(values, images)
    known = labels >= 0
    if not known.any() or (labels == -2).float().mean() > 0:
        reason = (
            "each pixel reaches several tokens, as where patches overlap, the image is resized on the way, or tokens "
            "meet before"
            if (labels == -2).any()
            else "no gradient reaches the image"
        )
        raise UnsupportedModelError(
            f"where the tokens of {kind} lie on the image is not known: before its first attention {reason}"
        )
    boxes = {int(token): _box(labels == token) for token in labels[known].unique()}
    starts = [sorted({box[0][axis] for box in boxes.values()}) for axis in range(labels.dim())]
    grid = tuple(map(len, starts))
    sides = {tuple(stop - first for first, stop in zip(*box, strict=True)) for box in boxes.values()}
    filled = sum(prod(side) for side in sides) * len(boxes) == int(known.sum()) * len(sides)
    if prod(grid) != len(boxes) or len(sides) != 1 or not filled:
        raise UnsupportedModelError(
            f"the tokens of {kind} lie on no grid of equal patches: {len(boxes)} of them cover the image in pieces of "
            f"{', '.join('x'.join(map(str, side)) for side in sorted(sides)[:3])} pixels"
        )
    by_place = sorted(boxes, key=lambda token: boxes[token][0])
    return Patches(grid, next(iter(sides)), tuple(axis[0] for axis in starts), torch.tensor(by_place))


def _labels(values: Tensor, images: Tensor) -> Tensor:
    """Of each pixel the token that it goes into; -1 where it goes into none, -2 where into several."""
    count = values.shape[2]
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(values.shape[1], 1, values.shape[3], generator=draw).to(values)
    each = (values * direction).sum((0, 1, 3))  # (N,)
    number = (torch.arange(count, device=values.device) / count).to(values)
    gradients = []
    for weights in (torch.ones_like(number), number, number.square()):
        (gradient,) = torch.autograd.grad((each * weights).sum(), images, retain_graph=True, allow_unused=True)
        gradients.append(torch.zeros_like(images[0]) if gradient is None else gradient[0].double())
    one, first, second = gradients
    strongest = one.abs().argmax(0, keepdim=True)  # the channel that tells most
    one, first, second = (gradient.gather(0, strongest)[0] for gradient in (one, first, second))
    largest = one.abs().max()
    seen = one.abs() > 1e-9 * largest
    ratio = torch.where(seen, first / torch.where(seen, one, 1), 0)
    square = torch.where(seen, second / torch.where(seen, one, 1), 0)
    label = (ratio * count).round()
    certain = ((ratio * count - label).abs() < CERTAIN) & ((square - ratio.square()).abs() * count < CERTAIN)
    certain &= (label >= 0) & (label < count)
    return torch.where(seen & certain, label, torch.where(seen, -2.0, -1.0)).long().cpu()


def _box(mask: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First pixel and the one after the last, along each axis."""
    places = mask.nonzero()
    return tuple(places.amin(0).tolist()), tuple((places.amax(0) + 1).tolist())
