"""One attention: its queries, keys and values, and what follows from them without an N x N tensor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import LayerNotRecordedError
from .tokens import LayerLayout

Rows = slice | list[int]  # query rows of an attention
HIDING = -1e4  # scores of masks, from where down a softmax gives 0 in any type: libraries write -inf, -1e9 or -1e4


@dataclass(frozen=True)
class Computed:
    """The attention of a layer that computes its softmax itself, as it stood where it met the values.

    >>> Computed(scores=torch.tensor([[[[0.0, 2.0], [1.0, 1.0]]]])).rows([0]).scores  # of the first query alone
    tensor([[[[0., 2.]]]])

    scores: before the softmax, (B, H, M, N).
    weights: what multiplied the values, (B, H, M, N), where something changed the softmax's output on the way, as a
        hook that switches a head off; None where it is that output, but for dropout.
    """

    scores: Tensor
    weights: Tensor | None = None

    def rows(self, rows: Rows) -> "Computed":
        """Of some query rows alone."""
        weights = None if self.weights is None else self.weights[:, :, rows]
        return Computed(self.scores[:, :, rows], weights)


@dataclass(frozen=True)
class AttentionCall:
    """One recorded softmax attention: `S = scale * q k^T + bias`, `A = softmax(S)`, `out = A v`.

    >>> run = Run(adapt(model), Inputs(images), needs={ATTENTION})
    >>> call = run.calls(["blocks.11.attn"], {ATTENTION})["blocks.11.attn"]
    >>> call.weights([0]).shape  # what the class token looks at, (B, H, 1, N)
    torch.Size([2, 12, 1, 197])

    q, out: (B, H, M, d).  k, v: (B, H, N, d).  bias: broadcastable to (B, H, M, N), additive or boolean.
    No N x N tensor is ever held; `rows` chooses query rows.
    mix: where a model changes A before it meets the values (talking heads), (A[rows], rows) -> A[rows].
    mix_scores: where it changes S before the softmax, S[rows] -> S[rows].
    computed: where the layer computed S itself; then q and k are empty unless it was seen of what product S was made.
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    bias: Tensor | None
    out: Tensor
    layout: LayerLayout
    mix: Callable[[Tensor, Rows], Tensor] | None = None
    mix_scores: Callable[[Tensor], Tensor] | None = None
    computed: Computed | None = None

    @property
    def batch(self) -> int:
        return self._known.shape[0]

    @property
    def heads(self) -> int:
        return self._known.shape[1]

    @property
    def queries(self) -> int:
        """Query rows that are held, M or fewer."""
        return self._known.shape[2]

    @property
    def compares(self) -> bool:
        """Whether queries and keys are known; of scores that a layer computes itself they may not be seen."""
        return self.computed is None or self.q.dim() > 1

    @property
    def _known(self) -> Tensor:
        return self.q if self.computed is None else self.computed.scores

    def parts(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Query rows in parts small enough to hold their attention at once."""
        for part in ops.row_chunks(len(rows), self.layout.keys, self.batch * self.heads):
            yield list(rows[part])

    def scores(self, rows: Rows) -> Tensor:
        """Attention before the softmax, (B, H, R, N).

        Raises:
            LayerNotRecordedError: something stands between the softmax and the values, so that gradients at what
                multiplies the values are not gradients at the softmax.
        """
        if self.computed is not None:
            if self.computed.weights is not None:
                raise LayerNotRecordedError(
                    f"the attention of layer {self.name!r} is changed between its softmax and its values, as by a hook "
                    f"on its dropout: a method that reads scores before the softmax does not apply to it. Methods that "
                    f"read the attention alone do: raw attention, rollout, DAAM"
                )
            return ops.widen(self.computed.scores[:, :, rows])
        bias = self.bias
        if bias is not None and bias.shape[-2] > 1:
            bias = bias[..., rows, :]
        scores = ops.attention_scores(self.q[:, :, rows], self.k, self.scale, bias)
        if self.mix_scores is None:
            return scores
        with ops.full_precision(scores.device):
            return self.mix_scores(scores)

    def weights(self, rows: Rows) -> Tensor:
        """Attention after the softmax, (B, H, R, N)."""
        if self.computed is not None and self.computed.weights is not None:
            return ops.widen(self.computed.weights[:, :, rows])
        weights = self.scores(rows).softmax(-1)
        if self.mix is None:
            return weights
        with ops.full_precision(weights.device):
            return self.mix(weights, rows)

    def hidden(self, rows: Rows) -> Tensor | None:
        """Which keys a mask hides from the queries, bool, broadcastable to (B, H, R, N); None without a mask."""
        bias = self.computed.scores if self.computed is not None else self.bias
        if bias is None:
            return None
        chosen = bias[..., rows, :] if bias.shape[-2] > 1 else bias
        masked = ~chosen if bias.dtype == torch.bool else chosen <= HIDING
        return masked[(None,) * (4 - masked.dim())] if masked.any() else None

    def weight_grad(self, rows: Rows, out_grad: Tensor) -> Tensor:
        """`dy/dA[rows] = (dy/dO[rows]) v^T`, (B, H, R, N), from the gradient at the output (B, H, M, d)."""
        with ops.full_precision(self.v.device):
            return ops.widen(out_grad[:, :, rows]) @ ops.widen(self.v).mT

    def pull(self, c: Tensor) -> Tensor:
        """`A^T c`, (B, H, N, e) from c (B, H, M, e), in chunks of rows."""
        batch, heads, queries, _ = c.shape
        pulled = c.new_zeros(batch, heads, self.layout.keys, c.shape[-1])
        for rows in ops.row_chunks(queries, self.layout.keys, batch * heads):
            with ops.full_precision(c.device):
                pulled += self.weights(rows).mT @ c[:, :, rows]
        return pulled

    def in_order(self, order: Tensor) -> "AttentionCall":
        """The call with its keys in another order, and its queries too if they are the same tokens."""
        rows: Any = slice(None) if self.queries != self.layout.keys else order.to(self.v.device)
        keys = order.to(self.v.device)
        v = self.v[:, :, keys]
        if self.computed is not None:
            weights = self.computed.weights
            scores = self.computed.scores[:, :, rows][..., keys]
            computed = Computed(scores, None if weights is None else weights[:, :, rows][..., keys])
            q, k = (self.q[:, :, rows], self.k[:, :, keys]) if self.compares else (self.q, self.k)
            return replace(self, q=q, k=k, v=v, computed=computed)
        bias = self.bias
        if bias is not None:
            bias = bias[..., rows, :] if bias.shape[-2] > 1 else bias
            bias = bias[..., keys] if bias.shape[-1] > 1 else bias
        mix, mix_scores = self._changes_in_order(rows, keys)
        call = replace(self, q=self.q[:, :, rows], k=self.k[:, :, keys], v=v, bias=bias)
        return replace(call, mix=mix, mix_scores=mix_scores)

    def _changes_in_order(
        self, own: Any, keys: Tensor
    ) -> tuple[Callable[[Tensor, Rows], Tensor] | None, Callable[[Tensor], Tensor] | None]:
        """What the model does to its attention, for rows and keys in another order than its own."""
        mix, mix_scores, back = self.mix, self.mix_scores, keys.argsort()

        def mixed(weights: Tensor, rows: Rows) -> Tensor:
            assert mix is not None
            asked = rows if isinstance(own, slice) else own[rows].tolist()
            return mix(weights[..., back], asked)[..., keys]

        def mixed_scores(scores: Tensor) -> Tensor:
            assert mix_scores is not None
            return mix_scores(scores[..., back])[..., keys]

        return mix and mixed, mix_scores and mixed_scores

    def first_rows(self, count: int) -> "AttentionCall":
        """The call for its first `count` queries alone."""
        if self.computed is not None:
            q = self.q[:, :, :count] if self.compares else self.q
            return replace(self, q=q, computed=self.computed.rows(slice(count)), out=self.out[:, :, :count])
        bias = self.bias if self.bias is None or self.bias.shape[-2] == 1 else self.bias[..., :count, :]
        return replace(self, q=self.q[:, :, :count], out=self.out[:, :, :count], bias=bias)


@dataclass(frozen=True)
class Projections:
    """The modules around an attention that its layer computes step by step, so that no fused kernel is called.

    >>> attn = model.blocks[0].attn
    >>> def split(qkv):  # (B, N, 3 * H * d) -> q, k and v
    ...     return qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    >>> projections = Projections((attn.qkv,), split, attn.proj, attn.scale)
    >>> projections.split(attn.qkv(torch.randn(2, 197, 768)))[0].shape
    torch.Size([2, 12, 197, 64])

    inputs: modules whose outputs hold q, k and v, in the order in which they run. They have to be called.
    split: these outputs -> q, k and v, (B, H, N, d) each, of as many heads each; norms and rotary positions too.
    output: the module whose first input is the attention's output, (B, M, H*d).
    scale, mix, mix_scores: as in AttentionCall. Rows are a slice or a list of query rows, (B, H, R, N) are given.

    In each forward two query rows are computed again from these, and must be what the layer computed.
    """

    inputs: tuple[nn.Module, ...]
    split: Callable[..., tuple[Tensor, Tensor, Tensor]]
    output: nn.Module
    scale: float
    mix: Callable[[Tensor, Rows], Tensor] | None = None
    mix_scores: Callable[[Tensor], Tensor] | None = None
