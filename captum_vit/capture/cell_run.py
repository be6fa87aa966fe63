"""A run of a model that no adapter knows: scores, and the way back to cells of its modules."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, NoReturn

from torch import Tensor, nn

from .. import ops
from ..access import Adapter, Readout, TokenLayout
from ..access.any_model import AnyModel
from ..access.outputs import told_of
from ..access.tokens import PATCHES
from ..errors import UnsupportedModelError
from ..targets import Target, as_target
from .accounts import Account
from .cell_checks import (
    check_cells_answer,
    check_cells_lie,
    check_images_stand_alone,
    check_nothing_passes,
    check_stem_lies,
)
from .cells import AtCells, at_cells
from .given import Given
from .inputs import Inputs
from .last_grid import last_grid
from .needs import Need
from .rules import Rules
from .run import Run
from .untouched import untouched

Modules = Mapping[str, nn.Module]


class CellRun(Run):
    """What a model of any architecture computed for a batch of images, as far as methods can ask without its tokens.

    >>> from captum_vit.access.any_model import AnyModel
    >>> net = AnyModel(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Flatten()))
    >>> with CellRun(net, Inputs(torch.rand(2, 3, 32, 32))) as run:
    ...     run.scores.shape, run.evidence(net.stems(), 1).shape
    (torch.Size([2, 512]), torch.Size([2, 64]))

    Args:
        adapter, inputs: the model and what it is called with.
        once: whether each is asked for one target only, so that the graph goes with it.
        rules: what stands in place of derivatives on the way back.
        first: asks what will be asked first, so that the scores come of that forward.
    """

    def __init__(
        self,
        adapter: AnyModel,
        inputs: Inputs,
        *,
        once: bool = False,
        rules: Rules | None = None,
        first: Callable[["CellRun"], Any] | None = None,
    ) -> None:
        super().__init__(adapter, inputs, once=once, rules=rules)
        self.cell_adapter, self._first = adapter, first
        self._found: tuple[tuple[str, ...], AtCells] | None = None
        self._lie: dict[tuple[str, ...], tuple[TokenLayout, str]] = {}
        self._spent = False
        self._other: CellRun | None = None

    def under(self, rules: Rules | None) -> "CellRun":
        """The run whose gradients are taken under rules; kept for the newest ones."""
        if rules is None or rules == self.kept.rules:
            return self
        if self._other is None or self._other.kept.rules != rules:
            self._other = None  # before the next one is there
            self._other = CellRun(self.cell_adapter, self.inputs, rules=rules)
            self._other._lie = self._lie
        self._other.once = self.once
        return self._other

    def at(self, modules: Modules) -> AtCells:
        """The forward whose graph begins at the first of these modules that runs, or at the images where there are
        none; kept for the newest ones.

        Raises:
            UnsupportedModelError: none of them gives a grid of cells; or, under rules, the score knows more of the
                image; or they lie elsewhere.
        """
        key = tuple(modules)
        if self._found is None or self._found[0] != key or self._spent:
            self._found = None
            with untouched(self.adapter):
                found = at_cells(self.cell_adapter, self.inputs, self.kept.rules, modules)
                self._check(found, modules)
            self._found, self._spent = (key, found), False
            self._lie[key] = found.layout, found.name
        return self._found[1]

    def evidence(self, modules: Modules, target: Any) -> Tensor:
        """What each cell times its gradient comes to, (N, cells)."""
        found = self.at(modules)
        gradient = self._gradient(found, as_target(target))
        return found.cells.tokens(ops.widen(found.values.detach()) * ops.widen(gradient)).sum(2)

    def cells(self, modules: Modules, target: Target | None) -> tuple[Tensor, Tensor]:
        """What cells hold, and the score's gradient there, (N, cells, channels) each; without a target the cells again.

        Of deep modules: whether the score knows more of the image than they tell it is not looked at.
        """
        found = self.at(modules)
        values = found.values.detach()
        gradient = values if target is None else self._gradient(found, target)
        return found.cells.tokens(ops.widen(values)), found.cells.tokens(ops.widen(gradient))

    def account(self, modules: Modules, target: Target) -> Account:
        """Where the score of one image lies, under rules."""
        with untouched(self.adapter):
            found = at_cells(self.cell_adapter, self.inputs, self.kept.rules, modules, accounting=True)
            self._check(found, modules)
            return found.account(target)

    def last_grid(self) -> Modules:
        """The last module that gives a grid of cells on which the score depends.

        Raises:
            UnsupportedModelError: there is none.
        """
        size = tuple(self.inputs.images.shape[1:])
        if size not in self.cell_adapter.last_grids:
            self.cell_adapter.last_grids[size] = last_grid(self.cell_adapter, self.inputs.first())
        name = self.cell_adapter.last_grids[size]
        return {name: self.adapter.model.get_submodule(name)}

    def pixel_gradients(self, target: Any) -> Tensor:
        """The score's gradient at each pixel, as the images."""
        return self._gradient(self.at({}), as_target(target))

    @property
    def readout(self) -> Readout:
        return PATCHES

    def place(self, modules: Modules) -> tuple[TokenLayout, str]:
        """Where the cells of the first of these modules that runs lie, and its name."""
        if tuple(modules) not in self._lie:
            self.at(modules)
        return self._lie[tuple(modules)]

    @property
    def layout(self) -> TokenLayout:
        """Where the cells of the stem lie."""
        return self.place(self.cell_adapter.stems())[0]

    @property
    def outputs(self) -> Any:
        return self._any.forward.output.raw

    @property
    def scores(self) -> Tensor:
        return self._any.scores.detach()

    @property
    def scores_told(self) -> str:
        found = self._any
        return told_of(found.forward.output.raw, found.scores, self.inputs.output)

    def on_tokens(self, kept: Tensor, target: Target, *, batch: int = 64) -> Tensor:
        self._refuse()

    def tokens(self) -> dict[str, Tensor]:
        self._refuse()

    def given(self) -> dict[str, Given]:
        self._refuse()

    def calls(self, names: Collection[str], needs: Collection[Need]) -> dict[str, Any]:
        self._refuse()

    @cached_property
    def _unheard(self) -> Adapter:
        return self.adapter

    @property
    def _any(self) -> AtCells:
        """A forward that there is, or the one that is asked for first."""
        for run in (self, self._other):
            if run is not None and run._found is not None:
                return run._found[1]
        if self._first is not None:
            self._first(self)
            if self._found is not None or (self._other is not None and self._other._found is not None):
                return self._any
        return self.at({})

    def _gradient(self, found: AtCells, target: Target) -> Tensor:
        self._spent = self._spent or self.once
        with untouched(self.adapter):
            return found.gradient(target, retain=not self.once)

    def _check(self, found: AtCells, modules: Modules) -> None:
        """Once for each size of images, since what a model does with them may depend on it."""
        checked, size = self.cell_adapter.checked, found.inputs.images.shape[1:]
        key, together = (found.name, self.kept.rules is None, *size), ("together", *size)
        if len(found.inputs.images) > 1 and together not in checked:
            check_images_stand_alone(found)
            checked.add(together)
        if found.module is None or key in checked:
            return
        stems = self.cell_adapter.stems()
        if self.kept.rules is not None:
            check_nothing_passes(found)
        if tuple(modules) == tuple(stems):
            check_stem_lies(found)
        elif self.kept.rules is not None:
            check_cells_lie(found)
        else:
            check_stem_lies(at_cells(self.cell_adapter, found.inputs.first(), None, stems))
            (check_cells_lie if found.name in stems else check_cells_answer)(found)
        checked.add(key)

    @property
    def no_tokens(self) -> str:
        """Why nothing that is asked of tokens is told."""
        return (
            f"{type(self.adapter.model).__name__} has no tokens that are known: {self.cell_adapter.reason}. What it "
            f"says without a part of the picture is not asked by painting over cells either, since convolutions "
            f"answer to the edges of what is painted"
        )

    def _refuse(self) -> NoReturn:
        raise UnsupportedModelError(self.no_tokens)
