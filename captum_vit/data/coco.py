"""COCO's instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import IndexedReader, Item, Mask, Row, imported
from .coco_layout import find_annotations, find_images
from .instances import Instances, Picture, Thing, read_instances
from .outlines import mask_of
from .pictures import Photo, open_photo


class Coco(IndexedReader):
    """COCO, or a data set in its format: one row for each category in an image, target the category's name; images by
    number, categories too.

    Masks and boxes are of all objects of the category. A crowd is none of them: a category of which there is only a
    crowd gets no row, else the crowd's pixels are not valid. Boxes are x, y, width, height, 0-based. Where no object
    has an outline, as in exports for detection, items have boxes alone. The JSON file is read when the reader is made,
    and outlines when items are asked for; polygons are drawn by pycocotools.

    The images of the split val2017 lie in val2017/, in images/val2017/, in images/, beside the JSON file or in `root`:
    wherever the first of them are found.

    Args:
        root: what holds annotations/ and the images, or the splits of Roboflow; or the JSON file itself.
        split: as val2017, train or valid; by default val2017, or the only one.
        annotations: the JSON file, where it is not found by itself; in `root`.
        images: the folder of images, where it is not; in `root`.
    """

    kind = "coco"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "", annotations: str = "", images: str = "") -> None:
        super().__init__(root, split=split, annotations=annotations, images=images)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(sorted(self._listed()[1].names.items()))

    def _listed(self) -> tuple[Path, Instances]:
        """The folder of images, and what the file says."""
        if "listed" not in self.kept:
            imported("pycocotools.mask", "pycocotools")  # now, and not at the first item
            file, split = find_annotations(self.kind, self.path, self.options["split"], self.options["annotations"])
            found = read_instances(file)
            names = [picture.name for picture in found.pictures if not picture.error]
            folder = find_images(self.kind, self.path, file, split, self.options["images"], names)
            self.kept["listed"] = (folder, found)
        listed: tuple[Path, Instances] = self.kept["listed"]
        return listed

    def list_rows(self) -> list[Row]:
        _, found = self._listed()
        return [row for picture in found.pictures for row in _rows_of(picture, found.names)]

    def files(self, row: Row) -> list[Path]:
        return [self._listed()[0] / row.source]

    def read(self, row: Row) -> Item:
        size, things = row.detail
        photo = open_photo(self._listed()[0] / row.source)
        drawn_on = _size_of(photo, size)
        objects = [thing for thing in things if not thing.get("iscrowd")]
        boxes = _boxes(objects)
        upright = None if boxes is None else photo.upright_boxes(boxes, drawn_on)
        mask, crowd = _union(objects, drawn_on), _union([t for t in things if t.get("iscrowd")], drawn_on)
        if mask is None:
            if upright is None:
                raise DataError("an object has neither a segmentation nor a bbox")
            return Item(row.id, photo.image, row.target, boxes=upright, valid=None if crowd is None else ~crowd)
        valid = np.ones_like(mask) if crowd is None else ~crowd | mask
        return Item(row.id, photo.image, row.target, photo.upright(mask), upright, photo.upright(valid))


def _rows_of(picture: Picture, names: Mapping[int, str]) -> list[Row]:
    stem = picture.name if picture.error else Path(picture.name).with_suffix("").as_posix()
    rows = []
    for category, things in sorted(picture.things.items()):
        if all(thing.get("iscrowd") for thing in things):
            continue
        name = names.get(category, "")
        error = "" if name else f"{stem!r} has the category {category}, which the file does not name"
        detail = (picture.size, things)
        rows.append(Row(f"{stem}/{name or category}", name, picture.name, detail, picture.error or error))
    return rows


def _size_of(photo: Photo, told: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the image that outlines speak of: as it is stored, or upright."""
    if told in (None, photo.stored_size):
        return photo.stored_size
    if told == photo.image.size:
        return photo.image.size
    width, height = photo.stored_size
    raise DataError(f"the file says that the image is {told[0]}x{told[1]} pixels, and it is {width}x{height}")


def _boxes(objects: Sequence[Thing]) -> list[tuple[float, float, float, float]] | None:
    """Corners of the objects' boxes; None where no object has one."""
    there = [thing["bbox"] for thing in objects if thing.get("bbox")]
    if not there:
        return None
    if len(there) < len(objects):
        raise DataError(f"{len(objects) - len(there)} of {len(objects)} objects have no bbox")
    return [_corners(box) for box in there]


def _corners(box: Any) -> tuple[float, float, float, float]:
    if not isinstance(box, list) or len(box) != 4 or any(type(value) not in (int, float) for value in box):
        raise DataError("a bbox is four numbers: x, y, width, height")
    try:
        x, y, width, height = map(float, box)
    except OverflowError as error:
        raise DataError("a bbox has a number that is too large") from error
    if not np.isfinite([x, y, width, height]).all() or width < 0 or height < 0:
        raise DataError(f"a bbox is x, y, width, height, finite and of no negative size, got {box}")
    return x, y, x + width, y + height


def _union(things: Sequence[Thing], size: tuple[int, int]) -> Mask | None:
    """Pixels of any of the objects, (H, W); None where no object has an outline."""
    outlines = [thing["segmentation"] for thing in things if thing.get("segmentation") not in (None, [], {}, "")]
    if not outlines:
        return None
    if len(outlines) < len(things):
        raise DataError(f"{len(things) - len(outlines)} of {len(things)} objects have no segmentation")
    mask = np.zeros(size[::-1], bool)
    for outline in outlines:
        mask |= mask_of(outline, size)
    return mask
