"""Weights that are changed between softmax and values: no map may be made of what they were before.

What meets the values is what counts; where a method reads the scores before the softmax as well, it does not apply.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.research.layout import HEADS, WIDTH, Layout, Parts
from tests.research.plain import Projected, plain, projected_parts


class Steps(Projected):
    """Scores, softmax and product of (B, H, N, d), each of which a subclass may change."""

    def softmaxed(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1)

    def changed(self, weights: Tensor) -> Tensor:
        return weights

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = self.changed(self.softmaxed(q @ k.mT * q.shape[-1] ** -0.5))
        return (weights @ v).transpose(1, 2).flatten(2)


class TalkingHeads(Steps):
    """Heads are mixed between softmax and values."""

    def __init__(self) -> None:
        super().__init__()
        self.proj_w = nn.Linear(HEADS, HEADS)

    def changed(self, weights: Tensor) -> Tensor:
        return self.proj_w(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ReAttention(Steps):
    """The same by a product of matrices, behind which a norm follows."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Parameter(torch.zeros(HEADS, HEADS)), nn.LayerNorm(HEADS)

    def changed(self, weights: Tensor) -> Tensor:
        return self.norm(torch.einsum("bhij,hg->bijg", weights, self.mix)).permute(0, 3, 1, 2)


class Gated(Steps):
    """Weights times a gate of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(HEADS, 1, 1))

    def changed(self, weights: Tensor) -> Tensor:
        return weights * (1 + self.gate)


class Sparse(Steps):
    """Only the strongest weights are kept."""

    def changed(self, weights: Tensor) -> Tensor:
        return weights.where(weights >= weights.topk(5, dim=-1).values[..., -1:], torch.zeros_like(weights))


class Difference(Steps):
    """The difference of two attentions meets the values."""

    def changed(self, weights: Tensor) -> Tensor:
        return weights - 0.3 * weights.flip(1)


class TwoProducts(Steps):
    """The same weights meet two sets of values."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH // HEADS, WIDTH // HEADS)

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return (weights @ v + torch.tanh(weights @ self.other(k))).transpose(1, 2).flatten(2)


def changed_parts(module: Steps, x: Tensor) -> Parts:
    return projected_parts(module, x, change=module.changed)


def two_parts(module: TwoProducts, x: Tensor) -> Parts:
    """Both sets of values side by side."""
    parts = projected_parts(module, x)
    d = parts.v.shape[-1]

    def finish(out: Tensor) -> Tensor:
        return parts.finish(out[..., :d] + torch.tanh(out[..., d:]))

    return Parts(parts.q, parts.k, torch.cat([parts.v, module.other(parts.k)], -1), parts.scale, finish)


def changed(name: str, attention: Callable[[], nn.Module]) -> Layout:
    """AGCAM reads scores that are no longer those of the weights."""
    return plain(name, attention, changed_parts, uncertain=True, without=("agcam",))


LAYOUTS = [
    changed("talking heads", TalkingHeads),
    changed("re-attention", ReAttention),
    changed("gated weights", Gated),
    changed("strongest weights", Sparse),
    changed("difference", Difference),
    plain("two products", TwoProducts, two_parts, uncertain=True),
]
