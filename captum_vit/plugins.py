"""What others bring along: through entry points of packages that are imported already, or named to be imported."""

import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import OptionError, nearest, reason


def imported(group: str) -> Iterator[Any]:
    """The objects of a group's entry points, one after another.

    An entry point's name begins with the package that has to be imported for it to be asked, as `timm` or `timm.vit`:
    an object of that package implies that it is. What others bring and cannot be loaded is warned of, and left out.
    """
    for point in _points(group):
        if point.name.split(".")[0] not in sys.modules:
            continue
        try:
            found = point.load()
        except Exception as error:
            if point.dist is not None and point.dist.name == "captum-vit":
                raise
            warn_of(point, error)
        else:
            yield found


def warn_of(point: EntryPoint, error: Exception) -> None:
    """Say, once, which package brings something that cannot be loaded: it must not stop what others bring."""
    package = point.dist.name if point.dist is not None else point.value
    _warn_once(f"{package}: its {point.name!r} in {point.group} cannot be loaded: {error}")


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def is_path(text: str) -> bool:
    """Whether a text has the form `module:object`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", text) is not None


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def named_object(path: str) -> Any:
    """What `module:object` names.

    Raises:
        OptionError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        found = import_module(module)
    except (ImportError, ValueError) as error:
        raise OptionError(f"cannot import {path!r}: {error}") from error
    except (Exception, SystemExit) as error:  # of whatever stands in the module, as a script without a guard
        raise OptionError(f"cannot import {path!r}: its code ends in {reason(error)}") from error
    if not hasattr(found, name):
        raise OptionError(f"cannot import {path!r}: {module} has no {name!r}{nearest(name, dir(found))}")
    return getattr(found, name)
