"""What the last attention of every family is given, and the score's gradient there, against plain autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.access import Adapter
from captum_vit.capture import GIVEN, GIVEN_GRADIENTS, GRADIENTS, Inputs, Run
from tests.families.table import FAMILIES
from tests.helpers import assert_close, called, images, relative_error, timm_vit

NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES if family.in_double}
NORMS = {"timm: attention and MLP in parallel": "in_norm"}  # of layers that norm their tokens themselves
TARGET = 1


def last_layer(run: Run) -> str:
    return run.adapter.reading_layers(run.readout)[-1]


def by_autograd(adapter: Adapter, name: str, x: Tensor, keys: int, norm: str | None) -> tuple[Tensor, Tensor]:
    """What an attention is given, (B, N, D), and dy/da for the target's score y of what passes it."""
    layer = adapter.attention_layers()[name]
    found: list[Tensor] = []

    def node(given: Tensor) -> Tensor:
        found.append(given if given.requires_grad else given.detach().requires_grad_())
        return found[-1]

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        values = [*args, *kwargs.values()]
        tokens = next(v for v in values if isinstance(v, Tensor) and v.dim() == 3 and keys in v.shape[:2])
        given = node(tokens.clone())
        return tuple(given if v is tokens else v for v in args), {
            key: given if v is tokens else v for key, v in kwargs.items()
        }

    def after(module: nn.Module, args: tuple, output: Any) -> Tensor:
        return node(output.clone())

    if norm is None:
        hook = layer.register_forward_pre_hook(before, with_kwargs=True)
    else:
        hook = layer.get_submodule(norm).register_forward_hook(after)
    try:
        with torch.enable_grad():
            score = adapter.scores(called(adapter.model, x))[:, TARGET].sum()
        (given,) = found
        (gradient,) = torch.autograd.grad(score, given)
    finally:
        hook.remove()
    first = isinstance(layer, nn.MultiheadAttention) and not layer.batch_first
    return tuple(t.detach().transpose(0, 1) if first else t.detach() for t in (given, gradient))  # type: ignore


@pytest.mark.parametrize("name", NAMED)
def test_it_is_what_autograd_says(name: str):
    family = NAMED[name]
    model = family.build().double()
    x = family.batch().double()
    with Run(adapt(model), Inputs(x), {GIVEN, GIVEN_GRADIENTS}) as run:
        layer = last_layer(run)
        given, gradient = run.given()[layer].values, run.given_gradients(TARGET)[layer]
        layout = run.given()[layer].layout
    expected, slope = by_autograd(run.adapter, layer, x, layout.keys, NORMS.get(name))
    if layout.order is not None:
        expected, slope = expected[:, layout.order], slope[:, layout.order]
    assert given.shape[1] == layout.keys
    assert_close(given, expected, 1e-9)
    assert_close(gradient, slope, 1e-6)
    assert relative_error(gradient.roll(1, 1), slope) > 1e-3
    assert (gradient[:, layout.prefix :].flatten(2).norm(dim=2) > 0).all(), "a patch without a gradient"


def test_the_graph_begins_at_the_layer_that_is_asked_for():
    """And in a run that has more of a graph, the same tensor lies in it."""
    model, x = timm_vit(), images()
    names = list(adapt(model).attention_layers())
    with Run(adapt(model), Inputs(x), {GIVEN_GRADIENTS}, layers=lambda _: [], given=lambda _: names[-1:]) as run:
        alone = run.given_gradients(TARGET)
        forward = run.kept.forward({GIVEN_GRADIENTS})
        assert list(alone) == names[-1:]
        assert forward.given[names[-1]].tokens.is_leaf
        assert not set(names[:-1]) & set(forward.calls), "attention is kept that nobody asked for"
    with Run(adapt(model), Inputs(x), {GIVEN_GRADIENTS, GRADIENTS}, given=lambda _: names[-1:]) as run:
        run.gradients(TARGET)
        forward = run.kept.forward({GIVEN_GRADIENTS, GRADIENTS})
        assert not forward.given[names[-1]].tokens.is_leaf
        assert_close(run.given_gradients(TARGET)[names[-1]], alone[names[-1]])
        assert run.kept.forward(()) is forward, "another forward"
