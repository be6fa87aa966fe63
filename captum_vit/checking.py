"""Arguments that are wrong in kind, told before anything is made of them."""

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike
from typing import Any

from .errors import OptionError, brief

LONGEST = 4096  # letters of a path, as Linux has it


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise OptionError unless a value is a whole number of at least `least`.

    >>> from captum_vit.checking import check_whole
    >>> try:
    ...     check_whole("top_k", "five")
    ... except CaptumViTError as error:
    ...     print(error)
    top_k must be a whole number, got 'five'
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(f"{name} must be a whole number, got {brief(value)}")
    if not least <= int(value) < 1 << 63:
        raise OptionError(f"{name} must be at least {least}, got {brief(value)}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise OptionError unless a value is a number between two others."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise OptionError(f"{name} must be between {low:g} and {high:g}, got {brief(value)}")


def check_flag(name: str, value: Any) -> None:
    """Raise OptionError unless a value is True or False."""
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
        raise OptionError(f"{name} must be True or False, got {brief(value)}")


def check_text(name: str, value: Any, example: str) -> None:
    """Raise OptionError unless a value is a text, and no endless one."""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise OptionError(f"{name} must be a text, as {example!r}, got {brief(value)}")


def check_path(name: str, value: Any) -> None:
    """Raise OptionError unless a value can be the path of a file or folder."""
    if not isinstance(value, (str, PathLike)) or len(str(value)) > LONGEST or "\0" in str(value):
        raise OptionError(f"{name} must be a path, got {brief(value)}")


def check_by_name(name: str, value: Any) -> None:
    """Raise OptionError unless values come by name, in a dictionary."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise OptionError(f"{name} must be a dictionary of values by name, got {brief(value)}")


def checked_flags(**flags: Any) -> dict[str, bool]:
    """The same, each of them True or False.

    Raises:
        OptionError: one is neither.
    """
    for name, value in flags.items():
        check_flag(name, value)
    return flags
