"""Copies of one image that a model is examined on, computed once where they are the same.

Some patches or tokens are changed in each copy, so most rows of a batch stand in it several times. Linear layers, norms
and pointwise functions make each row by itself: so each is computed once. Rows are compared whole, number by number;
nothing rests on what the copies were meant to be.
"""

import dis
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .private import written

FEW = 0.7  # of the rows, up to which it is worth while to compute the others from them
CONVOLUTIONS = {torch.conv2d, F.conv2d, torch.conv3d, F.conv3d}
OURS = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
RAISING = {dis.opmap[name] for name in ("RAISE_VARARGS", "RERAISE") if name in dis.opmap}
NORM = torch.ops.aten.native_layer_norm.default


_used: ContextVar[bool] = ContextVar("captum_vit_repeated", default=True)


@contextmanager
def each_computed() -> Iterator[None]:
    """Every row computed by itself: there are tensors of torch's own alone, whatever somebody's code does with them."""
    token = _used.set(False)
    try:
        yield
    finally:
        _used.reset(token)


def raised_by_others(error: Exception) -> bool:
    """Whether an error was raised on purpose, by code that is neither torch's nor ours."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or place.tb_frame.f_code.co_filename.startswith(OURS):
        return False
    return place.tb_frame.f_code.co_code[place.tb_lasti] in RAISING


class Repeated(Tensor):
    """A batch (C, ..., D) of which each different row is held once, for as long as nobody looks at it otherwise.

    Pointwise functions and norms over the last axis keep it so; for any other, and for whoever writes to it or takes a
    view, it becomes the tensor that it stands for, and stays that.

    Args:
        rows: those that differ, (few, D).
        place: which of them each is, (C, ...).
    """

    rows: Tensor
    place: Tensor
    whole: Tensor | None
    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, rows: Tensor, place: Tensor) -> "Repeated":
        size = (*place.shape, rows.shape[-1])
        made = Tensor._make_wrapper_subclass(cls, size, dtype=rows.dtype, device=rows.device)  # type: ignore[attr-defined]
        made.rows, made.place, made.whole = rows, place, None
        return made

    def full(self) -> Tensor:
        """The tensor that it stands for, from now on."""
        if self.whole is None:
            self.whole = self.rows[self.place]
        return self.whole

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kept := _of_each_row(func, args, kwargs):
            place, given, named = kept
            out = func(*given, **named)
            if func is NORM:
                return cls(out[0], place), *(cls(part, place).full() for part in out[1:])
            return cls(out, place)
        return func(*tree_map_only(cls, cls.full, args), **tree_map_only(cls, cls.full, kwargs))


def _of_each_row(func: Any, args: tuple, kwargs: dict) -> tuple[Tensor, list[Any], dict] | None:
    """Where the rows of the result lie, and what gives them; None if a function does more than make each by itself."""
    given = [*args, *kwargs.values()]
    shape = next((x.shape for x in given if isinstance(x, Repeated)), None)
    if shape is None:  # in a list
        return None
    if func is NORM:
        if not isinstance(args[0], Repeated) or list(args[1]) != [shape[-1]]:
            return None
    elif not _is_pointwise(func):
        return None
    given = [repeated(x) if isinstance(x, Tensor) and x.shape == shape else x for x in given]
    found = [x for x in given if isinstance(x, Repeated)]
    if not found or any(x.whole is not None for x in found) or not all(map(_along_rows, given)):
        return None
    place, rows = _together(found)
    taken = iter(rows)
    given = [next(taken) if isinstance(x, Repeated) else _flat(x) for x in given]
    return place, given[: len(args)], dict(zip(kwargs, given[len(args) :], strict=True))


@cache
def _is_pointwise(func: Any) -> bool:
    return (
        torch.Tag.pointwise in func.tags
        and torch.Tag.nondeterministic_seeded not in func.tags
        and not written(func)
        and [str(out.type) for out in func._schema.returns] == ["Tensor"]
    )


def _along_rows(x: Any) -> bool:
    """Whether an argument is the same for every row."""
    if isinstance(x, (list, tuple)):
        return not any(isinstance(part, Tensor) for part in x)
    return not isinstance(x, Tensor) or isinstance(x, Repeated) or all(side == 1 for side in x.shape[:-1])


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[-1:]) if isinstance(x, Tensor) else x


def _together(found: Sequence[Repeated]) -> tuple[Tensor, list[Tensor]]:
    """One place for the rows of all, and the rows at it."""
    place = found[0].place
    if all(x.place is place or torch.equal(x.place, place) for x in found):
        return place, [x.rows for x in found]
    both = place.new_zeros(place.shape)
    for x in found:
        both = both * len(x.rows) + x.place
    own, index = _distinct(both.flatten(1))
    return index.view_as(place), [x.rows[x.place.flatten(1)[own]] for x in found]


def few_kinds(stream: Tensor, kinds: int = 1) -> Tensor:
    """A token stream (B, N, D) in whose images the first tokens stand again and again, so that few are different.

    kinds: how many there are.
    """
    place = (torch.arange(stream.shape[1], device=stream.device) % kinds).expand(len(stream), -1)
    made = Repeated(stream[0, :kinds].clone(), place)
    return made if _used.get() else made.full()


def of_rows(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """`layer(x)`, for a layer that makes each row of the last axis by itself.

    Args:
        x: (copies, ..., D).
        layer: of (rows, D), and of such a batch.
    """
    x = repeated(x)
    return Repeated(layer(x.rows), x.place) if isinstance(x, Repeated) else layer(x)


def repeated(x: Tensor) -> Tensor:
    """With each different row held once, where rows are few."""
    if isinstance(x, Repeated):
        if x.whole is None:
            return x
        x = x.whole
    if x.dim() < 3 or not x.is_floating_point() or not _used.get():
        return x
    same = _same_rows(x.reshape(len(x), -1, x.shape[-1]))
    return x if same is None else Repeated(same[0], same[1].view(x.shape[:-1]))


def _same_rows(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of (C, N, D) the rows that differ, (few, D), and which of them each is, (C, N); None if they are not few."""
    own, place = _distinct(rows @ _weights(rows.shape[2]).to(rows))
    if int(own.sum()) > FEW * own.numel():
        return None
    distinct = rows[own]
    return (distinct, place) if torch.equal(distinct[place], rows) else None


def _distinct(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Of the numbers (C, N) of rows, which are the first of their kind, and which of those each is."""
    kinds, kind = numbers.flatten().unique(return_inverse=True)
    index = torch.arange(kind.numel(), device=kind.device)
    first = index.new_full(kinds.shape, kind.numel()).scatter_reduce_(0, kind, index, "amin")
    own = torch.zeros_like(kind, dtype=torch.bool)
    own[first] = True
    place = own.cumsum(0)[first[kind]] - 1
    return own.view_as(numbers), place.view_as(numbers)


@lru_cache(maxsize=64)
def _weights(width: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.randn(width, generator=torch.Generator().manual_seed(0))


def of_patches(func: Callable[..., Tensor], args: tuple, kwargs: dict) -> Tensor:
    """A convolution, of which patches that do not overlap are the rows."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, weight = given["input"], given["weight"]
    dims = weight.dim() - 2
    if not _used.get() or x.dim() != dims + 2 or len(x) < 3 or not _side_by_side(given, dims):
        return func(*args, **kwargs)
    split: list[int] = []
    for axis, side in enumerate(weight.shape[2:], 2):
        cells = x.shape[axis] // side
        x = x.narrow(axis, 0, cells * side)
        split += [cells, side]
    cells, within = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    patches = x.reshape(*x.shape[:2], *split).permute(0, *cells, 1, *within).flatten(dims + 1)
    return of_rows(patches, lambda rows: F.linear(rows, weight.flatten(1), given.get("bias"))).movedim(-1, 1)


def _side_by_side(given: Mapping[str, Any], dims: int) -> bool:
    """Whether a convolution reads patches whole, one beside the other."""
    padding, dilation, stride = (
        given.get(name, usual) for name, usual in (("padding", 0), ("dilation", 1), ("stride", 1))
    )
    stride = (stride,) * dims if isinstance(stride, int) else tuple(stride)
    plain = padding in (0, (0,) * dims, "valid") and dilation in (1, (1,) * dims) and given.get("groups", 1) == 1
    return plain and stride == tuple(given["weight"].shape[2:])
