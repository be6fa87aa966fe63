"""The way back under rules to a grid of cells that a model of any architecture makes of its images.

A module's output is cut there: what comes before it is computed as it is, and what follows under the rules. So that
the cut holds all that the score knows of the image, the model is run on other images with the same cells once: its
score must be the same.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..access.any_model import AnyModel, grid_axes
from ..errors import UnsupportedModelError
from ..targets import Target
from .accounts import Account, told
from .forward import Forward, run_forward
from .inputs import Inputs
from .needs import OUTPUTS
from .rules import Rules, Ruling
from .stem import SEED
from .taps import ForwardTap, Keep
from .untouched import untouched

KEEP = Keep((), frozenset({OUTPUTS}), tail=True)
NEAR = 1e-3  # of the largest score, by which rules may round otherwise than the model
PARTS = ((1, 1), (1, 6), (6, 1), (4, 4))  # eighths of the rows and columns, at which it is seen where cells lie
OFF = 2  # cells by which a change may be largest elsewhere, since convolutions overlap


@dataclass(frozen=True)
class AtCells:
    """One forward under rules, with the cells that its graph begins at.

    >>> from captum_vit.access.any_model import AnyModel
    >>> net = AnyModel(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(), torch.nn.Flatten()))
    >>> with untouched(net):
    ...     found = at_cells(net, Inputs(torch.rand(1, 3, 32, 48)), cp_rules(), net.convolutions())
    >>> found.name, found.values.shape
    ('0', torch.Size([1, 8, 8, 12]))

    name: of the module that gives them.  values: (N, C, rows, cols), in the module's own order of axes; images where
    the graph begins at these.  axes: of rows and columns.
    """

    adapter: AnyModel
    inputs: Inputs
    name: str
    module: nn.Module | None
    values: Tensor
    axes: tuple[int, int]
    forward: Forward
    ruling: Ruling

    @property
    def scores(self) -> Tensor:
        """The model's."""
        return self.forward.output.scores

    def evidence(self, target: Target, *, retain: bool = False) -> Tensor:
        """Each number times its gradient, as `values`."""
        (gradient,) = self.forward.gradients(target, [self.values], retain=retain)
        if gradient is None:
            raise UnsupportedModelError(
                f"the score does not depend on {self.name} in {type(self.adapter.model).__name__}, or it is cut off "
                f"from it, as by .detach(): no map of it is possible"
            )
        return self.values.detach() * gradient

    def account(self, target: Target) -> Account:
        """Where the score of one image lies; `tokens` are the cells."""
        channels = [axis for axis in range(self.values.dim()) if axis not in self.axes]
        return told(self.forward, target, self.ruling, self.values, channels)


def at_cells(
    adapter: AnyModel, inputs: Inputs, rules: Rules, modules: Mapping[str, nn.Module], *, accounting: bool = False
) -> AtCells:
    """One forward, cut at the first of these modules that runs; inside `untouched`, as the way back.

    Args:
        adapter, inputs: the model and what it is called with.
        rules: in place of derivatives, from there on.
        modules: by name; where there are none the graph begins at the images themselves.
        accounting: whether `account` is asked.
    Raises:
        UnsupportedModelError: none of them runs, or it runs several times or gives no grid; or a function has no rule.
    """
    ruling = Ruling(rules, images=len(inputs.images), accounting=accounting)
    tap = ForwardTap(adapter, inputs, None, KEEP, True, ruling=ruling)
    cut = _Cut(tap, ruling, modules)
    forward = run_forward(
        adapter, inputs, None, KEEP, graph=True, tap=tap, pixels=not modules, also=lambda _, stack: cut.listen(stack)
    )
    if not modules:
        assert forward.images is not None
        return AtCells(adapter, inputs, "the image", None, forward.images, (2, 3), forward, ruling)
    if cut.module is None:
        raise UnsupportedModelError(
            f"none of {', '.join(list(modules)[:3])} ran in {type(adapter.model).__name__}: name the module whose "
            f"output is the grid, by layer="
        )
    name = next(name for name, module in modules.items() if module is cut.module)
    if cut.calls > 1:
        raise UnsupportedModelError(
            f"{name} ran {cut.calls} times in one forward of {type(adapter.model).__name__}, as where several views of "
            f"an image go through one after another: which of them a map belongs to is not known"
        )
    axes = (2, 3) if isinstance(cut.module, nn.Conv2d) else grid_axes(cut.leaf, inputs.images, name)
    if len(cut.leaf) != len(inputs.images):
        raise UnsupportedModelError(
            f"{len(inputs.images)} images come in, and {len(cut.leaf)} go through {name}, as where a model makes "
            f"several views of each: which of them a map belongs to is not known"
        )
    return AtCells(adapter, inputs, name, cut.module, cut.leaf, axes, forward, ruling)


def check_nothing_passes(found: AtCells) -> None:
    """Raise UnsupportedModelError where the score knows more of the image than what the cells tell it."""
    images, module = found.inputs.images, found.module
    if module is None:
        return
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED)).to(images)
    changed = replace(found.inputs, images=images.flip(-1) + noise * images.std(correction=0).clamp(min=1e-3))
    with torch.no_grad(), untouched(found.adapter), ExitStack() as stack:
        stack.callback(module.register_forward_hook(lambda *_: found.values.detach().clone()).remove)
        scores = changed.scores(found.adapter, changed.run(found.adapter.model))
    ours = found.scores.detach()
    near = max(NEAR, 64 * torch.finfo(ours.dtype).eps) * ours.abs().max()
    if scores.shape != ours.shape or not bool(((scores - ours).abs() <= near).all()):
        raise UnsupportedModelError(
            f"the score of {type(found.adapter.model).__name__} depends on the image in other ways than through "
            f"{found.name}, as where a skip connection leads past it or two branches look at the image: a map of its "
            f"cells would leave a part out. Name another module by layer=, or ask for the pixels themselves, by "
            f"output_shape='input'"
        )


def check_cells_lie(found: AtCells) -> None:
    """Raise UnsupportedModelError where cells change with other pixels than those that they lie over.

    So a model is found that crops or mirrors its images before the module that gives the cells.
    """
    module, sides = found.module, found.inputs.images.shape[2:]
    if module is None:
        return
    grid = [found.values.shape[axis] for axis in found.axes]
    places = [tuple(part * count // 8 for part, count in zip(parts, grid, strict=True)) for parts in PARTS]
    inputs = found.inputs.copies(len(places) + 1)
    images = inputs.images.clone()
    gave: list[Tensor] = []
    for image, place in zip(images[1:], places, strict=True):
        rows, cols = (
            slice(at * side // count, -(-(at + 1) * side // count))
            for at, side, count in zip(place, sides, grid, strict=True)
        )
        image[:, rows, cols] += 1 + images[0].abs().max()
    with torch.no_grad(), untouched(found.adapter), ExitStack() as stack:
        stack.callback(module.register_forward_hook(lambda module, args, output: gave.append(output)).remove)
        replace(inputs, images=images).run(found.adapter.model)
    channels = 1 if found.axes == (2, 3) else 3
    changes = (gave[0][1:] - gave[0][:1]).abs().sum(channels).flatten(1)
    for place, change in zip(places, changes, strict=True):
        seen = divmod(int(change.argmax()), grid[1])
        if not change.any() or any(abs(a - b) > OFF for a, b in zip(seen, place, strict=True)):
            raise UnsupportedModelError(
                f"the cells of {found.name} in {type(found.adapter.model).__name__} do not lie over the pixels that "
                f"they change with, as where a model crops, mirrors or shuffles its images first: a map could not be "
                f"laid on the image. Ask for the pixels themselves, by output_shape='input'"
            )


class _Cut:
    """Makes what the first of several modules gives the place where a graph begins."""

    leaf: Tensor

    def __init__(self, tap: ForwardTap, ruling: Ruling, modules: Mapping[str, nn.Module]) -> None:
        self.tap, self.ruling, self.modules, self.calls = tap, ruling, modules, 0
        self.module: nn.Module | None = None

    def listen(self, stack: ExitStack) -> None:
        for module in self.modules.values():
            stack.callback(module.register_forward_hook(self._cut).remove)

    def _cut(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if not self.tap.active or (self.module is not None and module is not self.module):
            return None
        self.module, self.calls = module, self.calls + 1
        if self.calls > 1:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise UnsupportedModelError(
                f"{type(module).__name__} gives {type(output).__name__} and no grid of numbers: layer= takes a "
                f"module that gives one tensor"
            )
        with torch.enable_grad():
            self.leaf = output.detach().requires_grad_()
            self.ruling.see(self.leaf)
            return self.leaf.clone()  # a leaf could not be written to, as an activation in place does
