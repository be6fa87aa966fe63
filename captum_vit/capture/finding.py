"""Attention found in code of nobody's library, by one watched forward and one way back."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .kinds import FewKinds
from .softmaxes import Softmaxes, of_heads
from .still import PERMUTED, in_own_order, still


@dataclass
class Event:
    """One product of a softmax with values, or one call of torch's kernel.

    module: the name of the innermost module in which it was made.  values: (B, H, N, d).  queries, keys: their number.
    out: its output, as the place of a gradient.  mixed, sources: as in `softmaxes.Followed`.
    """

    module: str
    values: Tensor
    queries: int
    keys: int
    out: Tensor
    mixed: bool = False
    sources: int = 1
    reached: bool = field(default=False)


class FirstSeenError(Exception):
    """The first attention in which tokens look at tokens has been seen."""


class Finder(TorchFunctionMode):
    """Notes every attention of a forward, in order.

    Args:
        batch: of how many images.
        few: makes few kinds of the tokens after the first attention, if it is given.
        first: whether the first attention in which tokens look at tokens ends it, by `FirstSeenError`.
    """

    def __init__(self, batch: int, few: FewKinds | None = None, *, first: bool = False) -> None:
        super().__init__()
        self.batch, self.few, self.first = batch, few, first
        self.passed: dict[str, tuple[Any, Any]] = {}  # what each module was given first, and what it gave
        self.path: list[str] = [""]
        self.events: list[Event] = []
        self.other: list[str] = []  # products of a softmax that are no (images, heads, queries, keys)
        self.softmaxes = Softmaxes()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        if func in PERMUTED and (rows := in_own_order(func, args, kwargs)) is not None:
            return rows  # as under a tap
        with torch.enable_grad():
            if func is F.scaled_dot_product_attention:
                return self._kernel(func, args, kwargs)
            if func is F.multi_head_attention_forward:
                return self._multi_head(func, args, kwargs)
            product = self.softmaxes.product(func, args, kwargs)
            if func is F.linear and self.few is not None:
                out = self.few.linear(func, args, kwargs)
            else:
                out = still(func, args, kwargs, lambda f, a, k: f(*a, **k))
            if product is not None:
                return self._product(product, out)
            self.softmaxes.note(func, args, kwargs, out, self.path[-1])
            return out

    def _add(self, where: str, values: Tensor, queries: int, keys: int, out: Tensor, **facts: Any) -> Tensor:
        if not out.requires_grad:
            out = out.detach().requires_grad_()
        self.events.append(Event(where, values, queries, keys, out, **facts))
        if queries == keys:
            if self.first:
                raise FirstSeenError
            if self.few is not None:
                self.few.counts.add(keys)
        return out

    def _few(self, out: Tensor, axis: int) -> Tensor:
        """What attention gives to tokens, as if they were of few kinds."""
        return out if self.few is None else self.few.along(out, axis)

    def _kernel(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        out = func(*args, **kwargs)
        query, key, value = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)][:3]
        if value.dim() != 4:
            self.other.append(f"torch's kernel on {tuple(value.shape)} in {self.path[-1] or 'the model'}")
            return out
        return self._add(self.path[-1], value, query.shape[-2], key.shape[-2], self._few(out, -2))

    def _multi_head(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        out, weights = func(*args, **kwargs)
        query, key = (args[i] if i < len(args) else kwargs[name] for i, name in enumerate(("query", "key")))
        heads = kwargs.get("num_heads", args[4] if len(args) > 4 else 1)
        values = key.transpose(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)  # where its rows are is all that counts
        return self._add(self.path[-1], values, query.shape[0], key.shape[0], self._few(out, 0)), weights

    def _product(self, product: Any, out: Tensor) -> Tensor:
        heads = of_heads(product, self.batch)
        if heads is None:
            shape = tuple(product.weights.shape)
            self.other.append(f"attention of shape {shape} in {self.path[-1] or 'the model'}")
            return out
        values = heads[1]
        followed = product.followed
        queries, keys = product.weights.shape[-2:]
        out = product.back(self._few(product.to(out), -2))
        where = _common(self.path[-1], followed.where)  # a softmax or a product may be a module of its own
        return self._add(where, values, queries, keys, out, mixed=followed.mixed, sources=followed.sources)


def _common(one: str, other: str) -> str:
    """The innermost module that two modules stand in, or are."""
    parts = zip(one.split("."), other.split("."), strict=False)
    return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], parts))


def watch(model: nn.Module, finder: Finder, run: Callable[[], Any]) -> Any:
    """A forward of the model, and its output; None if it was ended at the first attention."""
    output = None
    with suppress(FirstSeenError), ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(_enter(finder, name)).remove)
            stack.callback(module.register_forward_hook(_leave(finder, name), always_call=True).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(finder)
        output = run()
    return output


def _enter(finder: Finder, name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        finder.path.append(name)

    return hook


def _leave(finder: Finder, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, output: Any = None) -> Any:
        if len(finder.path) > 1:
            finder.path.pop()
        few = output if finder.few is None else finder.few.given(output, finder.softmaxes.follows)
        finder.passed[name] = (args[0] if args else None, few)
        return None if few is output else few

    return hook
