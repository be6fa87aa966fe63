"""Outlines of objects as COCO writes them, polygons or runs of pixels, made masks.

All is checked before it is drawn: the C code of pycocotools trusts what it is given, and ends the process otherwise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .base import Mask, imported

Size = tuple[int, int]

LONGEST = 2_000_000  # pixels along the outline of an object: pycocotools takes 100 bytes for each


def mask_of(outline: Any, size: Size) -> Mask:
    """The pixels of an object, bool (H, W).

    >>> from captum_vit.data.outlines import mask_of
    >>> mask_of([[1, 0, 3, 0, 3, 2, 1, 2]], (4, 2)).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])
    >>> mask_of({"size": [2, 4], "counts": [2, 4, 2]}, (4, 2)).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])

    Args:
        outline: polygons, each a list x1, y1, x2, y2, ...; or {"size": [height, width], "counts": ...}, where the
            counts are lengths of runs down the columns, of 0 and of 1 in turn, as a list or packed into text.
        size: (width, height) of the image.
    Raises:
        DataError: the outline is neither, or does not fit the image.
    """
    if isinstance(outline, Sequence) and not isinstance(outline, (str, bytes)):
        return _of_polygons([_checked_polygon(polygon, size) for polygon in outline], size)
    if isinstance(outline, Mapping):
        return _of_runs(outline, size)
    raise DataError(f"a segmentation is a list of polygons, or runs with size and counts, got {type(outline).__name__}")


def unpacked(text: str | bytes) -> list[int]:
    """The lengths of runs in COCO's packed text: five bits a letter, the lowest first, from the third run on as the
    difference from the run before the last.

    Raises:
        DataError: the text is none of these.
    """
    letters = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    counts: list[int] = []
    value, shift = 0, 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DataError("the packed counts hold a letter or a number that is none of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last of this number
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise DataError("the packed counts are cut off")
    return counts


def _checked_polygon(polygon: Any, size: Size) -> list[float]:
    if not isinstance(polygon, Sequence) or isinstance(polygon, (str, bytes)):
        raise DataError(f"a polygon is a list of coordinates x1, y1, x2, y2, ..., got {type(polygon).__name__}")
    if not all(_is_number(value) for value in polygon):
        raise DataError("a polygon has coordinates that are no finite numbers")
    if len(polygon) % 2 or len(polygon) < 6:
        raise DataError(f"a polygon is at least three points, x and y of each, got {len(polygon)} numbers")
    points = np.array(polygon, float).reshape(-1, 2)
    if (points < -np.array(size)).any() or (points > 2 * np.array(size)).any():
        x, y = points[np.abs(points / size - 0.5).max(1).argmax()]
        raise DataError(f"a polygon's point ({x:g}, {y:g}) lies far outside of the image of {size[0]}x{size[1]} pixels")
    return points.ravel().tolist()


def _of_polygons(polygons: list[list[float]], size: Size) -> Mask:
    if not polygons:
        raise DataError("a segmentation has no polygon")
    length = sum(_length(polygon) for polygon in polygons)
    if length > LONGEST:
        raise DataError(f"the outline is {length:.3g} pixels long: at most {LONGEST} are drawn")
    draw = imported("pycocotools.mask", "pycocotools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools against numpy 2
        runs = draw.frPyObjects(polygons, size[1], size[0])
        mask: Mask = draw.decode(draw.merge(runs)).astype(bool)
    return mask


def _length(polygon: list[float]) -> float:
    points = np.array(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _of_runs(outline: Mapping[str, Any], size: Size) -> Mask:
    width, height = size
    if list(outline.get("size") or ()) != [height, width]:
        raise DataError(f"the runs are of an image of another size than {width}x{height} pixels")
    counts = outline.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = unpacked(counts)
    if not isinstance(counts, Sequence) or not all(type(count) is int and count >= 0 for count in counts):
        raise DataError("the counts of runs are whole numbers of at least 0, or COCO's packed text of them")
    if sum(counts) != width * height:
        raise DataError(f"the runs have {sum(counts):.15g} pixels in all, and the image {width * height}")
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # of a whole number with hundreds of digits
        return False
