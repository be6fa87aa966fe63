"""The truth about a layout's maps: attention written out with N x N matrices, autograd, and the papers' formulas.

Nothing here is the library's. Each attention module of a layout runs by the parts that the layout states, which is the
same function: the tests hold the scores against those of the untouched model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.layout import Layout, Parts


@dataclass
class Step:
    """Of one attention: scores S, weights A (B, H, M, N), values V (B, H, N, d), output O (B, H, M, d)."""

    name: str
    s: Tensor
    a: Tensor
    v: Tensor
    o: Tensor
    skip: bool


@dataclass
class Truth:
    """A forward with every attention in sight.

    scores: (B, C).  steps: in the order they ran.  weights, outputs: dy/dA and dy/dO of each.
    depths: what the score reads after each step, with sum 1.
    """

    layout: Layout
    scores: Tensor
    steps: list[Step]
    weights: list[Tensor]
    outputs: list[Tensor]
    depths: Tensor


def first_tensor(output: Any) -> Tensor:
    """The scores out of whatever a model returns."""
    if isinstance(output, Mapping):
        output = list(output.values())
    return output if isinstance(output, Tensor) else first_tensor(output[0])


def run(layout: Layout, model: nn.Module, x: Tensor, target: int = 1, *, held: bool = False) -> Truth:
    """A forward whose attention is written out; where it is held, what goes into an attention counts as a constant.

    Of an attention pool, which no skip connection passes, queries and keys alone.
    """
    steps: list[Step] = []
    with torch.enable_grad(), _written_out(layout, model, held, steps):
        scores = first_tensor(model(x.clone().requires_grad_()))
    leaves = [step.a for step in steps] + [step.o for step in steps]
    found = torch.autograd.grad(scores[:, target].sum(), leaves, materialize_grads=True)
    steps = [Step(step.name, *(t.detach() for t in (step.s, step.a, step.v, step.o)), step.skip) for step in steps]
    depths = (
        F.one_hot(torch.tensor(len(steps) - 1)).double() if layout.depths is None else layout.depths(model).detach()
    )
    return Truth(layout, scores.detach(), steps, list(found[: len(steps)]), list(found[len(steps) :]), depths)


@contextmanager
def _written_out(layout: Layout, model: nn.Module, held: bool, steps: list[Step]) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules()}
    with ExitStack() as stack:
        for module, name in names.items():
            parts_of = layout.attention.get(type(module))
            if parts_of is not None:
                written = partial(_attend, partial(parts_of, module), name, held, steps)
                stack.enter_context(patch.object(module, "forward", written))
        yield


def _attend(parts_of: Callable[..., Parts], name: str, held: bool, steps: list[Step], *args: Any, **kwargs: Any) -> Any:
    parts = parts_of(*args, **kwargs)
    q, k, v = parts.q, parts.k, parts.v
    if held:
        q, k, v = q.detach(), k.detach(), v.detach() if parts.skip else v
    s = torch.einsum("bhmd,bhnd->bhmn", q, k.expand(*q.shape[:2], -1, -1)) * parts.scale + parts.bias
    a = (s - s.amax(-1, keepdim=True)).exp()
    a = a / a.sum(-1, keepdim=True)
    a = a if parts.change is None else parts.change(a)
    if held:
        a = a.detach().requires_grad_()
    o = torch.einsum("bhmn,bhnd->bhmd", a, v.expand(*q.shape[:2], -1, -1))
    steps.append(Step(name, s, a, v, o, parts.skip))
    return parts.finish(o)


def later(layout: Layout, step: Step) -> int:
    """How many of the tokens are not there yet in a step, as a class token that joins late."""
    return layout.extra + layout.count - step.a.shape[3]


def _read(truth: Truth) -> list[tuple[Step, Tensor]]:
    """The steps, and what each query contributes to the score: latents evenly, in a pool."""
    start = truth.layout.start()
    latents = [torch.full((step.a.shape[2],), 1 / step.a.shape[2], dtype=torch.float64) for step in truth.steps]
    return [
        (step, start[later(truth.layout, step) :][: step.a.shape[2]] if step.skip else pooled)
        for step, pooled in zip(truth.steps, latents, strict=True)
    ]


def _all_keys(layout: Layout, step: Step, keys: Tensor) -> Tensor:
    """(..., keys) -> (..., tokens)."""
    return F.pad(keys, (later(layout, step), 0))


def _to_grid(layout: Layout, tokens: Tensor) -> Tensor:
    """(B, N) over the tokens -> (B, 1, *grid)."""
    return tokens[:, layout.tokens_of_patches].unflatten(1, layout.grid).unsqueeze(1).detach()


def rolled(truth: Truth, fused: list[Tensor], *, normalised: bool = True) -> Tensor:
    """sum_l depths_l * start_l rownorm(F_l + I) ... rownorm(F_1 + I); F alone of a pool: (B, N)."""
    whole, total = None, 0
    for (step, share), matrix, depth in zip(_read(truth), fused, truth.depths, strict=True):
        if step.skip:  # tokens that do not look at others stay what they are
            first, tokens = later(truth.layout, step), truth.layout.extra + truth.layout.count
            matrix = F.pad(matrix, (first, 0, first, tokens - first - matrix.shape[1]))
            matrix = matrix + torch.eye(tokens, dtype=matrix.dtype)
        matrix = matrix / matrix.sum(-1, keepdim=True) if normalised else matrix
        whole = matrix if whole is None else matrix @ whole
        share = truth.layout.start() if step.skip else share
        total = total + depth * torch.einsum("m,bmn->bn", share, whole)
    return total


def raw_attention(truth: Truth, held: Truth) -> Tensor:
    """mean_h A_L of the tokens that the score is read from."""
    step, share = _read(truth)[-1]
    return _to_grid(truth.layout, torch.einsum("m,bhmn->bn", share, step.a) / step.a.shape[1])


def attention_rollout(truth: Truth, held: Truth) -> Tensor:
    """F_l = mean_h A_l."""
    return _to_grid(truth.layout, rolled(truth, [step.a.mean(1) for step in truth.steps]))


def gradient_rollout(truth: Truth, held: Truth, discard_ratio: float = 0.9) -> Tensor:
    """F_l = relu(mean_h(A_l * dy/dA_l)), the lowest entries of each image's set to 0."""
    fused = [F.relu((step.a * grad).mean(1)) for step, grad in zip(truth.steps, truth.weights, strict=True)]
    for flat in (matrix.view(-1) for layer in fused for matrix in layer):
        flat[flat.argsort()[: int(len(flat) * discard_ratio)]] = 0
    return _to_grid(truth.layout, rolled(truth, fused))


def generic_relevance(truth: Truth, held: Truth) -> Tensor:
    """F_l = mean_h relu(A_l * dy/dA_l), and no row is normalised."""
    fused = [F.relu(step.a * grad).mean(1) for step, grad in zip(truth.steps, truth.weights, strict=True)]
    return _to_grid(truth.layout, rolled(truth, fused, normalised=False))


def agcam(truth: Truth, held: Truth) -> Tensor:
    """sum_l sum_h sum_i relu(dy/dA_l[i]) * sigmoid(S_l[i]) over the rows i that are read, every A_l held."""
    total = 0
    for (step, share), grad in zip(_read(held), held.weights, strict=True):
        rows = share.nonzero().flatten()
        found = (F.relu(grad[:, :, rows]) / (1 + torch.exp(-step.s[:, :, rows]))).sum((1, 2))
        total = total + _all_keys(truth.layout, step, found)
    return _to_grid(held.layout, total)


def daam(truth: Truth, held: Truth) -> Tensor:
    """sum_l relu(sum_i sum_h sum_k relu(dy/dO_l[i, k]) * A_l[i, j] * V_l[j, k])."""
    total = 0
    for (step, share), grad in zip(_read(truth), truth.outputs, strict=True):
        rows = share.nonzero().flatten()
        v = step.v.expand(*step.a.shape[:2], -1, -1)
        found = torch.einsum("bhik,bhij,bhjk->bj", F.relu(grad[:, :, rows]), step.a[:, :, rows], v)
        total = total + _all_keys(truth.layout, step, F.relu(found))
    return _to_grid(truth.layout, total)


MAPS: dict[str, Callable[[Truth, Truth], Tensor]] = {
    "raw_attention": raw_attention,
    "rollout": attention_rollout,
    "gradient_rollout": gradient_rollout,
    "generic_relevance": generic_relevance,
    "agcam": agcam,
    "daam": daam,
}
