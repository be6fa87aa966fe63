"""The way back to a grid of cells that a model of any architecture makes of its images.

A module's output is cut there: what comes before it is computed as it is, and what follows under rules, or by plain
derivatives.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..access import TokenLayout
from ..access.any_model import CONVOLUTIONS, AnyModel
from ..access.cells import Cells, cells_in
from ..errors import UnsupportedModelError
from ..targets import Target
from .accounts import Account, told
from .forward import Forward, run_forward
from .inputs import Inputs
from .needs import OUTPUTS
from .rules import Rules, Ruling
from .taps import ForwardTap, Keep

KEEP = Keep((), frozenset({OUTPUTS}), tail=True)


@dataclass(frozen=True)
class AtCells:
    """One forward, with the cells that its graph begins at.

    >>> from captum_vit.access.any_model import AnyModel
    >>> from captum_vit.capture.cells import at_cells
    >>> net = AnyModel(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(), torch.nn.Flatten()))
    >>> with untouched(net):
    ...     found = at_cells(net, Inputs(torch.rand(1, 3, 32, 48)), cp_rules(), net.stems())
    >>> found.name, found.values.shape, found.layout.grid
    ('0', torch.Size([1, 8, 8, 12]), (8, 12))

    name: of the module that gives them.  values: what it gives, in its own order of axes; images where the graph begins
    at these.  cells: where they are in the values.
    """

    adapter: AnyModel
    inputs: Inputs
    name: str
    module: nn.Module | None
    values: Tensor
    cells: Cells
    forward: Forward
    ruling: Ruling | None

    @property
    def scores(self) -> Tensor:
        """The model's."""
        return self.forward.output.scores

    @property
    def layout(self) -> TokenLayout:
        """Where the cells lie on the images."""
        return self.cells.layout(self.inputs.images.shape[2:])

    def gradient(self, target: Target, *, retain: bool = False) -> Tensor:
        """What the score's gradient is at each number, or what the rules put in its place, as `values`.

        Raises:
            UnsupportedModelError: the score does not depend on them.
        """
        (gradient,) = self.forward.gradients(target, [self.values], retain=retain)
        if gradient is None:
            raise UnsupportedModelError(
                f"the score does not depend on {self.name} in {type(self.adapter.model).__name__}, or it is cut off "
                f"from it, as by .detach(): no map of it is possible"
            )
        return gradient

    def account(self, target: Target) -> Account:
        """Where the score of one image lies; `tokens` are the cells. Of a forward that keeps accounts."""
        if self.ruling is None:
            raise ValueError("accounts are kept under rules")
        return told(self.forward, target, self.ruling, self.values, self.cells.tokens)


def at_cells(
    adapter: AnyModel,
    inputs: Inputs,
    rules: Rules | None,
    modules: Mapping[str, nn.Module],
    *,
    accounting: bool = False,
) -> AtCells:
    """One forward, cut at the first of these modules that runs; inside `untouched`, as the way back.

    Args:
        adapter, inputs: the model and what it is called with.
        rules: in place of derivatives, from there on; None for derivatives.
        modules: by name; where there are none the graph begins at the images themselves.
        accounting: whether `account` is asked.
    Raises:
        UnsupportedModelError: none of them runs, or it runs several times or gives no grid; a function has no rule; or
            scores are not those of each image.
    """
    ruling = None if rules is None else Ruling(rules, images=len(inputs.images), accounting=accounting)
    tap = ForwardTap(adapter, inputs, None, KEEP, True, ruling=ruling)
    cut = _Cut(tap, modules)
    forward = run_forward(
        adapter, inputs, None, KEEP, graph=True, tap=tap, pixels=not modules, also=lambda _, stack: cut.listen(stack)
    )
    rows, count = len(forward.output.scores), len(inputs.images)
    if rows != count:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} gives {rows} rows of scores for {count} in the batch, as where each frame "
            f"has its own: which of them a map belongs to is not known"
        )
    if not modules:
        assert forward.images is not None
        sides = tuple(inputs.images.shape[2:])
        pixels = Cells(sides, tuple(range(2, 2 + len(sides))))
        return AtCells(adapter, inputs, "the image", None, forward.images, pixels, forward, ruling)
    if cut.module is None:
        raise UnsupportedModelError(
            f"none of {', '.join(list(modules)[:3])} in {type(adapter.model).__name__} gives a grid of cells over the "
            f"image: name the module that does, by layer="
        )
    name = next(name for name, module in modules.items() if module is cut.module)
    if cut.calls > 1:
        raise UnsupportedModelError(
            f"{name} ran {cut.calls} times in one forward of {type(adapter.model).__name__}, as where several views of "
            f"an image go through one after another: which of them a map belongs to is not known"
        )
    return AtCells(adapter, inputs, name, cut.module, cut.leaf, cut.cells, forward, ruling)


class _Cut:
    """Makes what the first of several modules gives the place where a graph begins."""

    leaf: Tensor
    cells: Cells

    def __init__(self, tap: ForwardTap, modules: Mapping[str, nn.Module]) -> None:
        self.tap, self.modules, self.calls = tap, modules, 0
        self.module: nn.Module | None = None

    def listen(self, stack: ExitStack) -> None:
        for module in self.modules.values():
            stack.callback(module.register_forward_hook(self._cut).remove)

    def _cut(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if not self.tap.active or (self.module is not None and module is not self.module):
            return None
        self.calls += 1
        if self.calls > 1:
            return None
        name = next(name for name, each in self.modules.items() if each is module)
        try:
            self.cells = cells_of(output, self.tap.inputs.images, name, module)
        except UnsupportedModelError:
            if len(self.modules) > 1 and not isinstance(module, CONVOLUTIONS):  # as a layer that embeds a number
                self.calls = 0
                return None
            raise
        self.module = module
        with torch.enable_grad():
            self.leaf = output.detach().requires_grad_()
            if self.tap.ruling is not None:
                self.tap.ruling.see(self.leaf)
            return self.leaf.clone()  # a leaf could not be written to, as an activation in place does


def cells_of(output: object, images: Tensor, name: str, module: nn.Module) -> Cells:
    """The cells in what a module gave.

    Raises:
        UnsupportedModelError: there are none of each image.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise UnsupportedModelError(
            f"{type(module).__name__} gives {type(output).__name__} and no grid of numbers: layer= takes a module that "
            f"gives one tensor"
        )
    if len(output) != len(images):
        raise UnsupportedModelError(
            f"{len(images)} images come in, and {len(output)} go through {name}, as where a model makes several views "
            f"of each: which of them a map belongs to is not known"
        )
    return cells_in(output, images, name, channels_first=isinstance(module, CONVOLUTIONS))
