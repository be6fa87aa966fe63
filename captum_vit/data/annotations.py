"""Annotations in the XML of Pascal VOC, which ImageNet took over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import ParseError, parse

from ..errors import DataError
from .base import imported

Corners = tuple[float, float, float, float]


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


def read_annotation(path: Path) -> Annotation:
    """The annotation in a file.

    Raises:
        DataError: no file, not XML, or an object without name or box.
    """
    parse_voc_xml = imported("torchvision.datasets", "torchvision").VOCDetection.parse_voc_xml
    try:
        content = parse_voc_xml(parse(path).getroot())["annotation"]
        things = [_thing(entry) for entry in content["object"]]
    except FileNotFoundError as error:
        raise DataError(f"no annotation {str(path)!r}: the image has none") from error
    except (ParseError, OSError, ValueError) as error:
        raise DataError(f"the annotation {str(path)!r} is damaged: {error}") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"the annotation {str(path)!r} lacks {error}: an object has a name and a bndbox") from error
    return Annotation(_size(content.get("size")), tuple(things))


def _thing(entry: Any) -> Thing:
    box = entry["bndbox"]
    corners = (float(box["xmin"]), float(box["ymin"]), float(box["xmax"]), float(box["ymax"]))
    return Thing(entry["name"], corners, str(entry.get("difficult", "0")) == "1")


def _size(entry: Any) -> tuple[int, int] | None:
    try:
        return int(entry["width"]), int(entry["height"])
    except (KeyError, TypeError, ValueError):  # many files say nothing, or nonsense
        return None
