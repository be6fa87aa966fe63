"""The only code that touches a running model: context managers, and the three ways to run it.

One TorchFunctionMode sees every scaled_dot_product_attention and knows by a stack of hooks in which layer it
happens. The mode is thread-local and the hooks answer only to the tap of their own context, so that threads
can explain one shared model at once. The model is left exactly as it was found.

- `record`: a forward without gradients; what a method keeps of each call is decided while it runs.
- `differentiate`: a forward whose graph begins at the first chosen attention output, for gradients at them.
- `replay`: after `record`, the same on the prefix tokens alone, the attention outputs being given.

After the last attention tokens no longer meet. So where a known head reads the score from prefix tokens, the linear
layers that follow are computed for these alone, forwards and backwards.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import CaptumViTError, InputError, LayerNotRecordedError, TokenLayoutError, UnsupportedModelError
from .layers import Adapter, AttentionCall, Readout, Shelf, TokenLayout

Score = Callable[[Tensor], Tensor]  # the scores (B, C) -> the one that is explained, (B,)
T = TypeVar("T")
Keep = Callable[[AttentionCall, TokenLayout], T]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
_Linears = dict[int, tuple[Tensor, list[Tensor]]]  # id of the weight -> it (so that the id stays its own), outputs


@dataclass(frozen=True)
class Inputs:
    """What the model is called with: images (B, C, H, W), then positional and keyword arguments."""

    images: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        try:
            return model(self.images, *self.args, **self.kwargs)
        except RuntimeError as error:
            dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
            if self.images.dtype in dtypes or not dtypes or isinstance(error, CaptumViTError):
                raise
            names = ", ".join(sorted(map(str, dtypes)))
            raise InputError(
                f"the model computes in {names} and fails on {self.images.dtype}: convert the images"
            ) from error

    def first(self) -> "Inputs":
        """The first image alone; tensors with one entry an image are cut with it."""
        count = len(self.images)

        def cut(x: Any) -> Any:
            return x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == count else x

        return Inputs(self.images[:1], tuple(map(cut, self.args)), {k: cut(v) for k, v in self.kwargs.items()})


@dataclass(frozen=True)
class Recording(Generic[T]):
    """A forward without gradients: its layout, and what was kept of each attention layer.

    linears: the prefix rows that each linear layer gave for the token sequence, in order, if they were asked for.
    """

    layout: TokenLayout
    kept: dict[str, T]
    linears: _Linears


@dataclass(frozen=True)
class Differentiable:
    """A forward with a graph from the attention outputs to the scores (B, C)."""

    scores: Tensor
    layout: TokenLayout
    calls: dict[str, AttentionCall]

    def gradients(self, score: Score) -> dict[str, Tensor]:
        """`dy/dO` of every call for y = score(scores), (B, H, M, d) each; frees the graph."""
        outs = [call.out for call in self.calls.values()]
        with torch.enable_grad():
            gradients = torch.autograd.grad(score(self.scores).sum(), outs, materialize_grads=True)
        return dict(zip(self.calls, gradients, strict=True))

    def class_gradients(self, classes: Tensor) -> dict[str, Tensor]:
        """`dy_c/dO` for each of the classes (K,), (K, B, H, M, d) each, in one batched backward."""
        picks = F.one_hot(classes, self.scores.shape[1]).to(self.scores).unsqueeze(1).expand(-1, len(self.scores), -1)
        outs = [call.out for call in self.calls.values()]
        gradients = torch.autograd.grad(
            self.scores, outs, picks, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return dict(zip(self.calls, gradients, strict=True))


def record(
    adapter: Adapter, inputs: Inputs, keep: Keep[T], readout: Readout | None = None, *, for_replay: bool = False
) -> Recording[T]:
    """One forward without gradients; `keep` reduces each attention call, while it runs, to what is kept of it."""
    tap = _RecordTap(adapter, inputs, readout, keep, for_replay)
    with torch.no_grad(), tap.listening():
        inputs.run(adapter.model)
    return Recording(tap.layout, tap.kept, tap.linears)


def differentiate(
    adapter: Adapter,
    inputs: Inputs,
    layers: Iterable[str],
    readout: Readout | None = None,
    *,
    detach_attention: bool = False,
) -> Differentiable:
    """One forward whose graph holds what the gradients at the outputs of `layers` need, and no more.

    With `detach_attention` the input of every attention layer counts as a constant, so that gradients flow only
    through skip connections and MLPs.
    """
    tap = _GradientTap(adapter, inputs, readout, set(layers), detach_attention)
    with torch.enable_grad(), tap.listening():
        scores = adapter.scores(inputs.run(adapter.model))
    return tap.result(scores)


def replay(
    adapter: Adapter,
    inputs: Inputs,
    recording: Recording[AttentionCall],
    layers: Iterable[str],
    copies: int | None = None,
) -> Differentiable:
    """The model on its prefix tokens alone, each attention answered by its recorded `out` (B, H, prefix, d).

    Linear layers are answered by what they gave in the recording, so that only the backward reads their weights.
    With `copies` the tokens of a single image run as a batch of so many, for as many scores.

    Equal to `differentiate(..., detach_attention=True)` where the scores are read from prefix tokens: with the
    attention outputs given, tokens no longer meet.
    """
    tap = _ReplayTap(adapter, inputs, recording, set(layers), copies)
    with torch.enable_grad(), tap.listening(), tap.slicing():
        scores = adapter.scores(inputs.run(adapter.model))
    return tap.result(scores)


def measure_readout(adapter: Adapter, inputs: Inputs) -> Readout:
    """The readout as the query rows of the last attention layer that receive gradient from the scores.

    The scores are weighed at random (from a generator of its own), so that sums that are constant, as those of a
    softmax, hide nothing. Needs a forward of the first image; in train mode of all, for the sake of batch norms.
    """
    for part in (inputs,) if adapter.training or len(inputs.images) == 1 else (inputs.first(), inputs):
        size, prefix = _row_gradients(adapter, part)
        read, patches = size[:prefix].nonzero().flatten().tolist(), size[prefix:]
        if read or patches.any():
            break  # the score of a single image can be flat, as behind a ReLU
    else:
        raise UnsupportedModelError(
            f"no gradient reaches the last attention layer from the output of {type(adapter.model).__name__}: it does "
            f"not depend on it, or is flat for these images"
        )
    # between a mean over all tokens (ratio 1) and a class token beside the mean of n patches (ratio n)
    even = bool(read and patches.any() and size[read].mean() < len(patches) ** 0.5 * patches.mean())
    return Readout(tuple(read), bool(patches.any()), even, declared=False)


def _row_gradients(adapter: Adapter, inputs: Inputs) -> tuple[Tensor, int]:
    """Mean size of the gradient at each query row of the last attention, (M,), and the number of prefix tokens."""
    layers = list(adapter.attention_layers())
    run = differentiate(adapter, inputs, layers)  # the graph of all, so that an owner's backward hooks find theirs
    last = layers[-1]
    run = replace(run, calls={last: run.calls[last]})
    weights = torch.rand(run.scores.shape[1], generator=torch.Generator().manual_seed(0)).to(run.scores)
    return run.gradients(lambda scores: scores @ weights)[last].abs().mean((0, 1, 3)), run.layout.prefix


_active: ContextVar["_Tap | None"] = ContextVar("captum_vit_active_tap", default=None)


class _Tap(TorchFunctionMode):
    """Hands every attention call inside the model's attention layers to `attend`; the rest runs as it is."""

    def __init__(self, adapter: Adapter, inputs: Inputs, readout: Readout | None) -> None:
        super().__init__()
        self.adapter, self.inputs, self.readout = adapter, inputs, readout
        self.layer_count = len(adapter.attention_layers())
        self.scope: list[str] = []
        self.seen: Counter[str] = Counter()
        self._layout: TokenLayout | None = None

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        """The attention's output (B, H, M, d), for a call whose own `out` is still empty."""
        raise NotImplementedError

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Any other torch function."""
        return func(*args, **kwargs)

    @property
    def layout(self) -> TokenLayout:
        if self._layout is None:  # the ViT was entered by another door than its forward
            return self._set_layout(self.inputs.images, self.inputs.kwargs)
        return self._layout

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention and self.scope:
            return self._attend(*args, **(kwargs or {}))
        if func is F.linear:
            return self.linear(*args, **(kwargs or {}))
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

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        call = AttentionCall(self.scope[-1], query, key, value, scale, attn_mask, query.new_empty(0))
        self.seen[call.name] += 1

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale)

        return self.attend(call, run)

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
        if count == 1:
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
            if _active.get() is self:
                self.scope.append(name)

        return hook

    def _leave(self, *_: Any) -> None:
        if _active.get() is self and self.scope:
            self.scope.pop()

    # torch calls a hook without kwargs if it is removed after being listed, as happens between threads
    def _look_at_images(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if _active.get() is not self or kwargs is None:
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


class _RecordTap(_Tap):
    def __init__(self, adapter: Adapter, inputs: Inputs, readout: Readout | None, keep: Keep, for_replay: bool) -> None:
        super().__init__(adapter, inputs, readout)
        self.keep, self.for_replay = keep, for_replay
        self.kept: dict[str, Any] = {}
        self.linears: _Linears = {}
        self.shelf = Shelf(self.layer_count)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = super().linear(input, weight, bias)
        if self.for_replay and self._is_token_sequence(out):
            self.linears.setdefault(id(weight), (weight, []))[1].append(self.shelf.put(out[:, : self.layout.prefix]))
        return out

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        out = run(call.q, call.k, call.v)
        self.kept[call.name] = self.keep(replace(call, out=out), self.layout)
        return out


class _GraphTap(_Tap):
    """Gradients start at attention outputs, so parameters enter the graph as constants: nothing is kept for them."""

    def __init__(self, adapter: Adapter, inputs: Inputs, readout: Readout | None) -> None:
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

    def leaf(self, call: AttentionCall, out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.detach().requires_grad_()
        self.calls[call.name] = replace(call, out=out)
        return out

    def result(self, scores: Tensor) -> Differentiable:
        if not scores.requires_grad:
            raise UnsupportedModelError(
                f"the scores of {type(self.adapter.model).__name__} are cut off from its attention layers, "
                f"as by .detach() or .numpy() in its forward: no gradient can be taken"
            )
        return Differentiable(scores, self.layout, self.calls)


class _GradientTap(_GraphTap):
    def __init__(
        self, adapter: Adapter, inputs: Inputs, readout: Readout | None, layers: set[str], detach: bool
    ) -> None:
        super().__init__(adapter, inputs, readout)
        self.layers, self.detach = layers, detach

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        if self.detach:
            call = replace(call, q=call.q.detach(), k=call.k.detach(), v=call.v.detach())
        out = run(call.q, call.k, call.v)
        return self.leaf(call, out) if call.name in self.layers else out


class _ReplayTap(_GraphTap):
    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        recording: Recording[AttentionCall],
        layers: set[str],
        copies: int | None,
    ) -> None:
        super().__init__(adapter, inputs, recording.layout.readout)
        self.recorded, self.full, self.layers, self.copies = recording.kept, recording.layout, layers, copies
        self.linears = {key: (weight, iter(rows)) for key, (weight, rows) in recording.linears.items()}

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
        """Only the prefix tokens enter the first block."""
        handle = self.adapter.first_block.register_forward_pre_hook(self._slice, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _slice(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        if _active.get() is not self or kwargs is None:
            return None
        name, tokens = next(iter(inspect.signature(module.forward).bind(*args, **kwargs).arguments.items()))
        if tokens.shape[1] != self.full.tokens:
            raise TokenLayoutError(f"expected {self.full.tokens} tokens at the first block, got {tokens.shape[1]}")
        tokens = self._copied(tokens[:, : self.full.prefix])
        return ((tokens, *args[1:]), kwargs) if args else (args, {**kwargs, name: tokens})


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
