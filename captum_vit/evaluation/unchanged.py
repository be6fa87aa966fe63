"""That the data of a run is still what its rows were made of."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..data import Reader
from ..data.content import content, difference
from ..errors import RunError

DRAWING = ("numpy", "pillow", "pycocotools", "scipy", "torchmetrics")  # decode images and masks, or score maps


def drawing_versions() -> dict[str, str]:
    """The versions of the packages that decide what an image, a mask or a figure is, as far as they are installed."""
    found = {}
    for package in DRAWING:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def stamp_of(data: Reader, index: int) -> str:
    """What a reader says of an item without reading it; empty of a reader that says nothing."""
    told: Any = getattr(data, "stamp", None)
    return str(told(index)) if told else ""


def check_unchanged(data: Reader, rows: Iterable[tuple[int, str, str]]) -> None:
    """Raise RunError for the first item that is another than the one its rows were made of.

    Where the item's files have the size and times that they had, nothing is read; others are read again, and their
    content decides. Of a reader that tells no stamps, all are.

    Args:
        data: as it is now.
        rows: (item, stamp, content) of those that a run has.
    """
    for index, stamp, known in rows:
        if stamp and stamp == stamp_of(data, index):
            continue
        try:
            item = data[index]
            what = difference(known, content(item))
            name = item.id
        except Exception as error:
            reason = f"item {index} cannot be read any more: {error}"
            raise RunError(_changed(reason)) from error
        if what:
            raise RunError(_changed(f"the {what} of {name!r} is another"))


def _changed(reason: str) -> str:
    return (
        f"the data is not what it was when this run's rows were made: {reason}. Put it back as it was, or choose "
        f"another folder"
    )
