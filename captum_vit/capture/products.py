"""Queries and keys of a layer that computes its attention itself: what its scores are the product of.

Followed from the product to the softmax as long as every number stays in its place, whatever it is multiplied with, and
whatever is added.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
EINSUMS = {torch.einsum, torch.functional.einsum}
# what leaves the keys on the last axis, and every number as it was
VIEWS = {
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "clone",
    "to",
    "float",
    "half",
}
VIEWS |= {"bfloat16", "double", "type", "type_as", "view_as", "reshape_as", "detach", "requires_grad_", "cuda", "cpu"}
MOVES = {"transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "T", "H", "mH", "t", "adjoint"}
# what changes each number by itself
EACH = {"masked_fill", "masked_fill_", "where", "tanh", "neg"}
EACH |= {name + end for name in ("mul", "div", "add", "sub") for end in ("", "_")} | {
    "multiply",
    "divide",
    "true_divide",
}
EACH |= {f"__{name}__" for name in ("mul", "rmul", "imul", "truediv", "itruediv", "add", "radd", "iadd", "sub", "isub")}
Pair = tuple[Tensor, Tensor]  # q (..., M, d) and k (..., N, d)


class ScoreProducts:
    """The products of one attention layer that may be its scores.

    Of what they become only weak references are held: there are as many numbers as in the attention.
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[ref[Tensor], Pair]] = {}

    def forget(self) -> None:
        """Nothing is followed any more."""
        self._of.clear()

    def pair(self, scores: Any) -> Pair | None:
        """The queries and keys that scores are made of; None where that is not seen."""
        known = self._of.get(id(scores))
        return known[1] if known is not None and known[0]() is scores else None

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        """Follow what a function made of a product, or begin to."""
        found = [pair for x in (*args, *kwargs.values()) if (pair := self.pair(x)) is not None]
        pair = found[0] if len(found) == 1 and name_of(func) in VIEWS | EACH and _same_places(found[0], out) else None
        if func in PRODUCTS or func in EINSUMS:
            pair = None if found else _factors(*operands(func, args, kwargs))
        if pair is not None:
            self._of[id(out)] = ref(out), pair


def name_of(func: Any) -> str:
    """The name of a torch function, or of the attribute that it gets."""
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def operands(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str | None, tuple[Any, ...]]:
    """The equation of an einsum, and what is multiplied."""
    if func in EINSUMS:
        found = args[1:] or kwargs.get("operands", ())
        if len(found) == 1 and isinstance(found[0], (list, tuple)):
            found = found[0]
        equation = args[0] if args else kwargs.get("equation")
        return (equation, tuple(found)) if isinstance(equation, str) else (None, ())
    return None, (*args, *kwargs.values())


def _same_places(pair: Pair, out: Tensor) -> bool:
    """Whether something has the shape of the scores still, but for batch axes that are split or joined."""
    q, k = pair
    return out.dim() > 1 and out.shape[-2:] == (q.shape[-2], k.shape[-2])


def _factors(equation: str | None, pair: Sequence[Any]) -> Pair | None:
    if len(pair) != 2 or not all(isinstance(x, Tensor) and x.dim() > 1 for x in pair):
        return None
    if equation is None:  # q k^T
        return pair[0], pair[1].mT
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if not arrow or len(names) != 2 or len(result) < 2 or "." in equation:
        return None
    *batch, row, column = list(result)
    own = 0 if row in names[0] else 1  # 'b h i d, b h j d -> b h i j', in any order
    inner = set(names[0]) & set(names[1]) - set(result)
    if len(inner) != 1:
        return None
    found = []
    for place, letter in ((own, row), (1 - own, column)):
        wanted = [*batch, letter, *inner]
        if set(names[place]) != set(wanted) or len(names[place]) != len(wanted):
            return None
        found.append(pair[place].permute([names[place].index(each) for each in wanted]))
    return found[0], found[1]
