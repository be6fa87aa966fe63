"""What packages that are imported already bring along, through entry points."""

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def imported(group: str) -> Iterator[Any]:
    """The objects of a group's entry points, one after another.

    An entry point's name begins with the package that has to be imported for it to be asked, as `timm` or `timm.vit`:
    an object of that package implies that it is.
    """
    return (point.load() for point in _points(group) if point.name.split(".")[0] in sys.modules)


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
