"""What is asked of every layout: of the library against the truth, and of the truth itself."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from captum_vit import inspect
from captum_vit.attr import METHODS
from captum_vit.errors import LayerNotRecordedError, TokenLayoutError, UnsupportedModelError
from tests.helpers import assert_close, explain, relative_error
from tests.research.explicit import MAPS, Truth, first_tensor, run
from tests.research.layout import Layout

TARGET = 1
REFUSALS = (UnsupportedModelError, TokenLayoutError, LayerNotRecordedError)


@dataclass(frozen=True)
class Case:
    """A layout's model in float64 with images, and the truth about them."""

    layout: Layout
    model: nn.Module
    x: Tensor
    truth: Truth
    held: Truth

    def map(self, method: str) -> Tensor:
        """The map as it has to be, (B, 1, *grid)."""
        return MAPS[method](self.truth, self.held)


_layouts: dict[str, Layout] = {}


def case(layout: Layout) -> Case:
    """Made once for all tests of a layout."""
    _layouts[layout.name] = layout
    return _case(layout.name)


@cache
def _case(name: str) -> Case:
    layout = _layouts[name]
    model, x = layout.build().double(), layout.images()
    return Case(layout, model, x, run(layout, model, x, TARGET), run(layout, model, x, TARGET, held=True))


def allowed(layout: Layout) -> AbstractContextManager:
    """A refusal, of a layout that is uncertain."""
    return suppress(*REFUSALS) if layout.uncertain else nullcontext()


def check_map(layout: Layout, method: str) -> None:
    """The library's map is the truth; of a layout that is uncertain it may be refused instead."""
    known = case(layout)
    if method in layout.without:
        with pytest.raises(REFUSALS):
            explain(METHODS[method](known.model), known.x, TARGET)
        return
    with allowed(layout):
        found = explain(METHODS[method](known.model), known.x, TARGET)
        assert_close(found, known.map(method), layout.tolerance)


def check_inspection(layout: Layout) -> None:
    """The library names the layers, the grid, the other tokens and the readout as they are."""
    known = case(layout)
    with allowed(layout):
        view = inspect(known.model, layout.size)
        if layout.uncertain and not view.layers:  # its attention is not read, which is told
            return
        steps = known.truth.steps
        assert [layer.name.split("#")[0] for layer in view.layers] == [step.name for step in steps]
        assert [layer.heads for layer in view.layers] == [step.a.shape[1] for step in steps]
        assert view.layout.grid == layout.grid
        assert tuple(view.layout.patch) == layout.pixels
        assert view.layout.tokens == layout.extra + layout.count
        readout = view.layout.readout
        assert readout.patches == layout.reads_patches
        assert bool(readout.latents) == (not steps[-1].skip)
        if layout.patches is None:
            assert readout.prefix == layout.read
            share = [seen.layout.share for seen, step in zip(view.layers, steps, strict=True) if step.skip][-1]
            assert_close(share, layout.start()[: len(share)])


def check_refusal(layout: Layout, method: str) -> None:
    """No map is given, for the reason that holds."""
    model, x = layout.build().double(), layout.images()
    assert torch.isfinite(first_tensor(model(x))).all(), "the model itself runs"
    with pytest.raises(REFUSALS, match=layout.refused):
        explain(METHODS[method](model), x, TARGET)


def differs(known: Case, wrong: Case, method: str) -> float:
    """How far a wrong truth's map is from the right one."""
    return relative_error(wrong.map(method), known.map(method))
