"""Values as JSON gives them, with every one of them checked.

Whatever does not hold raises an InputError that says where it stands.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import InputError
from ..marks import Mark, from_dict

T = TypeVar("T")
LARGEST = 2**31 - 1


def text(value: Any, where: str) -> str:
    """The value, if it is text."""
    if not isinstance(value, str):
        raise wrong(where, "text", value)
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a mapping of names to values."""
    if not isinstance(value, dict):
        raise wrong(where, "values by name", value)
    return value


def many(value: Any, where: str, of: Callable[[Any, str], T], count: int | None = None) -> tuple[T, ...]:
    """The entries of a list, each through the check `of`; `count` is how many there must be."""
    if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
        raise wrong(where, "a list" if count is None else f"a list of {count}", value)
    return tuple(of(item, f"{where}[{i}]") for i, item in enumerate(value))


def whole(value: Any, where: str, least: int = 0) -> int:
    """The value, if it is a whole number of at least so many."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise wrong(where, f"a whole number from {least}", value)
    return value


def side(value: Any, where: str) -> int:
    """The value, if it can be the side of a picture in pixels."""
    return whole(value, where, 1)


def number(value: Any, where: str) -> float:
    """The value, if it is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise wrong(where, "a finite number", value)
    return value


def flag(value: Any, where: str) -> bool:
    """The value, if it is true or false."""
    if not isinstance(value, bool):
        raise wrong(where, "true or false", value)
    return value


def mark(value: Any, where: str) -> Mark:
    """The value, if it is a mark as `marks.to_dict` writes it."""
    given = mapping(value, where)
    kind = given.get("kind")
    names = {"box": ("left", "top", "right", "bottom"), "point": ("x", "y"), "outline": ("lines",)}
    if not isinstance(kind, str) or set(given) != {"kind", *names.get(kind, ())}:
        raise wrong(where, f"one of {', '.join(names)}, with its numbers", value)
    for name in names[kind]:
        if kind == "outline":
            many(given[name], f"{where}.{name}", lambda line, at: many(line, at, _point))
        else:
            number(given[name], f"{where}.{name}")
    return from_dict(given)


def _point(value: Any, where: str) -> tuple[float, ...]:
    return many(value, where, number, 2)


def wrong(where: str, wanted: str, value: Any) -> InputError:
    """What is raised of a value that is not as it must be."""
    shown = repr(value)
    return InputError(f"{where} must be {wanted}, got {shown if len(shown) <= 60 else f'{shown[:60]}...'}")
