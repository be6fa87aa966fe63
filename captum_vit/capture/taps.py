"""What listens while a model runs: one mode sees every attention, a stack of hooks tells in which layer it happens.

The mode is thread-local and the hooks answer only to the tap of their own context, so that threads can explain one
shared model at once. There are three routes to an attention, and all of them end in `attend`:

- torch's scaled_dot_product_attention, which the mode sees;
- torch's multi_head_attention_forward (nn.MultiheadAttention), inside which modes are off (`routes`);
- attention that a layer computes step by step, between the projections that its adapter names (`routes`).
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..access import Adapter, AttentionCall, LayerLayout, Readout, TokenLayout
from ..errors import LayerNotRecordedError, TokenLayoutError
from .routes import Steps, multi_head
from .shelf import Shelf

if TYPE_CHECKING:
    from .running import Inputs, Recording

Keep = Callable[[AttentionCall], Any]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Linears = dict[int, tuple[Tensor, list[Tensor]]]  # id of the weight -> it (so that the id stays its own), outputs

_active: ContextVar["Tap | None"] = ContextVar("captum_vit_active_tap", default=None)


class Tap(TorchFunctionMode):
    """Hands every attention call inside the model's attention layers to `attend`; the rest runs as it is."""

    def __init__(self, adapter: Adapter, inputs: "Inputs", readout: Readout | None) -> None:
        super().__init__()
        self.adapter, self.inputs, self.readout = adapter, inputs, readout
        self.layer_count = len(adapter.attention_layers())
        self.pool = adapter.pool
        self.scope: list[str] = []
        self.seen: Counter[str] = Counter()
        self.fused = False  # whether torch was asked for the attention of the innermost layer
        self._layout: TokenLayout | None = None

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        """The attention's output (B, H, M, d), for a call whose own `out` is still empty."""
        raise NotImplementedError

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Any other torch function."""
        return func(*args, **kwargs)

    @property
    def active(self) -> bool:
        """Whether the tap is that of the current context."""
        return _active.get() is self

    @property
    def layout(self) -> TokenLayout:
        if self._layout is None:  # the ViT was entered by another door than its forward
            return self._set_layout(self.inputs.images, self.inputs.kwargs)
        return self._layout

    def layer_layout(self, name: str, q: Tensor, k: Tensor) -> LayerLayout:
        """Where the layer's queries and keys lie."""
        return self.layout.of_layer(name, q.shape[-2], k.shape[-2], pool=name == self.pool)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention and self.scope:
            self.fused = True
            return self.fused_attention(*args, **(kwargs or {}))
        if func is F.linear:
            return self.linear(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward and self.scope:
            return multi_head(self, args, kwargs or {})
        return self.other(func, args, kwargs or {})

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer; once the last attention is over, only on the prefix if the score is read from there."""
        over = self.readout is not None and self.readout.only_prefix and len(self.seen) == self.layer_count
        if not (over and self._is_token_sequence(input)):
            return self.other(F.linear, (input, weight, bias), {})
        prefix = self.other(F.linear, (input[:, : self.layout.prefix], weight, bias), {})
        return F.pad(prefix, (0, 0, 0, input.shape[1] - prefix.shape[1]))

    def _is_token_sequence(self, x: Tensor) -> bool:
        return x.dim() == 3 and self._layout is not None and x.shape[1] == self._layout.tokens

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
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        call = self.call(query, key, value, scale, attn_mask)

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale)

        return self.attend(call, run)

    def call(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> AttentionCall:
        name = self.scope[-1]
        self.seen[name] += 1
        if self.seen[name] > 1:  # before its layout is asked, which may not hold for what comes now
            self._check(name, self.adapter.attention_layers()[name])
        return AttentionCall(name, q, k, v, scale, bias, q.new_empty(0), self.layer_layout(name, q, k))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks and mode in place; at the end every attention layer must have been seen exactly once."""
        layers = self.adapter.attention_layers()
        token = _active.set(self)
        try:
            with ExitStack() as stack:
                for name, module in layers.items():
                    stack.callback(module.register_forward_pre_hook(self._enter(name)).remove)
                    stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
                for projections in self.adapter.projections().values():
                    Steps(self, projections).listen(stack)
                look = self.adapter.vit.register_forward_pre_hook(self._look_at_images, with_kwargs=True)
                stack.callback(look.remove)
                stack.enter_context(self)
                yield
        finally:
            _active.reset(token)
        for name, module in layers.items():
            self._check(name, module)

    def _check(self, name: str, module: nn.Module) -> None:
        count = self.seen[name]
        if count == 1 or (count == 0 and name == self.pool):  # an owner may read the tokens in another way
            return
        how = (
            f"ran {count} times in one forward" if count else "did not run through torch's scaled_dot_product_attention"
        )
        raise LayerNotRecordedError(
            f"expected one attention in layer {name!r} ({type(module).__name__}), but it {how}: "
            f"{type(self.adapter).__name__} cannot see the attention of this {type(self.adapter.model).__name__}"
        )

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if self.active:
                self.scope.append(name)
                self.fused = False

        return hook

    def _leave(self, *_: Any) -> None:
        if self.active and self.scope:
            self.scope.pop()

    # torch calls a hook without kwargs if it is removed after being listed, as happens between threads
    def _look_at_images(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if not self.active or kwargs is None:
            return
        arguments = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        images = next((x for x in arguments.values() if isinstance(x, Tensor) and x.dim() == 4), None)
        if images is not None:
            self._set_layout(images, arguments)

    def _set_layout(self, images: Tensor, arguments: Mapping[str, Any]) -> TokenLayout:
        size = (images.shape[2], images.shape[3])
        layout = self.adapter.token_layout(size, arguments)
        self._layout = replace(layout, readout=self.readout or layout.readout, image_size=size)
        return self._layout


class RecordTap(Tap):
    """Keeps of each call what `keep` returns."""

    def __init__(
        self, adapter: Adapter, inputs: "Inputs", readout: Readout | None, keep: Keep, for_replay: bool
    ) -> None:
        super().__init__(adapter, inputs, readout)
        self.keep, self.for_replay = keep, for_replay
        self.kept: dict[str, Any] = {}
        self.linears: Linears = {}
        self.shelf = Shelf(self.layer_count)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = super().linear(input, weight, bias)
        if self.for_replay and self._is_token_sequence(out):
            self.linears.setdefault(id(weight), (weight, []))[1].append(self.shelf.put(out[:, : self.layout.prefix]))
        return out

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        out = run(call.q, call.k, call.v)
        self.kept[call.name] = self.keep(replace(call, out=out))
        return out


class GraphTap(Tap):
    """Gradients start at attention outputs, so parameters enter the graph as constants: nothing is kept for them."""

    def __init__(self, adapter: Adapter, inputs: "Inputs", readout: Readout | None) -> None:
        super().__init__(adapter, inputs, readout)
        self.calls: dict[str, AttentionCall] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_grad_enabled():
            return super().__torch_function__(func, types, args, kwargs)
        with torch.enable_grad():  # a frozen backbone often runs under a no_grad of its owner
            return super().__torch_function__(func, types, args, kwargs)

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # attributes of a parameter are its own
            return func(*args, **kwargs)
        args = tuple(map(_constant, args))
        kwargs = {key: _constant(value) for key, value in kwargs.items()} if kwargs else kwargs
        return func(*args, **kwargs)

    @contextmanager
    def cutting(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """The outputs of these modules count as constants."""

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return output.detach() if self.active else None

        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def leaf(self, call: AttentionCall, out: Tensor) -> Tensor:
        """The output as the place where the gradient is taken."""
        out = out if out.requires_grad else out.detach().requires_grad_()
        self.calls[call.name] = replace(call, out=out)
        return out


class GradientTap(GraphTap):
    """Gradients at the outputs of `layers`; with `detach`, the attention of every layer is a constant."""

    def __init__(
        self, adapter: Adapter, inputs: "Inputs", readout: Readout | None, layers: set[str], detach: bool
    ) -> None:
        super().__init__(adapter, inputs, readout)
        self.layers, self.detach = layers, detach

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        if self.detach:
            # a pool has no skip connection: what it weighs are the tokens themselves, as a mean over them does
            v = call.v.detach() if call.layout.skip else call.v
            call = replace(call, q=call.q.detach(), k=call.k.detach(), v=v)
        out = run(call.q, call.k, call.v)
        return self.leaf(call, out) if call.name in self.layers else out


class ReplayTap(GraphTap):
    """The prefix tokens alone, or `copies` of those of one image; attention and linear layers are answered."""

    def __init__(
        self,
        adapter: Adapter,
        inputs: "Inputs",
        recording: "Recording[AttentionCall]",
        layers: set[str],
        copies: int | None,
    ) -> None:
        super().__init__(adapter, inputs, recording.layout.readout)
        self.recorded, self.full, self.layers, self.copies = recording.kept, recording.layout, layers, copies
        self.linears = {key: (weight, iter(rows)) for key, (weight, rows) in recording.linears.items()}

    def _set_layout(self, images: Tensor, arguments: Mapping[str, Any]) -> TokenLayout:
        self._layout = self.full  # as in the recording: to ask the adapter again takes some milliseconds
        return self._layout

    def layer_layout(self, name: str, q: Tensor, k: Tensor) -> LayerLayout:
        return self.recorded[name].layout

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        recorded = self.recorded[call.name]
        out = self._copied(recorded.out)
        return self.leaf(recorded, out) if call.name in self.layers else out

    def _copied(self, x: Tensor) -> Tensor:
        return x if self.copies is None else x.expand(self.copies, *x.shape[1:])

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) in self.linears and input.dim() == 3 and input.shape[1] == self.full.prefix:
            return _KnownLinear.apply(input, weight.detach(), self._copied(next(self.linears[id(weight)][1])))
        return super().linear(input, weight, bias)

    @contextmanager
    def slicing(self) -> Iterator[None]:
        """Only the prefix tokens enter the blocks, and nothing of what else they are given for each patch."""
        first = self.adapter.first_block
        if first is None:
            raise TypeError(f"{type(self.adapter).__name__} has no block that takes a part of the tokens")
        with ExitStack() as stack:
            for block, name in self.adapter.patch_arguments().items():
                hook = block.register_forward_pre_hook(self._changed(name, _no_rows), with_kwargs=True)
                stack.callback(hook.remove)
            hook = first.register_forward_pre_hook(self._changed(None, self._prefix), with_kwargs=True)
            stack.callback(hook.remove)
            yield

    def _prefix(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] != self.full.tokens:
            raise TokenLayoutError(f"expected {self.full.tokens} tokens at the first block, got {tokens.shape[1]}")
        return self._copied(tokens[:, : self.full.prefix])

    def _changed(self, name: str | None, change: Callable[[Any], Any]) -> Callable[..., tuple[tuple, dict] | None]:
        """A hook that changes one argument of a module, by default the first."""

        def hook(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
            if not self.active or kwargs is None:
                return None
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            key = next(iter(bound.arguments)) if name is None else name
            if bound.arguments.get(key) is not None:
                bound.arguments[key] = change(bound.arguments[key])
            elif key in bound.arguments.get("kwargs", {}):
                bound.arguments["kwargs"][key] = change(bound.arguments["kwargs"][key])
            return bound.args, bound.kwargs

        return hook


def _no_rows(x: Any) -> Any:
    """Tensors (..., patches, d) without a patch."""
    return tuple(map(_no_rows, x)) if isinstance(x, tuple) else x[..., :0, :]


class _KnownLinear(torch.autograd.Function):
    """A linear layer whose output is known already."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        ctx.weight = weight
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ ctx.weight.to(gradient.dtype), None, None


def _constant(x: Any) -> Any:
    """Parameters cut from the graph; tensors of inference mode copied, since they cannot enter one."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_constant, x)) if type(x) in (list, tuple) else x
    if not isinstance(x, Tensor):
        return x
    if x.is_inference():
        return x.clone()
    return x.detach() if type(x) is nn.Parameter else x
