"""Attention found in code of nobody's library, by one watched forward and one way back."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedModelError
from .softmaxes import DROPOUTS, Softmaxes, of_heads


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


class Finder(TorchFunctionMode):
    """Notes every attention of a forward, in order."""

    def __init__(self, batch: int, limit: int | None = None) -> None:
        super().__init__()
        self.batch, self.limit = batch, limit
        self.path: list[str] = [""]
        self.events: list[Event] = []
        self.other: list[str] = []  # products of a softmax that are no (images, heads, queries, keys)
        self.softmaxes = Softmaxes()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        with torch.enable_grad():
            if func in DROPOUTS:
                return args[0] if args else kwargs["input"]
            if func is F.scaled_dot_product_attention:
                return self._kernel(func, args, kwargs)
            if func is F.multi_head_attention_forward:
                return self._multi_head(func, args, kwargs)
            product = self.softmaxes.product(func, args, kwargs)
            out = func(*args, **kwargs)
            if product is not None:
                return self._product(product, out)
            self.softmaxes.note(func, args, kwargs, out)
            return out

    def _add(self, values: Tensor, queries: int, keys: int, out: Tensor, **facts: Any) -> Tensor:
        if not out.requires_grad:
            out = out.detach().requires_grad_()
        self.events.append(Event(self.path[-1], values, queries, keys, out, **facts))
        if self.limit is not None and len(self.events) > self.limit:
            raise EnoughError
        return out

    def _kernel(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        out = func(*args, **kwargs)
        query, key, value = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)][:3]
        if value.dim() != 4:
            self.other.append(f"torch's kernel on {tuple(value.shape)} in {self.path[-1] or 'the model'}")
            return out
        return self._add(value, query.shape[-2], key.shape[-2], out)

    def _multi_head(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        out, weights = func(*args, **kwargs)
        query, key = (args[i] if i < len(args) else kwargs[name] for i, name in enumerate(("query", "key")))
        heads = kwargs.get("num_heads", args[4] if len(args) > 4 else 1)
        values = key.transpose(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)  # where its rows are is all that counts
        return self._add(values, query.shape[0], key.shape[0], out), weights

    def _product(self, product: Any, out: Tensor) -> Tensor:
        heads = of_heads(product, self.batch)
        if heads is None:
            shape = tuple(product.weights.shape)
            self.other.append(f"attention of shape {shape} in {self.path[-1] or 'the model'}")
            return out
        _, values, _, _ = heads
        followed = product.followed
        queries, keys = product.weights.shape[-2:]
        return self._add(values, queries, keys, out, mixed=followed.mixed, sources=followed.sources)


class EnoughError(Exception):
    """As many attentions have been seen as were asked for."""


def watch(model: nn.Module, images: Tensor, kwargs: dict[str, Any], *, limit: int | None = None) -> tuple[Finder, Any]:
    """A forward of the model, and its output; None where it was ended at the attention after `limit` others."""
    finder = Finder(len(images), limit)
    output = None
    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(_enter(finder, name)).remove)
            stack.callback(module.register_forward_hook(_leave(finder), always_call=True).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(finder)
        try:
            output = model(images, **kwargs)
        except EnoughError:
            pass
    return finder, output


def _enter(finder: Finder, name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        finder.path.append(name)

    return hook


def _leave(finder: Finder) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        if len(finder.path) > 1:
            finder.path.pop()

    return hook


@dataclass(frozen=True)
class Attentions:
    """The attention layers of a model: by the name of a module, what each attention in it is called, None for those
    that the score does not depend on; and those whose queries are tokens of their own.

    tokens: of the image, in most layers.
    """

    layers: dict[str, list[str | None]]
    cross: tuple[str, ...]
    tokens: int


def attentions(finder: Finder, scores: Tensor, kind: str) -> Attentions:
    """Which of the attentions that were seen are over the tokens of the image.

    Raises:
        UnsupportedModelError: none is, or what was seen is no attention to single tokens.
    """
    events = finder.events
    if not events:
        told = f"; there is {finder.other[0]}" if finder.other else ""
        raise UnsupportedModelError(
            f"in {kind} no attention was found: no softmax over keys that is then multiplied with values{told}"
        )
    found: list[Tensor | None] = [None] * len(events)
    if scores.requires_grad:
        weights = torch.rand(scores.flatten(1).shape[1], generator=torch.Generator().manual_seed(0)).to(scores)
        score = (scores.flatten(1) @ weights).sum()
        found = list(torch.autograd.grad(score, [event.out for event in events], allow_unused=True))
    for event, gradient in zip(events, found, strict=True):
        event.reached = gradient is not None and bool(gradient.any())
    own = Counter(event.keys for event in events if event.reached and event.queries == event.keys)
    if not own:
        raise UnsupportedModelError(
            f"in {kind} no attention was found in which tokens look at tokens and that the score depends on"
        )
    tokens = max(own, key=lambda count: (own[count], count))
    layers: dict[str, list[str | None]] = {}
    cross = []
    counts = Counter(event.module for event in events)
    for event in events:
        names = layers.setdefault(event.module, [])
        name = event.module or "attention"
        name = f"{name}#{len(names)}" if counts[event.module] > 1 or not event.module else name
        is_pool = event.queries != event.keys and event.reached and tokens - event.keys in range(8)
        if not event.reached or not (event.keys == event.queries == tokens or is_pool):
            names.append(None)
            continue
        _check(event, name, kind)
        names.append(name)
        cross += [name] if is_pool else []
    return Attentions({k: v for k, v in layers.items() if any(v)}, tuple(cross), tokens)


def _check(event: Event, name: str, kind: str) -> None:
    if event.mixed:
        raise UnsupportedModelError(
            f"{kind} lets its heads talk to each other between softmax and values ({name}), so that no head has an "
            f"attention of its own"
        )
    if event.sources > 1:
        raise UnsupportedModelError(
            f"in {kind} the attention of {name} is made of {event.sources} softmaxes: which of them a map should show "
            f"is not known"
        )
