"""The model on a few of its tokens: what of a forward runs again, at a small part of its cost."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Adapter, AttentionCall, Grid, LayerLayout, TokenLayout
from ..errors import TokenLayoutError
from .constants import constant_parameters
from .inputs import Inputs
from .linears import Reader
from .scopes import Attention
from .tap import Tap
from .taps import Kept

ArgumentHook = Callable[..., tuple[tuple, dict] | None]


def changed_argument(active: Callable[[], bool], name: str | None, change: Callable[[Any], Any]) -> ArgumentHook:
    """A hook that changes one argument of a module, by default the first, in a forward that is its own."""

    def hook(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        if not active() or kwargs is None:
            return None
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        key = next(iter(bound.arguments)) if name is None else name
        given = bound.arguments if bound.arguments.get(key) is not None else bound.arguments.get("kwargs", {})
        if given.get(key) is not None:
            given[key] = change(given[key])
        return bound.args, bound.kwargs

    return hook


class AgainTap(Tap):
    """A forward once more, in which gradients start at what the tap makes leaves of.

    layout: as in the forward: to ask the adapter again takes some milliseconds.
    """

    def __init__(self, adapter: Adapter, inputs: Inputs, layout: TokenLayout) -> None:
        super().__init__(adapter, inputs, layout.readout)
        self.full = layout

    def _set_layout(self, size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        self._layout = self.full
        return self._layout

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_grad_enabled() or func is torch._C._set_grad_enabled:
            return super().__torch_function__(func, types, args, kwargs)
        with torch.enable_grad():
            return super().__torch_function__(func, types, args, kwargs)

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return constant_parameters(func, args, kwargs)

    @contextmanager
    def slicing(self, count: int) -> Iterator[None]:
        """Only the first `count` tokens enter the blocks, and nothing of what else they are given for each patch."""
        first = self.adapter.first_block
        if first is None:
            raise TypeError(f"{type(self.adapter).__name__} has no block that takes a part of the tokens")

        def sliced(tokens: Tensor) -> Tensor:
            if tokens.shape[1] != self.full.tokens:
                raise TokenLayoutError(f"expected {self.full.tokens} tokens at the first block, got {tokens.shape[1]}")
            return self.entering(tokens[:, :count])

        with ExitStack() as stack:
            for block, name in self.adapter.patch_arguments().items():
                hook = block.register_forward_pre_hook(self._changed(name, _no_rows), with_kwargs=True)
                stack.callback(hook.remove)
            stack.callback(first.register_forward_pre_hook(self._changed(None, sliced), with_kwargs=True).remove)
            yield

    def entering(self, tokens: Tensor) -> Tensor:
        """What is made of those tokens before the first block."""
        return tokens

    def _changed(self, name: str | None, change: Callable[[Any], Any]) -> ArgumentHook:
        return changed_argument(lambda: self.active, name, change)


class ReplayTap(AgainTap):
    """The prefix tokens alone, `copies` times over; attention and linear layers are answered from a forward.

    leaves: the names of the attention layers whose outputs gradients start at.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        layout: TokenLayout,
        kept: Kept,
        leaves: Collection[str],
        copies: int = 1,
    ) -> None:
        super().__init__(adapter, inputs, layout)
        assert kept.linears is not None
        self.recorded, self.leaves, self.copies = kept.calls, leaves, copies
        self.linears: Reader = kept.linears.reader()
        self.outs: dict[str, Tensor] = {}

    def layer_layout(self, name: str, queries: int, keys: int) -> LayerLayout:
        return self.recorded[name].layout

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        out = self.entering(self.recorded[call.name].out[:, :, : self.full.prefix].detach())
        if call.name in self.leaves:
            out = self.outs[call.name] = out.requires_grad_()
        return out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.linears.knows(weight) and input.dim() == 3 and input.shape[1] == self.full.prefix:
            return self.linears.answer(input, weight, self.copies)
        return super().linear(input, weight, bias)

    def entering(self, tokens: Tensor) -> Tensor:
        return tokens if self.copies == 1 else tokens.repeat(self.copies, *([1] * (tokens.dim() - 1)))


def _no_rows(x: Any) -> Any:
    """Tensors (..., patches, d) without a patch."""
    return tuple(map(_no_rows, x)) if isinstance(x, tuple) else x[..., :0, :]
