"""Attention by explicit softmax, as a model itself computes it, and the methods' maps from its matrices.

Nothing here is the library's: a mode notes the softmax and the product with the values in every attention layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass
class Step:
    """Scores S, weights A (B, H, M, N), values V (B, H, N, d), output O (B, H, M, d).

    pool: whether its queries are tokens of their own.  skip: whether they are led past the attention as well.
    """

    s: Tensor
    a: Tensor
    v: Tensor
    o: Tensor
    pool: bool = False
    skip: bool = True


class Notebook(TorchFunctionMode):
    """Notes the steps of each layer; with `constant`, the input of every attention counts as a constant."""

    def __init__(self, layers: dict[str, nn.Module], cross: Mapping[str, bool], constant: bool) -> None:
        super().__init__()
        self.layers, self.cross, self.constant = layers, cross, constant
        self.inside: list[str] = []
        self.softmaxed: Tensor | None = None
        self.steps: dict[str, Step] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        if not self.inside or name not in ("softmax", "matmul", "__matmul__"):
            return func(*args, **kwargs)
        if name == "softmax":
            if self.softmaxed is None:
                self.softmaxed = args[0]
            return func(*args, **kwargs)
        left, right = args
        if self.softmaxed is None:  # q and k
            return func(left.detach(), right.detach()) if self.constant else func(left, right)
        name = self.inside[-1]
        pool = name in self.cross
        if self.constant:
            left, right = left.detach().requires_grad_(), right if pool else right.detach()
        out = func(left, right)
        self.steps[name] = Step(self.softmaxed, left, right, out, pool, self.cross.get(name, True))
        self.softmaxed = None
        return out

    def run(self, model: nn.Module, x: Tensor, scores: Callable, target: int) -> tuple[Tensor, dict[str, Step]]:
        """The target's score (B,) and the steps by layer."""
        hooks = []
        for name, layer in self.layers.items():
            hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name)))
            hooks.append(layer.register_forward_hook(lambda *_: self.inside.pop() and None))
        try:
            with torch.enable_grad(), self:
                output = model(x.clone().requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
        return scores(output)[:, target], self.steps


def gradients(score: Tensor, steps: list[Step]) -> list[tuple[Tensor, Tensor]]:
    """dy/dA and dy/dO of each step."""
    leaves = [t for step in steps for t in (step.a, step.o)]
    found = torch.autograd.grad(score.sum(), leaves, materialize_grads=True)
    return list(zip(found[::2], found[1::2], strict=True))


def rows_of(step: Step, tokens: list[int]) -> list[int]:
    """The queries of a step that are read: the tokens, from the end; all, where these are class tokens or latents."""
    return tokens if step.a.shape[2] == step.a.shape[3] else list(range(step.a.shape[2]))


def reads(step: Step, tokens: list[int]) -> bool:
    """Whether any of the tokens, from the end, is a query of the step; the latents of a pool are."""
    queries, keys = step.a.shape[2:]
    return step.pool or any(keys + token in range(queries) for token in tokens)


def agcam(steps: list[Step], grads: list, tokens: list[int], patches: int) -> Tensor:
    maps = 0
    for step, (grad, _) in zip(steps, grads, strict=True):
        rows = rows_of(step, tokens)
        maps = maps + (grad[:, :, rows].clamp(min=0) * torch.sigmoid(step.s[:, :, rows])).sum((1, 2))[:, -patches:]
    return maps


def daam(steps: list[Step], grads: list, tokens: list[int], patches: int) -> Tensor:
    maps = 0
    for step, (_, grad) in zip(steps, grads, strict=True):
        rows = rows_of(step, tokens)
        weighted = step.a[:, :, rows, :, None] * step.v[:, :, None] * grad[:, :, rows, None].clamp(min=0)
        maps = maps + weighted.sum((1, 2, 4))[:, -patches:].clamp(min=0)
    return maps


def rollout(fused: list[Tensor], steps: list[Step], start: Tensor, patches: int) -> Tensor:
    """start . step_L ... step_1, each step a full matrix over its keys: rownorm(F + I), of a pool rownorm(F).

    The start is over the last step's keys; over its queries, where that is a pool. Where the queries of a pool are led
    past it, its rows are those of rownorm([F | I]), and what goes past is no patch.
    """
    state = start[None, None].expand(len(fused[0]), 1, -1)
    for matrix, step in zip(reversed(fused), reversed(steps), strict=True):
        queries, keys = matrix.shape[1:]
        if step.pool:
            state = state @ (matrix / (matrix.sum(-1, keepdim=True) + step.skip))
            continue
        state = F.pad(state, (keys - state.shape[2], 0))
        whole = F.pad(matrix, (0, 0, 0, keys - queries)) + torch.eye(keys, dtype=matrix.dtype)
        state = state @ (whole / whole.sum(-1, keepdim=True))
    return state[:, 0, -patches:]


def discard(fused: Tensor, ratio: float) -> Tensor:
    """The lowest share of each image's entries set to zero, by sorting."""
    flat = fused.detach().flatten(1).clone()
    for row in flat:
        row[row.argsort()[: int(row.numel() * ratio)]] = 0
    return flat.view_as(fused)


def unfuse_multi_head(model: nn.Module) -> None:
    """nn.MultiheadAttention step by step, where a mode can see it."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.forward = partial(multi_head, module)


def multi_head(module: nn.MultiheadAttention, *tokens: Tensor, **_: Any) -> tuple[Tensor, None]:
    """What nn.MultiheadAttention computes for query, key and value, (B, N, D) each."""
    projections = zip(tokens, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    q, k, v = (F.linear(*part).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in projections)
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return module.out_proj((attention @ v).transpose(1, 2).flatten(2)), None
