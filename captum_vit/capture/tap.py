"""What listens while a model runs: one mode sees every attention.

There are four ways to an attention, and all of them end in `attend`:

- torch's scaled_dot_product_attention, which the mode sees;
- torch's multi_head_attention_forward (nn.MultiheadAttention), inside which modes are off: the same steps are taken
  here, with what it was called with;
- a softmax that the layer computes itself, followed until it meets the values (`softmaxes`);
- attention that a layer computes between the projections that its adapter names (`steps`).

The mode is thread-local, as what `scopes` knows.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import LayerNotRecordedError
from .scopes import CarriedError, Held, Scopes
from .softmaxes import Product, of_heads
from .still import PERMUTED, in_own_order

KERNELS = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


class Tap(Scopes):
    """Hands every attention call inside the model's attention layers to `attend`; the rest runs as it is."""

    detached = True  # whether parameters are constants

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Any other torch function."""
        return func(*args, **kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer."""
        return self.other(F.linear, (input, weight, bias), {})

    def kernel(self, args: tuple, kwargs: dict) -> Tensor:
        """scaled_dot_product_attention of a layer, (B, H, M, d)."""
        return F.scaled_dot_product_attention(*args, **kwargs)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.scope:
            product = self.softmaxes.product(func, args, kwargs)
            if self.layer is None and (product is not None or func in KERNELS):
                self._nth[id(self.scope[-1])] += 1
                self.softmaxes.forget()
                return self.other(func, args, kwargs)
            if func is F.scaled_dot_product_attention:
                return self.fused_attention(*args, **kwargs)
            if func is F.multi_head_attention_forward:
                return self.multi_head(args, kwargs, self.fused_attention)
            if product is not None:
                return self.computed_attention(product, func, args, kwargs)
        if func in PERMUTED and (rows := in_own_order(func, args, kwargs)) is not None:
            return rows
        out = self.linear(*args, **kwargs) if func is F.linear else self.other(func, args, kwargs)
        if self.scope and self.layer not in self.between_projections:
            self.softmaxes.note(func, args, kwargs, out)
        return out

    def fused_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """scaled_dot_product_attention."""
        self.found = True
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        call = self.call(query, key, value, scale, attn_mask)

        def run(hold: Held) -> Tensor:
            q, k = hold(query), hold(key)
            return self.kernel((q, k, value), {"attn_mask": attn_mask, "dropout_p": dropout_p, "scale": scale})

        return self.in_order(call, run)

    def computed_attention(self, product: Product, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A softmax that the layer computed, and now multiplies with the values."""
        heads = of_heads(product, self.batch)
        if heads is None:
            raise LayerNotRecordedError(
                f"the attention of layer {self.layer!r} has the shape {tuple(product.weights.shape)}, and not (images, "
                f"heads, queries, keys): what stands for the images and what for the heads is not known"
            )
        self.found = True
        self.softmaxes.forget()
        computed, values, forth, back, factors = heads
        q, k = factors or (values.new_empty(0), values.new_empty(0))
        call = self.call(q, k, values, 1.0, None, computed)

        def run(hold: Held) -> Tensor:
            operands = list(args) if len(args) > 1 else [*args, *kwargs.values()]
            operands = [hold(x) if x is product.followed.now else x for x in operands]
            return forth(self.other(func, tuple(operands), {}))

        try:
            return back(self.in_order(call, run))
        except TypeError as error:  # from inside an operator, as @, Python would make another of it
            raise CarriedError from error

    def multi_head(self, args: tuple, kwargs: dict, attention: Callable[..., Tensor]) -> tuple[Tensor, Tensor | None]:
        """multi_head_attention_forward: (L, B, E) in and out, and the attention if it is asked for.

        attention: scaled_dot_product_attention, as a layer of the model or as none.
        """
        bound = _MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        a = bound.arguments
        unusual = ("bias_k", "bias_v", "static_k", "static_v", "key_padding_mask")
        found = [name for name in unusual if a[name] is not None] + ["add_zero_attn"] * a["add_zero_attn"]
        if found or a["query"].dim() != 3:
            layer = self.layer if self.scope else None
            raise LayerNotRecordedError(
                f"layer {layer!r} calls nn.MultiheadAttention with {', '.join(found) or 'unbatched input'}, "
                f"which leads to attention over other keys than the tokens"
            )
        q, k, v = (part.unflatten(-1, (a["num_heads"], -1)).transpose(1, 2) for part in self._projected(a))
        mask = a["attn_mask"]
        if mask is not None:
            mask = mask.logical_not() if mask.dtype == torch.bool else mask  # True means "left out" there
            mask = mask.unflatten(0, (-1, a["num_heads"])) if mask.dim() == 3 else mask
        out = attention(q, k, v, attn_mask=mask, dropout_p=a["dropout_p"] if a["training"] else 0.0)
        out = self.linear(out.transpose(1, 2).flatten(2), a["out_proj_weight"], a["out_proj_bias"]).transpose(0, 1)
        if not a["need_weights"]:
            return out, None
        weights = ops.attention_scores(q, k, q.shape[-1] ** -0.5, mask).softmax(-1).to(out.dtype)
        return out, weights.mean(1) if a["average_attn_weights"] else weights

    def _projected(self, a: Mapping[str, Any]) -> list[Tensor]:
        """Queries, keys and values of multi_head_attention_forward, (B, N, E) each."""
        query, key, value = (x.transpose(0, 1) for x in (a["query"], a["key"], a["value"]))
        weight, bias = a["in_proj_weight"], a["in_proj_bias"]
        if a["query"] is a["key"] and a["key"] is a["value"] and not a["use_separate_proj_weight"]:
            return list(self.linear(query, weight, bias).chunk(3, -1))
        own = [a[f"{letter}_proj_weight"] for letter in "qkv"]
        if self.detached:  # parts of a parameter are none themselves, and would not be known for constants
            weight, bias = weight if weight is None else weight.detach(), bias if bias is None else bias.detach()
        weights = own if a["use_separate_proj_weight"] else weight.chunk(3)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        return [self.linear(*part) for part in zip((query, key, value), weights, biases, strict=True)]
