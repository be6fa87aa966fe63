"""Which pixels cells of the stem answer to, and whether these are the ones that lie under them."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..access.any_model import CONVOLUTIONS, AnyModel
from ..access.cells import Cells
from .cells import KEEP
from .forward import run_forward
from .inputs import Inputs
from .taps import ForwardTap
from .untouched import untouched

Span = tuple[float, float]  # of pixels along an axis, from the one to before the other
PART = 0.1  # of what the row of pixels does that counts most: less comes of what looks at the whole image first
PIXELS = 2  # by which a span may seem wider, since a model may resize its images


def sees_its_place(
    adapter: AnyModel, inputs: Inputs, module: nn.Module, cells: Cells, places: list[tuple[int, ...]]
) -> bool | None:
    """Whether cells of the stem answer to pixels that lie under them alone; None where no gradient reaches the pixels.

    Args:
        adapter, inputs: the model, and one image.
        module: the stem.
        cells: those that it gives.
        places: of the cells that are looked at.
    """
    gave: list[tuple[Tensor, Tensor]] = []

    def listen(tap: ForwardTap, stack: ExitStack) -> None:
        def after(module: nn.Module, args: tuple, output: Any) -> None:
            if tap.active and args and isinstance(args[0], Tensor):
                gave.append((args[0], output.clone()))  # which may be written to later on

        stack.callback(module.register_forward_hook(after).remove)

    with untouched(adapter):
        forward = run_forward(adapter, inputs, None, KEEP, graph=True, pixels=True, also=listen)
        images = forward.images
        if images is None or len(gave) != 1 or not gave[0][1].requires_grad:
            return None
        given, output = gave[0]
        with torch.enable_grad(), forward.holding(False):
            held = cells.tokens(output)[0]
            weights = torch.randn(held.shape[1], generator=torch.Generator().manual_seed(0)).to(held)
            for place in places:
                score = held.view(*cells.grid, -1)[place] @ weights
                (gradient,) = torch.autograd.grad(score, images, retain_graph=True, allow_unused=True)
                if gradient is None or not gradient.any():
                    return None
                sides = images.shape[2:]
                for axis, at in enumerate(place):
                    low, high = _under(module, given, cells, sides, axis, at)
                    first, last = _seen(gradient[0], axis)
                    if first < low or last > high:
                        return False
    return True


def _seen(gradient: Tensor, axis: int) -> Span:
    """The pixels along an axis that a gradient (C, *sides) lies on."""
    profile = gradient.abs().sum([each for each in range(gradient.dim()) if each != axis + 1])
    rows = (profile > PART * profile.max()).nonzero()
    return int(rows[0]), int(rows[-1]) + 1


def _under(module: nn.Module, given: Tensor, cells: Cells, sides: torch.Size, axis: int, at: int) -> Span:
    """The pixels along an axis that a cell may answer to, with some to spare on both sides."""
    side, count = sides[axis], cells.grid[axis]
    if not isinstance(module, CONVOLUTIONS):
        cell = cells.layout(sides).patch[axis]
        return (at - 0.5) * cell - PIXELS, (at + 1.5) * cell + PIXELS
    scale = side / given.shape[2 + axis]  # of images that are resized before
    step, wide = module.stride[axis], module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
    before = wide // 2 if module.padding == "same" else 0 if module.padding == "valid" else int(module.padding[axis])
    start = (at * step - before) * scale
    spare = side / count / 4 + PIXELS * max(1.0, scale)
    return start - spare, start + wide * scale + spare
