"""What others bring along: through entry points of packages that are imported already, or named to be imported."""

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import OptionError, nearest


def imported(group: str) -> Iterator[Any]:
    """The objects of a group's entry points, one after another.

    An entry point's name begins with the package that has to be imported for it to be asked, as `timm` or `timm.vit`:
    an object of that package implies that it is.
    """
    return (point.load() for point in _points(group) if point.name.split(".")[0] in sys.modules)


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
    if not hasattr(found, name):
        raise OptionError(f"cannot import {path!r}: {module} has no {name!r}{nearest(name, dir(found))}")
    return getattr(found, name)
