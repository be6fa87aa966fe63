"""Attention that a layer computes step by step: a softmax over keys, followed until it meets the values.

Anybody's code does: only that a softmax over the last axis is multiplied with something that has its keys as rows. In
between it may be dropped out, reshaped, converted, or changed by somebody's hook: what multiplies the values counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import Computed
from .products import EINSUMS, MOVES, PRODUCTS, VIEWS, Pair, ScoreProducts, name_of, operands

SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
DROPOUTS = {F.dropout, torch.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout}
Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Followed:
    """What became of a softmax.

    scores: before it.  now: what it has become.  changed: whether numbers are no longer those of the softmax.
    moved: whether its axes may stand elsewhere.  mixed: whether heads met, as in talking heads.
    sources: how many softmaxes went into it.  where: in which module the first was.
    factors: the queries and keys that the scores are made of, where these are seen.
    """

    scores: Tensor
    now: Tensor
    changed: bool = False
    moved: bool = False
    mixed: bool = False
    sources: int = 1
    where: str = ""
    factors: Pair | None = None


@dataclass(frozen=True)
class Product:
    """Attention that meets its values, with all axes in their usual order.

    followed: the softmax.  weights: (..., M, N).  values: (..., N, d).
    place: in which of the two operands the attention stands.
    to, back: the product as the layer computes it -> (..., M, d), and back.
    """

    followed: Followed
    weights: Tensor
    values: Tensor
    place: int
    to: Way
    back: Way


class Softmaxes:
    """The softmaxes of one attention layer that have not met their values."""

    def __init__(self) -> None:
        self._open: dict[int, Followed] = {}  # by the id of what each has become, which is kept alive
        self._products = ScoreProducts()

    def forget(self) -> None:
        """Nothing is followed any more, as where a layer ends."""
        self._open.clear()
        self._products.forget()

    def follows(self, x: Tensor) -> bool:
        """Whether a tensor is what a softmax has become."""
        return id(x) in self._open

    def product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Product | None:
        """The attention that meets its values in this call; None for any other."""
        if not self._open or (func not in PRODUCTS and func not in EINSUMS):
            return None
        equation, pair = operands(func, args, kwargs)
        places = [place for place, x in enumerate(pair) if id(x) in self._open]
        if len(places) != 1 or len(pair) != 2:
            return None
        place = places[0]
        followed = self._open[id(pair[place])]
        product = _of_matmul(followed, pair, place) if equation is None else _of_einsum(followed, equation, pair, place)
        return product if product is None or not followed.moved or _keys_last(product) else None

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, where: str = "") -> None:
        """Follow what a function made of a softmax, or begin to."""
        if not isinstance(out, Tensor):
            return
        if func in SOFTMAXES:
            scores = args[0] if args else kwargs["input"]
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, scores.dim() - 1) and scores.dim() > 1:
                self._open[id(out)] = Followed(scores, out, where=where, factors=self._products.pair(scores))
            return
        self._products.note(func, args, kwargs, out)
        if not self._open:
            return
        found = [self._open[id(x)] for x in (*args, *kwargs.values()) if id(x) in self._open]
        if not found or out.numel() != found[0].now.numel():
            return
        self._open[id(out)] = _after(func, found, out)


def _after(func: Any, found: Sequence[Followed], out: Tensor) -> Followed:
    first, name = found[0], name_of(func)
    sources = sum({id(f.scores): f.sources for f in found}.values())
    changed = replace(first, now=out, changed=True, mixed=first.mixed or func in (F.linear, *EINSUMS, *PRODUCTS))
    if len(found) > 1:
        return replace(changed, sources=sources)
    if func in DROPOUTS or name in VIEWS:
        return replace(first, now=out)
    if name in MOVES:
        return replace(first, now=out, moved=True)
    return changed


def _of_matmul(followed: Followed, pair: Sequence[Tensor], place: int) -> Product | None:
    attention, values = pair[place], pair[1 - place]
    if place == 1:  # v^T A^T
        if not followed.moved or values.dim() < 2:
            return None
        attention, values, turned = attention.mT, values.mT, _turned
    else:
        turned = _same
    if attention.dim() < 2 or values.dim() < 2 or attention.shape[-1] != values.shape[-2]:
        return None
    return Product(followed, attention, values, place, turned, turned)


def _of_einsum(followed: Followed, equation: str, pair: Sequence[Tensor], place: int) -> Product | None:
    """Of 'b h i j, b h j d -> b h i d' with any letters, in any order of the values' and the product's axes."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if not arrow or len(names) != 2 or any(len(set(part)) != len(part) or "." in part for part in (*names, result)):
        return None
    own, other = names[place], names[1 - place]
    if len(own) < 2 or own[-1] not in other or own[-1] in result or own[-2] in other or own[-2] not in result:
        return None
    batch, key = own[:-2], own[-1]
    channels = [letter for letter in other if letter not in own]
    shared = [letter for letter in batch if letter in other]
    if len(channels) != 1 or set(result) != {*batch, own[-2], channels[0]}:
        return None
    values = pair[1 - place].permute([other.index(letter) for letter in (*shared, key, channels[0])])
    for index, letter in enumerate(batch):
        values = values if letter in shared else values.unsqueeze(index)
    wanted = [*batch, own[-2], channels[0]]
    forth, back = [result.index(letter) for letter in wanted], [wanted.index(letter) for letter in result]
    return Product(followed, pair[place], values, place, lambda x: x.permute(forth), lambda x: x.permute(back))


def _keys_last(product: Product) -> bool:
    """Whether the keys still stand last, where axes were moved: then each row has sum 1."""
    sums = product.weights.detach().float().sum(-1)
    return not product.followed.changed and bool(((sums - 1).abs() < 0.02).all())


def of_heads(product: Product, batch: int) -> tuple[Computed, Tensor, Way, Way, Pair | None] | None:
    """The product as heads: attention, values (B, H, N, d), the ways to (B, H, M, d) and back, queries and keys where
    these are seen; None if it has other axes.

    Args:
        product: its batch axes are (B, H), or B*H in one.
        batch: B.
    """
    attention = product.weights
    axes = attention.shape[:-2]
    if len(axes) == 1 and axes[0] % batch == 0:
        shape = (batch, axes[0] // batch)
    elif len(axes) == 2:
        shape = (axes[0], axes[1])
    else:
        return None
    weights = attention.reshape(*shape, *attention.shape[-2:])
    values = product.values.expand(*axes, *product.values.shape[-2:])
    values = values.reshape(*shape, *values.shape[-2:])
    followed = product.followed
    exact = not (followed.changed or followed.moved)
    scores = followed.scores.reshape(weights.shape) if exact or followed.scores.numel() == weights.numel() else weights
    computed = Computed(scores, None if exact else weights)

    def forth(x: Tensor) -> Tensor:
        x = product.to(x)
        return x.reshape(*shape, *x.shape[-2:])

    def back(x: Tensor) -> Tensor:
        return product.back(x.reshape(*axes, *x.shape[-2:]))

    factors = followed.factors
    if factors is not None:
        q, k = (x.expand(*axes, *x.shape[-2:]).reshape(*shape, *x.shape[-2:]) for x in factors)
        factors = (q, k) if (q.shape[-2], k.shape[-2]) == tuple(weights.shape[-2:]) else None
    return computed, values, forth, back, factors


def _same(x: Tensor) -> Tensor:
    return x


def _turned(x: Tensor) -> Tensor:
    return x.mT
