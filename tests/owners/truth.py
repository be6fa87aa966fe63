"""The truth about an owner's maps: attention written out with N x N matrices, autograd, and the papers' formulas.

Nothing here is the library's. The model itself runs, with every attention module written out; which tokens its score is
read from, and where they lie on the images, is known by construction.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


@dataclass
class Attended:
    """Of one attention: scores S, weights A (B, H, N, N), values V and output O (B, H, N, d)."""

    s: Tensor
    a: Tensor
    v: Tensor
    o: Tensor


@dataclass(frozen=True)
class Reading:
    """What a score is read from.

    rows: which tokens after each block it may be read from, bool (layers, N).
    weights: what each of them gives, (layers, N) with sum 1; None where that is not fixed.
    """

    rows: Tensor
    weights: Tensor | None

    @classmethod
    def of(cls, weights: Tensor) -> "Reading":
        """Of fixed weights, (layers, N)."""
        weights = weights.double()
        return cls(weights != 0, weights / weights.sum() if bool((weights >= 0).all()) else None)


@dataclass
class Seen:
    """A forward with every attention in sight, and the gradients of the score.

    full: dy/dA and dy/dO of each attention.  held: dy/dA where what goes into an attention counts as a constant.
    """

    scores: Tensor
    steps: list[Attended]
    weights: list[Tensor]
    outputs: list[Tensor]
    held: list[Tensor]


def timm_parts(module: nn.Module, x: Tensor, attn_mask: Tensor | None = None, **_: Any) -> tuple:
    q, k, v = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = module.q_norm(q), module.k_norm(k)
    return q, k, v, module.scale, 0.0 if attn_mask is None else attn_mask, module.proj, module.attn_drop


def hf_parts(module: nn.Module, x: Tensor, *_: Any, **__: Any) -> tuple:
    heads = (module.num_attention_heads, -1)
    q, k, v = (layer(x).unflatten(-1, heads).transpose(1, 2) for layer in (module.q_proj, module.k_proj, module.v_proj))
    return q, k, v, module.scaling, 0.0, lambda out: (module.o_proj(out), None), None


def own_parts(module: nn.Module, x: Tensor) -> tuple:
    heads = (module.num_heads, -1)
    q, k, v = (layer(x).unflatten(-1, heads).transpose(1, 2) for layer in (module.q_proj, module.k_proj, module.v_proj))
    return q, k, v, module.head_dim**-0.5, 0.0, module.out_proj, None


def see(
    model: nn.Module,
    scores_of: Callable[[Tensor], Tensor],
    x: Tensor,
    targets: list[int],
    attention: type[nn.Module],
    parts: Callable[..., tuple],
) -> Seen:
    """Run the model twice: with full gradients, and with the input of every attention held."""
    found: list[tuple[Tensor, list[Attended], list[Tensor], list[Tensor]]] = []
    for held in (False, True):
        steps: list[Attended] = []
        with torch.enable_grad(), _written_out(model, attention, parts, steps, held):
            scores = scores_of(x.clone().requires_grad_())
        score = scores[torch.arange(len(scores)), targets[: len(scores)]].sum()
        leaves = [step.a for step in steps] + [step.o for step in steps]
        grads = torch.autograd.grad(score, leaves, materialize_grads=True)
        done = [Attended(*(t.detach() for t in (step.s, step.a, step.v, step.o))) for step in steps]
        found.append((scores.detach(), done, list(grads[: len(steps)]), list(grads[len(steps) :])))
    (scores, steps, weights, outputs), (_, _, held_weights, _) = found
    return Seen(scores, steps, weights, outputs, held_weights)


def last_run(seen: Seen, runs: int) -> Seen:
    """Of a model that runs its ViT several times, what it computed the last time."""
    first = len(seen.steps) - len(seen.steps) // runs
    parts = (part[first:] for part in (seen.steps, seen.weights, seen.outputs, seen.held))
    return Seen(seen.scores, *parts)


@contextmanager
def _written_out(
    model: nn.Module, attention: type[nn.Module], parts: Callable, steps: list[Attended], held: bool
) -> Iterator[None]:
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, attention):
                written = partial(_attend, module, parts, steps, held)
                stack.enter_context(patch.object(module, "forward", written))
        yield


def _attend(module: nn.Module, parts: Callable, steps: list[Attended], held: bool, *args: Any, **kwargs: Any) -> Any:
    q, k, v, scale, bias, finish, drop = parts(module, *args, **kwargs)
    if held:
        q, k, v = q.detach(), k.detach(), v.detach()
    s = torch.einsum("bhmd,bhnd->bhmn", q, k) * scale + bias
    a = (s - s.amax(-1, keepdim=True)).exp()
    a = a / a.sum(-1, keepdim=True)
    a = a if drop is None else drop(a)  # where somebody's hook may stand
    a = a.detach().requires_grad_() if held else a if a.requires_grad else a.requires_grad_()
    o = torch.einsum("bhmn,bhnd->bhmd", a, v)
    steps.append(Attended(s, a, v, o))
    return finish(o.transpose(1, 2).flatten(2))


def _after(reading: Reading, layer: int) -> Tensor:
    """The tokens that are read in a layer or later."""
    return reading.rows[layer:].any(0).nonzero().flatten()


def raw_attention(seen: Seen, reading: Reading) -> Tensor | None:
    """mean_h A of the tokens that the score is read from, in the last layer where it is."""
    if reading.weights is None:
        return None
    last = int(reading.rows.any(1).nonzero().max())
    share = reading.weights[last] / reading.weights[last].sum()
    return torch.einsum("m,bhmn->bn", share.to(seen.scores), seen.steps[last].a) / seen.steps[last].a.shape[1]


def _rolled(fused: list[Tensor], reading: Reading, *, normalised: bool = True) -> Tensor:
    """sum_l weights_l rownorm(F_l + I) ... rownorm(F_1 + I)."""
    assert reading.weights is not None
    last = int(reading.rows.any(1).nonzero().max())
    whole, total = torch.eye(fused[0].shape[-1], dtype=fused[0].dtype), torch.zeros(())
    for matrix, weights in zip(fused[: last + 1], reading.weights, strict=False):
        step = matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        step = step / step.sum(-1, keepdim=True) if normalised else step
        whole = step @ whole
        total = total + torch.einsum("m,bmn->bn", weights.to(whole), whole)
    return total


def rollout(seen: Seen, reading: Reading) -> Tensor | None:
    """F_l = mean_h A_l."""
    return None if reading.weights is None else _rolled([step.a.mean(1) for step in seen.steps], reading)


def gradient_rollout(seen: Seen, reading: Reading) -> Tensor | None:
    """F_l = relu(mean_h(A_l * dy/dA_l)), with no entry set to 0."""
    if reading.weights is None:
        return None
    fused = [(step.a * grad).mean(1).clamp(min=0) for step, grad in zip(seen.steps, seen.weights, strict=True)]
    return _rolled(fused, reading)


def generic_relevance(seen: Seen, reading: Reading) -> Tensor | None:
    """F_l = mean_h relu(A_l * dy/dA_l), and no row is normalised."""
    if reading.weights is None:
        return None
    fused = [(step.a * grad).clamp(min=0).mean(1) for step, grad in zip(seen.steps, seen.weights, strict=True)]
    return _rolled(fused, reading, normalised=False)


def agcam(seen: Seen, reading: Reading) -> Tensor:
    """sum_l sum_h sum_i relu(dy/dA_l[i]) * sigmoid(S_l[i]) over the rows i that are read, every attention held."""
    total = torch.zeros(())
    for layer, (step, grad) in enumerate(zip(seen.steps, seen.held, strict=True)):
        rows = _after(reading, layer)
        total = total + (grad[:, :, rows].clamp(min=0) / (1 + (-step.s[:, :, rows]).exp())).sum((1, 2))
    return total


def daam(seen: Seen, reading: Reading) -> Tensor:
    """sum_l relu(sum_i sum_h sum_k relu(dy/dO_l[i, k]) * A_l[i, j] * V_l[j, k])."""
    total = torch.zeros(())
    for layer, (step, grad) in enumerate(zip(seen.steps, seen.outputs, strict=True)):
        rows = _after(reading, layer)
        found = torch.einsum("bhik,bhij,bhjk->bj", grad[:, :, rows].clamp(min=0), step.a[:, :, rows], step.v)
        total = total + found.clamp(min=0)
    return total


MAPS: dict[str, Callable[[Seen, Reading], Tensor | None]] = {
    "raw_attention": raw_attention,
    "rollout": rollout,
    "gradient_rollout": gradient_rollout,
    "generic_relevance": generic_relevance,
    "agcam": agcam,
    "daam": daam,
}
