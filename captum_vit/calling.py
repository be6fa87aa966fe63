"""The call that makes an explanation again, in words: a line of Python, or a command."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

LONGEST = 400  # letters of a value; a longer one is told by its name alone, as a variable


def program(function: Callable[..., Any], image: Any, given: Mapping[str, Any]) -> str:
    """A line of Python that calls a function with an image and with all that is not as by default.

    >>> from captum_vit.calling import program
    >>> program(captum_vit.explain, "photo.jpg", {"model": "sample", "method": ["agcam", "daam"], "target": None})
    "captum_vit.explain('photo.jpg', method=['agcam', 'daam'])"

    What cannot be written down, as a model, stands there as a variable of its argument's name.

    Args:
        function: the one that was called.
        image: a path, or what else was passed.
        given: name of each argument -> its value; others than those of the signature are options.
    """
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    told = [f"{name}={_value(name, value)}" for name, value in given.items() if not _same(value, defaults.get(name))]
    arguments = ", ".join([_value("image", image), *told])
    return f"captum_vit.{function.__name__}({arguments})"


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and value == default)  # defaults are plain


def _value(name: str, value: Any) -> str:
    """A value as Python writes it, as far as it is made of plain ones."""
    if isinstance(value, Path):
        value = str(value)
    told = _written(value)
    return name if told is None or len(told) > LONGEST else told


def _written(value: Any) -> str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return f"float('{value}')"
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return _joined("{}", (_pair(*each) for each in value.items()))
    if isinstance(value, (list, tuple)):
        return _joined("[]", map(_written, value))
    told = getattr(value, "in_python", None)  # as of a target
    return told if isinstance(told, str) else None


def _pair(key: Any, value: Any) -> str | None:
    told = _written(key), _written(value)
    return None if None in told else f"{told[0]}: {told[1]}"


def _joined(brackets: str, parts: Iterable[str | None]) -> str | None:
    told = list(parts)
    return None if None in told else brackets[0] + ", ".join(part for part in told if part is not None) + brackets[1]
