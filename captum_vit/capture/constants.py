"""Parameters as constants of a graph, so that nothing is held for their gradients."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .rule_names import CASTS, PLACING
from .ruled import name_of, with_tensors
from .rules import Ruling
from .scopes import CarriedError

# what shares memory with its argument, and so may be written to: a copy in double precision would lose that
SHARED = (PLACING - CASTS) | {"data", "detach"}


def constant_parameters(func: Callable, args: tuple, kwargs: dict, ruling: Ruling | None = None) -> Any:
    """The function with parameters as constants: gradients start at attention outputs, and none is held for them."""
    if ruling is None and getattr(func, "__name__", "") == "__get__":  # attributes of a parameter are its own
        return func(*args, **kwargs)
    args = tuple(map(_constant, args))
    kwargs = {key: _constant(value) for key, value in kwargs.items()} if kwargs else kwargs
    if ruling is None:
        return func(*args, **kwargs)
    name, written = name_of(func)
    if ruling.rules.double and name not in SHARED:
        args = (*args[: int(written)], *with_tensors(args[int(written) :], _double))
        kwargs = with_tensors(kwargs, _double)
    try:
        return ruling(func, *args, **kwargs)
    except UnsupportedModelError as error:  # of which an operator, as %, would make a TypeError of Python's
        raise CarriedError from error


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() and x.device.type != "mps" else x


def _constant(x: Any) -> Any:
    """Parameters cut from the graph; tensors of inference mode copied, since they cannot enter one."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_constant, x)) if type(x) in (list, tuple) else x
    if not isinstance(x, Tensor):
        return x
    if x.is_inference():
        return x.clone().detach()  # a parameter of inference mode asks for gradients all the same
    return x.detach() if type(x) is nn.Parameter else x
