"""What an owner does to the images before they reach its ViT, seen on images whose pixels are their own coordinates."""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..access import Adapter, TokenLayout
from ..geometry import View
from .inputs import Inputs
from .place import WHOLE, Place
from .stem import at_stem, axes_of

BORDER = 3  # pixels at an edge, where a resize bends a ramp
MISFIT = 0.5  # pixels of the given image that a place may lie off


@dataclass(frozen=True)
class Axis:
    """The pixels that reach the ViT along one axis: number c, as edges count, lies at `step * c + start` of the given
    image; counted from the other end where they are turned round."""

    step: float
    start: float
    turned: bool


def seen_place(adapter: Adapter, inputs: Inputs) -> Place:
    """How the images that reach the ViT lie on those that are given; `WHOLE` also where ramps do not come through.

    Four images: of a low value, of a high one, and growing from one to the other across and down.
    """
    image = inputs.images[:1]
    if image.dim() != 4 or axes_of(adapter, 4) != [2, 3]:
        return WHOLE
    half = image.std() if image.std() > 0 else torch.ones_like(image.std())
    low, high = image.mean() - half, image.mean() + half  # where an owner that clamps values lets them pass
    height, width = image.shape[2:]
    across = (torch.arange(width, device=image.device) + 0.5) / width
    down = ((torch.arange(height, device=image.device) + 0.5) / height)[:, None]
    levels = (across.new_zeros(()), across.new_ones(()), across, down)
    ramps = torch.cat([low + (high - low) * level.to(image).expand_as(image) for level in levels])
    copies = inputs.copies(4)
    tap = at_stem(adapter, replace(copies, images=ramps))
    if tap.pixels is None or tap.pixels.dim() != 4 or len(tap.pixels) != 4:
        return WHOLE
    return _place(tap.pixels.double().cpu(), (width, height), tap.layout)


def _place(pixels: Tensor, size: tuple[int, int], layout: TokenLayout) -> Place:
    """From what became of the four images, (4, C, H, W)."""
    span = pixels[1] - pixels[0]
    shown = (span.abs() > 1e-6 * span.abs().max()).all(0)  # (H, W); what is the same for black and white is padding
    if not shown.any() or not torch.isfinite(pixels).all():
        return WHOLE
    own = pixels.shape[3], pixels.shape[2]
    across = _axis(((pixels[2] - pixels[0]) / span)[:, shown.any(1)].mean((0, 1)) * size[0], shown.any(0), size[0])
    down = _axis(((pixels[3] - pixels[0]) / span)[..., shown.any(0)].mean((0, 2)) * size[1], shown.any(1), size[1])
    if across is None or down is None or not _straight(pixels, span, shown, (across, down), size):
        return WHOLE
    order = _order(layout, (down.turned, across.turned))
    if all(_is_whole(axis, count, side) for axis, count, side in zip((across, down), own, size, strict=True)):
        return Place(None, order, layout.image_size)
    scale = 1 / across.step, 1 / down.step
    offset = across.start * scale[0], down.start * scale[1]
    ends = across.start + across.step * own[0], down.start + down.step * own[1]
    left, top = max(across.start, 0.0), max(down.start, 0.0)
    window = left, top, min(ends[0], float(size[0])), min(ends[1], float(size[1]))
    return Place(View(size, own, scale, offset, window), order, layout.image_size)


def _axis(places: Tensor, shown: Tensor, side: int) -> Axis | None:
    """The straight line through the places of pixels, without those at the edges; None if it is none."""
    count = len(places)
    at = (torch.arange(count) + 0.5).double()
    inner = shown.nonzero().flatten()
    border = min(BORDER, (len(inner) - 2) // 2)
    inner = inner[border : len(inner) - border] if border > 0 else inner
    if len(inner) < 2:
        return None
    x, y = at[inner], places[inner]
    step = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    start = float(y.mean() - step * x.mean())
    if not abs(step) * count > 1 or float((step * x + start - y).abs().max()) > MISFIT:
        return None
    turned = step < 0
    if turned:
        step, start = -step, step * count + start
    if max(abs(start), abs(start + step * count - side)) <= max(MISFIT, 0.6 * step):  # of nearest pixels
        step, start = side / count, 0.0
    elif abs(step - 1) * count < 0.1:  # neither enlarged nor made smaller
        step, start = 1.0, start + (step - 1) * count / 2
        start = float(round(start)) if abs(start - round(start)) < 0.1 else start
    return Axis(round(step, 6), round(start, 4), turned)  # so that a pixel's centre at an edge is not lost


def _straight(pixels: Tensor, span: Tensor, shown: Tensor, axes: tuple[Axis, Axis], size: tuple[int, int]) -> bool:
    """Whether every pixel that is shown lies in the crossing of the two lines, and every other outside the image."""
    for axis, level, side in zip(axes, (pixels[2], pixels[3]), size, strict=True):
        across = axis is axes[0]
        count = shown.shape[1] if across else shown.shape[0]
        places = axis.start + axis.step * (torch.arange(count) + 0.5).double()
        places = places.flip(0) if axis.turned else places
        inside = (places > 0) & (places < side)
        lines = shown.any(0) if across else shown.any(1)
        if int((inside != lines).sum()) > 2:
            return False  # something else than the image's end is left out
        seen = (level - pixels[0]) / span * side
        off = (seen - (places if across else places[:, None])).abs()[:, shown]
        if float(off.median()) > MISFIT:
            return False
    return bool(shown[shown.any(1)][:, shown.any(0)].all())


def _is_whole(axis: Axis, count: int, side: int) -> bool:
    return abs(axis.start) < MISFIT and abs(axis.start + axis.step * count - side) < MISFIT


def _order(layout: TokenLayout, turned: tuple[bool, bool]) -> Tensor | None:
    """Where tokens stand, from the one at the image's upper left corner on, if the ViT sees the image turned round."""
    if not any(turned):
        return layout.order
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    patches = order[layout.prefix :].view(layout.grid)
    patches = patches.flip([axis for axis, is_turned in enumerate(turned) if is_turned])
    return torch.cat([order[: layout.prefix], patches.reshape(prod(layout.grid))])
