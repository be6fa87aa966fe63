"""A method's options: the keyword-only arguments of its `_maps`, shown by `help()` on all that takes them."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import OptionError, brief, nearest

_SECTION = re.compile(r"^Options of `attribute`:\n((?:    .*\n?|\n)+)", re.MULTILINE)
_PLACE = re.compile(r"^ {12}options: .*\n", re.MULTILINE)
READERS = {"run", "target", "flow"}  # what `_maps` is given besides


def parameters_of(maps: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options of a `_maps`, with their types and defaults."""
    parameters = inspect.signature(maps).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in READERS]


def with_options(entry: Callable[..., Any], method: type) -> Callable[..., Any]:
    """An entry of a method, with `**options`, as one whose signature and help name them."""

    @functools.wraps(entry)
    def call(*args: Any, **kwargs: Any) -> Any:
        return entry(*args, **kwargs)

    signature = inspect.signature(entry)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = parameters_of(method._maps)  # type: ignore[attr-defined]
    call.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    told = _SECTION.search(inspect.cleandoc(method.__doc__ or ""))
    if entry.__doc__:
        call.__doc__ = _PLACE.sub(lambda _: _indented(told[1]) if told else "", entry.__doc__)
    return call


def _indented(lines: str) -> str:
    return "".join(f"{' ' * 8}{line}\n" if line.strip() else "\n" for line in lines.rstrip().splitlines())


def refuse_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise OptionError where the method of this name is made with options of its call."""
    if options:
        call = ", ".join(f"{option}={brief(value)}" for option, value in options.items())
        raise OptionError(f"{name} is made of a model and layers, options go into its call: .attribute(images, {call})")


def check_options(name: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise OptionError unless the method of this name has all these options."""
    for option in options:
        if option not in known:
            raise OptionError(
                f"{name} has no option {option!r}; it has: {', '.join(known) or 'none'}{nearest(option, list(known))}. "
                f"Keyword arguments of the model go through forward_kwargs={{...}}"
            )
