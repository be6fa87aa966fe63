"""COCO's JSON of instances: read and checked, entry by entry."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError

Thing = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What the file says of an image.

    name: path of its file, below the folder of images.
    size: (width, height); None where the file does not say it.
    things: category -> the objects of it, crowds among them, as they stand in the file.
    error: if not empty, why the image cannot be found.
    """

    name: str
    size: tuple[int, int] | None
    things: dict[int, list[Thing]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Instances:
    """What a file of instances holds: category -> name, and the images in the order of their numbers."""

    names: dict[int, str]
    pictures: list[Picture]


def read_instances(file: Path) -> Instances:
    """What a file holds; objects of images that it does not list are left aside.

    Raises:
        DataError: it is not COCO's JSON of instances, or damaged.
    """
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        return _instances(content)
    except DataError as error:
        raise DataError(f"{str(file)!r} is not COCO's JSON of instances, or damaged: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{str(file)!r} is not COCO's JSON of instances, or damaged: {reason}") from error


def _instances(content: Any) -> Instances:
    if not isinstance(content, dict):
        raise DataError(f"it holds no mapping but {type(content).__name__}")
    names: dict[int, str] = {}
    for entry in _entries(content, "categories"):
        names[_number(entry, "id", "a category")] = _text(entry, "name", "a category")
    pictures: dict[int | str, Picture] = {}
    for entry in _entries(content, "images"):
        number = _key(entry, "id", "an image")
        if number in pictures:
            raise DataError(f"two images have the id {number!r}")
        name = _text(entry, "file_name", "an image")
        name = name if "/" in name else name.replace("\\", "/")  # as Windows writes it
        pictures[number] = Picture(name, _size(entry), error=_outside(name))
    for entry in _entries(content, "annotations"):
        number = _key(entry, "image_id", "an annotation")
        if number in pictures:
            pictures[number].things.setdefault(_number(entry, "category_id", "an annotation"), []).append(entry)
    return Instances(names, [pictures[number] for number in sorted(pictures, key=lambda n: (isinstance(n, str), n))])


def _entries(content: dict[str, Any], what: str) -> list[dict[str, Any]]:
    found = content.get(what)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{what!r} is no list of entries")
    return found


def _key(entry: dict[str, Any], name: str, what: str) -> int | str:
    key = entry.get(name)
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise DataError(f"{what} has no {name} that is a number or a text")
    return key


def _number(entry: dict[str, Any], name: str, what: str) -> int:
    number = entry.get(name)
    if type(number) is not int:
        raise DataError(f"{what} has no {name} that is a whole number")
    return number


def _text(entry: dict[str, Any], name: str, what: str) -> str:
    text = entry.get(name)
    if not isinstance(text, str) or not text:
        raise DataError(f"{what} has no {name}")
    return text


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if type(width) is int and type(height) is int else None


def _outside(name: str) -> str:
    """Why a path is none below the folder of images."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.name:
        return f"the file_name {name!r} leads out of the folder of images"
    return ""
