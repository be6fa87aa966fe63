"""In which attention layer a running model is, and where its tokens lie.

Hooks tell it. They answer only to what listens in their own context, so that threads can explain one shared model at
once.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..access import Adapter, AttentionCall, Computed, Grid, LayerLayout, Readout, TokenLayout
from ..errors import LayerNotRecordedError
from .inputs import Inputs
from .place import WHOLE, Place
from .softmaxes import Softmaxes
from .steps import listen_to_steps

Held = Callable[[Tensor], Tensor]
Attention = Callable[[Held], Tensor]  # its output (B, H, M, d), with what the weights are made of held

_active: ContextVar["Scopes | None"] = ContextVar("captum_vit_active_tap", default=None)


@contextmanager
def unheard() -> Iterator[None]:
    """What runs inside is not listened to, and enters no graph."""
    token = _active.set(None)
    try:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            yield
    finally:
        _active.reset(token)


class CarriedError(Exception):
    """Carries a TypeError out of an operator; raised for its cause."""


class Scopes(TorchFunctionMode):
    """What listens to one forward, as far as it knows where it is."""

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

    def in_order(self, call: AttentionCall, run: Attention) -> Tensor:
        """`attend` with the tokens as they lie on the image, whatever their order in the model."""
        order = call.layout.order
        if order is None:
            return self.attend(call, run)
        ordered = call.in_order(order)
        if call.queries != call.layout.keys:
            return self.attend(ordered, run)
        order = order.to(call.v.device)
        return self.attend(ordered, lambda hold: run(hold)[:, :, order])[:, :, order.argsort()]

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
            return self._set_layout(self.adapter.size_of(self.inputs.images), self.inputs.kwargs)
        return self._layout

    def is_tokens(self, x: Tensor) -> bool:
        """Whether a tensor has the shape of the token stream, (B, N, anything)."""
        return x.dim() == 3 and self._layout is not None and x.shape[1] == self._layout.tokens

    def layer_layout(self, name: str, queries: int, keys: int) -> LayerLayout:
        """Where the layer's queries and keys lie."""
        return self.layout.of_layer(name, queries, keys, cross=self.cross.get(name))

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
        return AttentionCall(name, q, k, v, scale, bias, empty, layout, computed=computed)

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
        except CarriedError as carried:
            raise (carried.__cause__ or carried) from None
        finally:
            _active.reset(token)
        for name, module in self.layers.items():
            self._check(name, module)
        ran, listed = list(self.seen), [name for name in self.layers if name in self.seen]
        if ran != listed:
            raise LayerNotRecordedError(
                f"the attention layers of {type(self.adapter.model).__name__} ran as {', '.join(ran)}, and "
                f"{type(self.adapter).__name__} lists them as {', '.join(listed)}: what is the last of them, and what "
                f"passes from one to the next, is not known. List them as they run"
            )

    def _check(self, name: str, module: nn.Module) -> None:
        count = self.seen[name]
        if count == 1 or (count == 0 and name in self.cross):  # an owner may read the tokens in another way
            return
        how = (
            f"ran {count} times in one forward, as where several views of an image go through one after another, or a "
            f"block is used several times. Of views, explain the module that takes one, on each of them, or "
            f"captum_vit.OneView(model, 0)"
            if count
            else "computed no softmax of scores that then met values, or did not run at all, as where a block is "
            "skipped or the model ends early"
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
        given = self.adapter.batch_of(arguments)
        if given is not None:
            self.batch, size = given
            self._set_layout(size, arguments)

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
            self._set_layout(self.adapter.size_of(args[0]), self.inputs.kwargs)

    def _set_layout(self, size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        layout = self.adapter.token_layout(size, arguments)
        order = layout.order if self.place.order is None else self.place.order
        readout = self.readout or layout.readout
        self._layout = replace(
            layout, readout=readout, image_size=size, view=self.place.view or layout.view, order=order
        )
        return self._layout
