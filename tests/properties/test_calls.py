"""One recorded attention against explicit attention and autograd, whatever its bias, type and chunks."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_vit import AttentionCall
from captum_vit.access import LayerLayout
from tests.helpers import relative_error
from tests.properties.broken import caught, unshrunk
from tests.properties.test_ops import budgets, chunks_of, seeds

TOLERANCE = 1e-12
BIASES = ["none", "full", "shared", "keys", "matrix", "row", "boolean", "boolean-keys"]


any_bias = st.sampled_from(BIASES)


@st.composite
def calls(draw, biases=any_bias) -> AttentionCall:
    """An attention in float64 with a bias of any shape that scaled_dot_product_attention takes."""
    b, h, m, n, d = (draw(st.integers(1, 4)) for _ in range(5))
    n += 1
    torch.manual_seed(draw(seeds))
    q, k, v = (torch.randn(b, h, rows, d, dtype=torch.float64) for rows in (m, n, n))
    keep = torch.rand(b, h, m, n) > 0.4
    keep[..., 0] = True  # a row without keys has no softmax
    bias = {
        "none": lambda: None,
        "full": lambda: torch.randn(b, h, m, n, dtype=torch.float64),
        "shared": lambda: torch.randn(1, 1, m, n, dtype=torch.float64),
        "keys": lambda: torch.randn(b, 1, 1, n, dtype=torch.float64),
        "matrix": lambda: torch.randn(m, n, dtype=torch.float64),
        "row": lambda: torch.randn(1, n, dtype=torch.float64),
        "boolean": lambda: keep,
        "boolean-keys": lambda: keep[:, :1, :1],
    }[draw(biases)]()
    scale = draw(st.floats(0.1, 2))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    share = torch.full((m,), 1 / m, dtype=torch.float64)
    layout = LayerLayout(0, (1, n), share, share, skip=False, map_grid=(1, n))
    return AttentionCall("layer", q, k, v, scale, bias, out, layout)


def explicit(call: AttentionCall) -> Tensor:
    scores = torch.einsum("bhmd,bhnd->bhmn", call.q, call.k) * call.scale
    if call.bias is not None and call.bias.dtype == torch.bool:
        scores = scores + torch.zeros(call.bias.shape, dtype=scores.dtype).masked_fill(~call.bias, -torch.inf)
    elif call.bias is not None:
        scores = scores + call.bias
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1)


def check_weights(call: AttentionCall, rows: list[int]) -> None:
    close(call.weights(rows), explicit(call)[:, :, rows])
    close(call.weights(slice(rows[0], None)), explicit(call)[:, :, rows[0] :])
    close(call.weights(slice(None)).sum(-1), torch.ones(call.q.shape[:3], dtype=torch.float64))
    close(call.weights(slice(None)) @ call.v, call.out)


def some_rows(call: AttentionCall, data) -> list[int]:
    return data.draw(st.lists(st.integers(0, call.q.shape[2] - 1), min_size=1, unique=True))


@given(calls(), st.data())
def test_weights_are_the_softmax_that_ran(call, data):
    check_weights(call, some_rows(call, data))


@caught
@unshrunk
@given(calls(), st.data())
def test_weights_without_the_bias(call, data):
    check_weights(replace(call, bias=None), some_rows(call, data))


@caught
@unshrunk
@given(calls(), st.data())
def test_weights_with_the_default_scale(call, data):
    check_weights(replace(call, scale=call.q.shape[-1] ** -0.5), some_rows(call, data))


@caught
@unshrunk
@given(calls(st.sampled_from(["full", "matrix"])), st.data())
def test_weights_with_the_bias_of_other_rows(call, data):
    check_weights(replace(call, bias=call.bias.flip(-2)), some_rows(call, data))


class PullsByRow(AttentionCall):
    """Multiplies by A instead of its transpose."""

    def pull(self, c: Tensor) -> Tensor:
        square = self.weights(slice(None))
        return (square @ c if square.shape[-1] == square.shape[-2] else square.mT @ c).flip(2)


def check_pull(call: AttentionCall, budget: int) -> None:
    c = torch.randn(*call.q.shape[:3], 3, dtype=torch.float64)
    with chunks_of(budget):
        pulled = call.pull(c)
    close(pulled, explicit(call).mT @ c)
    v = call.v.clone().requires_grad_()
    c = torch.randn_like(call.out)
    out = F.scaled_dot_product_attention(call.q, call.k, v, attn_mask=call.bias, scale=call.scale)
    close(call.pull(c), torch.autograd.grad(out, v, c)[0])


@given(calls(), budgets)
def test_pull_is_the_gradient_of_the_values(call, budget):
    check_pull(call, budget)


@caught
@unshrunk
@given(calls(), budgets)
def test_pull_without_the_transpose(call, budget):
    check_pull(PullsByRow(**vars(call)), budget)


class GradientOfTheQueries(AttentionCall):
    """Uses k for v."""

    def weight_grad(self, rows, out_grad: Tensor) -> Tensor:
        return out_grad[:, :, rows] @ self.k.mT


def check_weight_grad(call: AttentionCall, rows: list[int]) -> None:
    a = explicit(call).requires_grad_()
    out_grad = torch.randn_like(call.out)
    expected = torch.autograd.grad(a @ call.v, a, out_grad)[0]
    close(call.weight_grad(rows, out_grad), expected[:, :, rows])


@given(calls(), st.data())
def test_weight_grad_is_autograds(call, data):
    check_weight_grad(call, some_rows(call, data))


@caught
@unshrunk
@given(calls(), st.data())
def test_weight_grad_of_the_keys(call, data):
    check_weight_grad(GradientOfTheQueries(**vars(call)), some_rows(call, data))


@given(calls(), budgets, st.data())
def test_parts_are_the_rows_in_order(call, budget, data):
    rows = some_rows(call, data)
    with chunks_of(budget):
        assert [row for part in call.parts(rows) for row in part] == rows


@given(calls(st.sampled_from(["none", "keys", "row"])), st.integers(1, 4))
def test_first_rows_are_the_first_rows(call, count):
    close(call.first_rows(count).weights(slice(None)), call.weights(slice(None))[:, :, :count])


@given(calls(st.sampled_from(["full", "shared", "matrix", "boolean"])), st.integers(1, 4), st.data())
def test_first_rows_keep_their_own_bias(call, count, data):
    first = call.first_rows(count)
    rows = [row for row in some_rows(call, data) if row < count] or [0]
    close(first.weights(rows), call.weights(rows))


@given(calls(), st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_summed_in_float32(call, dtype):
    half = replace(call, q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))
    wide = replace(half, q=half.q.double(), k=half.k.double(), v=half.v.double())
    assert half.weights(slice(None)).dtype in (torch.float32, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(half.weights(slice(None)).double(), wide.weights(slice(None))) < 1e-5
        grad = torch.randn_like(call.out).to(dtype)
        close(half.weight_grad(slice(None), grad).double(), wide.weight_grad(slice(None), grad.double()), 1e-5)
