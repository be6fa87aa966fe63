"""What listens while a model runs: one mode sees every attention, a stack of hooks tells in which layer it happens.

The mode is thread-local and the hooks answer only to the tap of their own context, so that threads can explain one
shared model at once. There are four ways to an attention, and all of them end in `attend`:

- torch's scaled_dot_product_attention, which the mode sees;
- torch's multi_head_attention_forward (nn.MultiheadAttention), inside which modes are off: the same steps are taken
  here, with what it was called with;
- a softmax that the layer computes itself, followed until it meets the values (`softmaxes`);
- attention that a layer computes between the projections that its adapter names (`steps`).
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import ops
from ..access import Adapter, AttentionCall, Computed, LayerLayout, Readout, TokenLayout
from ..errors import LayerNotRecordedError
from .inputs import Inputs
from .place import WHOLE, Place
from .softmaxes import Product, Softmaxes, of_heads
from .steps import listen_to_steps

Held = Callable[[Tensor], Tensor]
Attention = Callable[[Held], Tensor]  # its output (B, H, M, d), with what the weights are made of held

KERNELS = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_active: ContextVar["Tap | None"] = ContextVar("captum_vit_active_tap", default=None)


class Tap(TorchFunctionMode):
    """Hands every attention call inside the model's attention layers to `attend`; the rest runs as it is."""

    def __init__(self, adapter: Adapter, inputs: Inputs, readout: Readout | None, place: Place = WHOLE) -> None:
        super().__init__()
        self.place, self.batch = place, len(inputs.images)
        self.adapter, self.inputs, self.readout = adapter, inputs, readout
        self.layers = adapter.attention_layers()
        self.cross = adapter.cross_attention
        self.names = adapter.calls()
        self.scope: list[list[str | None]] = []  # what the attentions in each module are called, the innermost last
        self._nth: Counter[int] = Counter()  # how many of them have been seen
        self.seen: Counter[str] = Counter()
        self.found = False  # whether the attention of the innermost layer was seen
        self.softmaxes = Softmaxes()
        self.between_projections = set(adapter.projections())
        self._layout: TokenLayout | None = None

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        """The attention's output (B, H, M, d), for a call whose own `out` is still empty."""
        raise NotImplementedError

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Any other torch function."""
        return func(*args, **kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer."""
        return self.other(F.linear, (input, weight, bias), {})

    @property
    def layer(self) -> str | None:
        """The next attention in the innermost module that has any; None for one that is no layer."""
        names = self.scope[-1]
        return names[min(self._nth[id(names)], len(names) - 1)]

    @property
    def active(self) -> bool:
        """Whether the tap is that of the current context."""
        return _active.get() is self

    @property
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""
        if self._layout is None:  # the ViT was entered by another door than its forward
            return self._set_layout(self.inputs.images, self.inputs.kwargs)
        return self._layout

    def is_tokens(self, x: Tensor) -> bool:
        """Whether a tensor has the shape of the token stream, (B, N, anything)."""
        return x.dim() == 3 and self._layout is not None and x.shape[1] == self._layout.tokens

    def layer_layout(self, name: str, queries: int, keys: int) -> LayerLayout:
        """Where the layer's queries and keys lie."""
        return self.layout.of_layer(name, queries, keys, cross=self.cross.get(name))

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
                return self.multi_head(args, kwargs)
            if product is not None:
                return self.computed_attention(product, func, args, kwargs)
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
            return F.scaled_dot_product_attention(q, k, value, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale)

        return self._in_order(call, run)

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
        computed, values, forth, back = heads
        call = self.call(values, values, values, 1.0, None, computed)

        def run(hold: Held) -> Tensor:
            operands = list(args) if len(args) > 1 else [*args, *kwargs.values()]
            operands = [hold(x) if x is product.followed.now else x for x in operands]
            return forth(self.other(func, tuple(operands), {}))

        return back(self._in_order(call, run))

    def _in_order(self, call: AttentionCall, run: Attention) -> Tensor:
        """`attend` with the tokens as they lie on the image, whatever their order in the model."""
        order = call.layout.order
        if order is None:
            return self.attend(call, run)
        ordered = call.in_order(order)
        if call.queries != call.layout.keys:
            return self.attend(ordered, run)
        order = order.to(call.v.device)
        return self.attend(ordered, lambda hold: run(hold)[:, :, order])[:, :, order.argsort()]

    def multi_head(self, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
        """multi_head_attention_forward: (L, B, E) in and out, and the attention if it is asked for."""
        bound = _MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        a = bound.arguments
        unusual = ("bias_k", "bias_v", "static_k", "static_v", "key_padding_mask")
        found = [name for name in unusual if a[name] is not None] + ["add_zero_attn"] * a["add_zero_attn"]
        if found or a["query"].dim() != 3:
            raise LayerNotRecordedError(
                f"layer {self.layer!r} calls nn.MultiheadAttention with {', '.join(found) or 'unbatched input'}, "
                f"which leads to attention over other keys than the tokens"
            )
        q, k, v = (part.unflatten(-1, (a["num_heads"], -1)).transpose(1, 2) for part in self._projected(a))
        mask = a["attn_mask"]
        if mask is not None:
            mask = mask.logical_not() if mask.dtype == torch.bool else mask  # True means "left out" there
            mask = mask.unflatten(0, (-1, a["num_heads"])) if mask.dim() == 3 else mask
        out = self.fused_attention(q, k, v, attn_mask=mask, dropout_p=a["dropout_p"] if a["training"] else 0.0)
        out = self.linear(out.transpose(1, 2).flatten(2), a["out_proj_weight"], a["out_proj_bias"]).transpose(0, 1)
        if not a["need_weights"]:
            return out, None
        attention = ops.attention_scores(q, k, q.shape[-1] ** -0.5, mask).softmax(-1).to(out.dtype)
        return out, attention.mean(1) if a["average_attn_weights"] else attention

    def _projected(self, a: Mapping[str, Any]) -> list[Tensor]:
        """Queries, keys and values of multi_head_attention_forward, (B, N, E) each."""
        query, key, value = (x.transpose(0, 1) for x in (a["query"], a["key"], a["value"]))
        weight, bias = a["in_proj_weight"], a["in_proj_bias"]
        if a["query"] is a["key"] and a["key"] is a["value"] and not a["use_separate_proj_weight"]:
            return list(self.linear(query, weight, bias).chunk(3, -1))
        own = [a[f"{letter}_proj_weight"] for letter in "qkv"]
        weights = own if a["use_separate_proj_weight"] else weight.detach().chunk(3)
        biases = [None] * 3 if bias is None else bias.detach().chunk(3)
        return [self.linear(*part) for part in zip((query, key, value), weights, biases, strict=True)]

    def call(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, computed: Computed | None = None
    ) -> AttentionCall:
        """The attention that the innermost layer is about to compute."""
        name = self.layer
        assert name is not None
        self._nth[id(self.scope[-1])] += 1
        self.seen[name] += 1
        if self.seen[name] > 1:  # before its layout is asked, which may not hold for what comes now
            self._check(name, self.layers[name])
        empty = v.new_empty(0)
        if computed is None:
            layout = self.layer_layout(name, q.shape[-2], k.shape[-2])
            return AttentionCall(name, q, k, v, scale, bias, empty, layout)
        layout = self.layer_layout(name, *computed.scores.shape[-2:])
        return AttentionCall(name, empty, empty, v, scale, bias, empty, layout, computed=computed)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks and mode in place; at the end every attention layer must have been seen exactly once."""
        token = _active.set(self)
        try:
            with ExitStack() as stack:
                for module, names in self.names.items():
                    stack.callback(module.register_forward_pre_hook(self._enter(names)).remove)
                    stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
                listen_to_steps(self, stack)
                look = self.adapter.vit.register_forward_pre_hook(self._look_at_images, with_kwargs=True)
                stack.callback(look.remove)
                if self.adapter.stem is not None:
                    stack.callback(self.adapter.stem.register_forward_pre_hook(self._look_at_pixels).remove)
                stack.enter_context(self)
                yield
        finally:
            _active.reset(token)
        for name, module in self.layers.items():
            self._check(name, module)

    def _check(self, name: str, module: nn.Module) -> None:
        count = self.seen[name]
        if count == 1 or (count == 0 and name in self.cross):  # an owner may read the tokens in another way
            return
        how = (
            f"ran {count} times in one forward, as where several views of an image go through one after another: "
            f"explain the module that takes one view, on each of them"
            if count
            else "computed no softmax of scores that then met values"
        )
        raise LayerNotRecordedError(
            f"expected one attention in layer {name!r} ({type(module).__name__}), but it {how}: "
            f"{type(self.adapter).__name__} cannot see the attention of this {type(self.adapter.model).__name__}"
        )

    def _enter(self, names: list[str | None]) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if self.active:
                self.scope.append(names)
                self.found = False
                self.softmaxes.forget()

        return hook

    def _leave(self, *_: Any) -> None:
        if self.active and self.scope:
            self.scope.pop()
            self.softmaxes.forget()

    # torch calls a hook without kwargs if it is removed after being listed, as happens between threads
    def _look_at_images(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if not self.active or kwargs is None:
            return
        arguments = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        dims = self.adapter.batch_dims
        images = next((x for x in arguments.values() if isinstance(x, Tensor) and x.dim() == dims), None)
        if images is not None:
            self.batch = len(images)
            self._set_layout(images, arguments)

    def _look_at_pixels(self, module: nn.Module, args: tuple) -> None:
        """Of a ViT that is entered by another door than its forward."""
        if (
            self.active
            and self._layout is None
            and args
            and isinstance(args[0], Tensor)
            and args[0].dim() == self.adapter.batch_dims
        ):
            self.batch = len(args[0])
            self._set_layout(args[0], self.inputs.kwargs)

    def _set_layout(self, images: Tensor, arguments: Mapping[str, Any]) -> TokenLayout:
        size = self.adapter.size_of(images)
        layout = self.adapter.token_layout(size, arguments)
        order = layout.order if self.place.order is None else self.place.order
        readout = self.readout or layout.readout
        self._layout = replace(layout, readout=readout, image_size=size, view=self.place.view or layout.view, order=order)
        return self._layout
