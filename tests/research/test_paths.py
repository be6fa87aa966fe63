"""Methods that weigh carried rows by gradients along a path, against attention that is written out."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit import BeyondIntuition, TransitionAttention
from tests.helpers import assert_close, relative_error
from tests.research.checks import TARGET, case
from tests.research.explicit import Truth, _read, _to_grid, later, run
from tests.research.layouts import EXPLAINED

LAYOUTS = (
    "DINO",  # fused
    "DINOv2",
    "query, key, value",  # step by step
    "einops, mean of all",
    "MultiheadAttention",
    "MultiheadAttention, tokens first",
    "AIM, pool",
    "class token joins late",
    "class token last",
    "columns first",
)
STEPS = 3  # of the path


@cache
def along(name: str, alphas: tuple[float, ...]) -> list[Truth]:
    known = case(EXPLAINED[name])
    return [run(known.layout, known.model, known.x * alpha, TARGET) for alpha in alphas]


def weights(name: str, alphas: tuple[float, ...] = (0.0, 0.5, 1.0)) -> Tensor:
    """mean_h relu(mean over alpha of dy(alpha x)/dA_L), (B, M, N)."""
    return F.relu(torch.stack([truth.weights[-1] for truth in along(name, alphas)]).mean(0)).mean(1)


def mean_attention(truth: Truth) -> list[Tensor]:
    return [step.a.mean(1) for step in truth.steps]


def by_heads(truth: Truth) -> list[Tensor]:
    """sum_h I_h A_h, I_h = mean |A_h^T dA_h|, of sum 1."""
    found = []
    for step, grad in zip(truth.steps, truth.weights, strict=True):
        size = torch.einsum("bhmi,bhmj->bhij", step.a, grad).abs().mean((2, 3))
        found.append(torch.einsum("bh,bhmn->bmn", size / size.sum(1, keepdim=True), step.a))
    return found


def mapped(truth: Truth, layers: list[Tensor], weight: Tensor, first: int, *, alone: bool) -> Tensor:
    """sum over the rows that are read of W * R: each row carried from the last layer to the first that takes part."""
    (top, share), *_ = reversed(_read(truth))
    read, tokens = share.nonzero().flatten(), truth.layout.extra + truth.layout.count
    lacking = later(truth.layout, top)
    state = F.pad(layers[-1][:, read], (lacking, 0))
    if not alone and top.skip:
        state = state + torch.eye(tokens, dtype=state.dtype)[read + lacking]
    for step, matrix in reversed(list(zip(truth.steps[first:-1], layers[first:-1], strict=True))):
        lacking = later(truth.layout, step)
        state = state + state @ F.pad(matrix, (lacking, 0, lacking, tokens - lacking - matrix.shape[1]))
    weight = F.pad(weight[:, read], (later(truth.layout, top), 0))
    return _to_grid(truth.layout, (state * weight).sum(1))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", LAYOUTS)
def test_transition_attention(name: str, first: int):
    known = case(EXPLAINED[name])
    found = TransitionAttention(known.model).attribute(known.x, TARGET, start_layer=first, steps=STEPS)
    expected = mapped(known.truth, mean_attention(known.truth), weights(name), first, alone=True)
    assert_close(found, expected, known.layout.tolerance)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", LAYOUTS)
def test_beyond_intuition_by_heads(name: str, first: int):
    known = case(EXPLAINED[name])
    found = BeyondIntuition(known.model).attribute(known.x, TARGET, start_layer=first, steps=STEPS)
    expected = mapped(known.truth, by_heads(known.truth), weights(name), first, alone=False)
    assert_close(found, expected, known.layout.tolerance)


def early(truth: Truth) -> Truth:
    return replace(truth, weights=truth.weights[::-1])


WRONG: dict[str, Callable[[Truth], Tensor]] = {
    "the image alone": lambda t: mapped(t, by_heads(t), weights("DINO", (1.0,)), 0, alone=False),
    "without the black image": lambda t: mapped(t, by_heads(t), weights("DINO", (0.5, 1.0)), 0, alone=False),
    "heads alike": lambda t: mapped(t, mean_attention(t), weights("DINO"), 0, alone=False),
    "gradients backwards": lambda t: mapped(t, by_heads(early(t)), weights("DINO"), 0, alone=False),
    "without the identity": lambda t: mapped(t, by_heads(t), weights("DINO"), 0, alone=True),
    "from the second": lambda t: mapped(t, by_heads(t), weights("DINO"), 1, alone=False),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_near_misses_differ(wrong: str):
    known = case(EXPLAINED["DINO"])
    found = BeyondIntuition(known.model).attribute(known.x, TARGET, start_layer=0, steps=STEPS)
    assert relative_error(found, WRONG[wrong](known.truth)) > 1e-3
