"""The ways to an attention other than torch's scaled_dot_product_attention; what they find, they hand to the tap.

- torch's multi_head_attention_forward (nn.MultiheadAttention), inside which modes are off: the same steps are taken
  here, with what it was called with;
- attention that a layer computes step by step, between the projections that its adapter names.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..access import AttentionCall, Projections
from ..errors import LayerNotRecordedError, UnsupportedModelError

if TYPE_CHECKING:
    from .taps import Tap

_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def multi_head(tap: "Tap", args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
    """multi_head_attention_forward: (L, B, E) in and out, and the attention if it is asked for."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    unusual = ("bias_k", "bias_v", "static_k", "static_v", "key_padding_mask")
    found = [name for name in unusual if a[name] is not None] + ["add_zero_attn"] * a["add_zero_attn"]
    if found or a["query"].dim() != 3:
        raise LayerNotRecordedError(
            f"layer {tap.scope[-1]!r} calls nn.MultiheadAttention with {', '.join(found) or 'unbatched input'}, "
            f"which leads to attention over other keys than the tokens"
        )
    query, key, value = (x.transpose(0, 1) for x in (a["query"], a["key"], a["value"]))
    weight, bias, heads = a["in_proj_weight"], a["in_proj_bias"], a["num_heads"]
    if a["query"] is a["key"] and a["key"] is a["value"] and not a["use_separate_proj_weight"]:
        parts = list(tap.linear(query, weight, bias).chunk(3, -1))
    else:
        own = [a[f"{letter}_proj_weight"] for letter in "qkv"]
        weights = own if a["use_separate_proj_weight"] else weight.detach().chunk(3)
        biases = [None] * 3 if bias is None else bias.detach().chunk(3)
        parts = [tap.linear(*part) for part in zip((query, key, value), weights, biases, strict=True)]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)  # (B, H, N, d)
    mask = a["attn_mask"]
    if mask is not None:
        mask = mask.logical_not() if mask.dtype == torch.bool else mask  # True means "left out" there
        mask = mask.unflatten(0, (-1, heads)) if mask.dim() == 3 else mask
    dropout = a["dropout_p"] if a["training"] else 0.0
    out = tap.fused_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    out = tap.linear(out.transpose(1, 2).flatten(2), a["out_proj_weight"], a["out_proj_bias"]).transpose(0, 1)
    if not a["need_weights"]:
        return out, None
    attention = ops.attention_scores(q, k, q.shape[-1] ** -0.5, mask).softmax(-1).to(out.dtype)
    return out, attention.mean(1) if a["average_attn_weights"] else attention


class Steps:
    """An attention between its projections, computed step by step by the layer itself."""

    CHECKED_ROWS = (0, -1)

    def __init__(self, tap: "Tap", projections: Projections) -> None:
        self.tap, self.projections = tap, projections
        self.projected: dict[int, Tensor] = {}

    def listen(self, stack: ExitStack) -> None:
        for index, module in enumerate(self.projections.inputs):
            stack.callback(module.register_forward_hook(self._after_input(index)).remove)
        stack.callback(self.projections.output.register_forward_pre_hook(self._before_output).remove)

    def _after_input(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self.tap.active:
                self.projected[index] = output

        return hook

    def _before_output(self, module: nn.Module, args: tuple) -> tuple | None:
        if not self.tap.active or not self.tap.scope:
            return None
        p, merged, projected = self.projections, args[0], self.projected  # merged: (B, M, H*d)
        self.projected = {}
        if self.tap.fused:
            return None
        if len(projected) != len(p.inputs):
            raise LayerNotRecordedError(
                f"layer {self.tap.scope[-1]!r} computes its attention without calling the modules that project its "
                f"queries, keys and values, so that these are not seen: call them, not F.linear with their weights"
            )
        q, k, v = p.split(*(projected[index] for index in range(len(p.inputs))))
        call = replace(self.tap.call(q, k, v, p.scale, None), mix=p.mix, mix_scores=p.mix_scores)
        own = merged.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)  # (B, H, M, d)

        def run(*inputs: Tensor) -> Tensor:
            if all(x is y for x, y in zip(inputs, (q, k, v), strict=True)):
                return own
            if not call.layout.skip:  # of which the values stay in the graph
                raise UnsupportedModelError(f"{call.name}: attention pools computed step by step are not supported")
            return own.detach()

        out = self.tap.attend(call, run)
        self._compare(call, own, out)
        return (out.transpose(1, 2).flatten(2), *args[1:])

    def _compare(self, call: AttentionCall, own: Tensor, out: Tensor) -> None:
        """The layer must compute what it is taken for."""
        if self.tap.adapter.training or out.shape != own.shape or out.data_ptr() != own.data_ptr():
            return  # with dropout, or in a replay, where the attention is given
        rows = [row % call.q.shape[2] for row in self.CHECKED_ROWS]
        with torch.no_grad():
            expected = call.weights(rows) @ ops.widen(call.v)
            worst = (expected - own[:, :, rows]).abs().max().item()
            size = own.abs().max().item()
            # large scores are rounded by much in half precision, and the softmax takes their difference as an exponent
            rounding = torch.finfo(own.dtype).eps * call.scores(rows).abs().max().item()
        if worst > (0.02 + rounding) * size:
            raise LayerNotRecordedError(
                f"layer {call.name!r} computes something else than softmax(scale q k^T) v between its projections: "
                f"values differ by {worst:.2g}, of at most {size:.2g}"
            )
