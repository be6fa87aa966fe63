"""Annotations in the XML of Pascal VOC, which ImageNet took over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, parse

from ..errors import DataError

Corners = tuple[float, float, float, float]

LARGEST = 5_000_000  # bytes of an annotation; one of 1000 objects has a tenth of it
DEEPEST = 20  # levels; VOC's parts of objects need 5


class Thing(NamedTuple):
    """An object in an annotation.

    Attributes:
        name: its class.
        corners: xmin, ymin, xmax, ymax as they stand in the file.
        difficult: whether it is flagged as one that even a person hardly recognises.
    """

    name: str
    corners: Corners
    difficult: bool


class Annotation(NamedTuple):
    """What a file says of its image: `size` as (width, height), None where it says nothing, and the objects."""

    size: tuple[int, int] | None
    things: tuple[Thing, ...]


class _Plain(TreeBuilder):
    """A tree without what no annotation has: depth, and types of its own, whose entities grow as they are expanded."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise DataError("it defines a document type, which annotations do not")

    def start(self, tag: str, attributes: Any, /) -> Element:
        self._depth += 1
        if self._depth > DEEPEST:
            raise DataError(f"it is nested deeper than {DEEPEST} levels")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def read_annotation(path: Path) -> Annotation:
    """The annotation in a file.

    Raises:
        DataError: no file, not XML, too large or too deep, or an object without name or box.
    """
    if not path.is_file():
        raise DataError(f"no annotation {str(path)!r}: the image has none")
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(f"it has {size / 1e6:.0f} MB, and an annotation at most {LARGEST / 1e6:.0f}")
        root = parse(path, XMLParser(target=_Plain())).getroot()
        if root is None or root.tag != "annotation":
            raise KeyError("annotation")
        return Annotation(_size(root.find("size")), tuple(map(_thing, root.findall("object"))))
    except (ParseError, OSError, ValueError, LookupError) as error:
        if type(error) is KeyError:
            raise DataError(
                f"the annotation {str(path)!r} lacks {error}: an object has a name and a bndbox with its corners"
            ) from error
        raise DataError(f"the annotation {str(path)!r} is damaged: {error}") from error


def _thing(entry: Element) -> Thing:
    corners = entry.find("bndbox")
    if corners is None:
        raise KeyError("bndbox")
    x1, y1, x2, y2 = (float(_text(corners, name)) for name in ("xmin", "ymin", "xmax", "ymax"))
    return Thing(_text(entry, "name"), (x1, y1, x2, y2), entry.findtext("difficult", "0").strip() == "1")


def _text(entry: Element, name: str) -> str:
    text = (entry.findtext(name) or "").strip()
    if not text:
        raise KeyError(name)
    return text


def _size(entry: Element | None) -> tuple[int, int] | None:
    try:
        return None if entry is None else (int(_text(entry, "width")), int(_text(entry, "height")))
    except (KeyError, ValueError):  # many files say nothing, or nonsense
        return None
