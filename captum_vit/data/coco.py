"""COCO's instances."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import IndexedReader, Item, Mask, Row, imported, one_of, wrong_layout
from .pictures import open_photo

_HOLDS = "a folder with annotations/instances_val2017.json and val2017/ in it"


class Coco(IndexedReader):
    """COCO: one row for each category in an image, target the category's name; images by number, categories too.

    Masks and boxes are of all objects of the category. A crowd is none of them: a category of which there is only a
    crowd gets no row, else the crowd's pixels are not valid. Boxes are x, y, width, height, 0-based. The JSON file is
    read, through torchvision and pycocotools, when the reader is made.

    Args:
        root: what holds annotations/ and the images.
        split: name of the images' folder, as val2017.
    """

    kind = "coco"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "val2017") -> None:
        super().__init__(root, split=split)

    @property
    def names(self) -> Mapping[int, str]:
        return {number: entry["name"] for number, entry in sorted(self._coco.cats.items())}

    @property
    def _coco(self) -> Any:
        """The index of pycocotools."""
        if "coco" not in self.kept:
            self.kept["coco"] = self._listed().coco
        return self.kept["coco"]

    def _listed(self) -> Any:
        known = [
            file.stem.removeprefix("instances_") for file in sorted(self.path.glob("annotations/instances_*.json"))
        ]
        if not known:
            raise wrong_layout(self.kind, self.root, "no annotations/instances_*.json", _HOLDS)
        split = one_of(self.options["split"], known, "split")
        if not (self.path / split).is_dir():
            raise wrong_layout(self.kind, self.root, f"no folder {split}", _HOLDS)
        imported("pycocotools.coco", "pycocotools")
        make = imported("torchvision.datasets", "torchvision").CocoDetection
        file = self.path / "annotations" / f"instances_{split}.json"
        try:
            with redirect_stdout(StringIO()):  # pycocotools reports on its progress
                return make(str(self.path / split), str(file))
        except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
            raise DataError(f"{str(file)!r} is not COCO's JSON of instances, or damaged: {error}") from error

    def list_rows(self) -> list[Row]:
        coco, rows = self._coco, []
        for number in sorted(coco.imgs):
            things = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
            stem = Path(coco.imgs[number]["file_name"]).with_suffix("").as_posix()
            for category in sorted({thing["category_id"] for thing in things if not thing.get("iscrowd")}):
                name = coco.cats[category]["name"] if category in coco.cats else ""
                error = "" if name else f"{stem!r} has the category {category}, which the file does not name"
                rows.append(Row(f"{stem}/{name or category}", name, number, category, error))
        return rows

    def read(self, row: Row) -> Item:
        coco = self._coco
        entry = coco.imgs[row.source]
        photo = open_photo(self.path / self.options["split"] / entry["file_name"])
        things = coco.loadAnns(coco.getAnnIds(imgIds=[row.source], catIds=[row.detail]))
        objects = [thing for thing in things if not thing.get("iscrowd")]
        crowd = self._union([thing for thing in things if thing.get("iscrowd")], entry)
        mask = self._union(objects, entry)
        corners = [(x, y, x + width, y + height) for x, y, width, height in (thing["bbox"] for thing in objects)]
        boxes = photo.upright_boxes(corners, (entry["width"], entry["height"]))
        return Item(row.id, photo.image, row.target, photo.upright(mask), boxes, photo.upright(~crowd | mask))

    def _union(self, things: list[Any], entry: Mapping[str, Any]) -> Mask:
        """Pixels of any of the objects, (H, W) as stored."""
        mask = np.zeros((entry["height"], entry["width"]), bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools against numpy 2
            for thing in things:
                mask |= self._coco.annToMask(thing).astype(bool)
        return mask
