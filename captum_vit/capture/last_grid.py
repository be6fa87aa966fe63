"""The last place in a model of any architecture where there is still a grid of cells over the image."""

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..access.any_model import AnyModel
from ..errors import UnsupportedModelError
from .cell_checks import holds_all
from .cells import KEEP, cells_of
from .forward import run_forward
from .inputs import Inputs
from .stem import SEED
from .taps import ForwardTap
from .untouched import untouched

TRIES = 16  # places, from the last one backwards


@dataclass(frozen=True)
class _Gave:
    """What a module gave, when it had run."""

    name: str
    module: nn.Module
    output: Tensor


def last_grid(adapter: AnyModel, inputs: Inputs) -> str:
    """The name of the module that is the last to give a grid of several cells through which the score knows the image.

    All that it knows comes through there, as through the last stage: a part of a block, which a skip connection leads
    past, is none. Of modules that give the very same tensor it is the outermost, as a stage and not its last
    activation. A module that runs several times is left out: it would be several places.

    >>> from captum_vit.access.any_model import AnyModel
    >>> from captum_vit.capture.last_grid import last_grid
    >>> body = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 4, 4), torch.nn.ReLU())
    >>> net = torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> last_grid(AnyModel(net), Inputs(torch.rand(1, 3, 32, 32)))
    '0'

    Args:
        adapter, inputs: the model, and one image.
    Raises:
        UnsupportedModelError: no module gives one.
    """
    gave: list[_Gave] = []
    names = {module: name for name, module in adapter.model.named_modules() if name}
    calls = dict.fromkeys(names, 0)

    def listen(tap: ForwardTap, stack: ExitStack) -> None:
        def after(module: nn.Module, args: tuple, output: Any) -> None:
            if tap.active:
                calls[module] += 1
                if _is_grid(output, inputs, names[module], module):
                    gave.append(_Gave(names[module], module, output))

        for module in names:
            stack.callback(module.register_forward_hook(after).remove)

    with untouched(adapter):
        forward = run_forward(adapter, inputs, None, KEEP, graph=True, pixels=True, also=listen)
        scores = forward.output.scores
        if scores.dim() > 2:
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} gives scores {tuple(scores.shape)} of pixels or cells, so that its "
                f"last grid is that of the scores themselves: name the module at which the map shall be, by layer="
            )
        weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(SEED)).to(scores)
        once = [each for each in gave if calls[each.module] == 1 and each.output.requires_grad]
        found: list[Tensor | None] = []
        if once:
            with torch.enable_grad(), forward.holding(False):
                outputs = [each.output for each in once]
                found = list(torch.autograd.grad((scores * weights).sum(), outputs, allow_unused=True))
    read = [each for each, gradient in zip(once, found, strict=True) if gradient is not None and bool(gradient.any())]
    outermost = list({id(each.output): each for each in read}.values())
    for each in outermost[: -TRIES - 1 : -1]:
        if holds_all(adapter, inputs, each.module, each.output, scores):
            return each.name
    raise UnsupportedModelError(
        f"no module of {type(adapter.model).__name__} gives a grid of cells through which all goes that the score "
        f"knows of the image: name the module at which the map shall be, by layer="
    )


def _is_grid(output: Any, inputs: Inputs, name: str, module: nn.Module) -> bool:
    try:
        return prod(cells_of(output, inputs.images, name, module).grid) > 1
    except UnsupportedModelError:
        return False
