"""Data sets of Hugging Face, by name or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import Boxes, IndexedReader, Item, Row, Target, imported, one_of
from .pictures import Photo, marked, open_photo

_USUAL = {  # columns taken without being named
    "image": ("image", "img", "pixel_values"),
    "label": ("label", "labels", "class", "fine_label"),
    "objects": ("objects", "bbox", "bboxes", "boxes"),
    "mask": ("mask", "segmentation_mask", "segmentation", "annotation"),
}
_CATEGORIES = ("category", "categories", "label", "labels", "category_id")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_SPLITS = ("validation", "val", "test", "train")


class HuggingFace(IndexedReader):
    """A data set of the library datasets: a column of images, with labels, and with masks or boxes if there are.

    The column `objects` holds boxes of the label, or objects with boxes and categories; an image then has one row for
    each category. Target is the label as it is stored, a number or a name; `names` has the names of numbers. An item's
    id begins with the row's number, in eight digits, unless a column of ids is named. Labels and objects are read when
    the reader is made, images and masks as items are asked for. A mask marks the object where it is not 0.

    Args:
        root: folder of `save_to_disk`, any folder that `load_dataset` takes, or a name to download.
        split: by default the only one, else the first of validation, val, test, train.
        config: of a data set that has several.
        image, label, objects, mask, id: names of columns; by default the usual ones that are there. "-" for none.
        box_format: xywh (COCO's) or xyxy, in pixels.
    """

    kind = "hf"
    split_option = "split"

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "",
        config: str = "",
        image: str = "",
        label: str = "",
        objects: str = "",
        mask: str = "",
        id: str = "",
        box_format: str = "xywh",
    ) -> None:
        one_of(box_format, ("xywh", "xyxy"), "box_format")
        columns = {"image": image, "label": label, "objects": objects, "mask": mask, "id": id}
        super().__init__(root, split=split, config=config, **columns, box_format=box_format)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(_class_names(self._data.features.get(self._column("label") or self._column("objects")))))

    def list_rows(self) -> list[Row]:
        image, label, objects, ids = (self._column(what) for what in ("image", "label", "objects", "id"))
        if image is None:
            raise DataError(f"no column of images in hf:{self.root}: name one of {self._columns()} by ?image=NAME")
        wanted = [column for column in (label, objects, ids) if column]
        names, rows = self.names, []
        annotated = self._data.select_columns(wanted) if wanted else [{}] * len(self._data)
        for number, entry in enumerate(annotated):
            stem = str(entry[ids]) if ids else f"{number:08d}"
            found = entry[objects] if objects else None
            try:
                targets = _targets(entry[label] if label else None, found)
            except (TypeError, ValueError, DataError) as error:
                rows.append(Row(stem, source=number, error=f"the labels of {stem!r} cannot be read: {error}"))
                continue
            for target in targets:
                name = names.get(target, target) if isinstance(target, int) else target
                rows.append(Row(stem if name is None else f"{stem}/{name}", target, number, found))
        return rows

    def files(self, row: Row) -> list[Path] | None:
        stored = [Path(file["filename"]) for file in self._data.cache_files]
        if not stored:
            return None  # it lies in memory
        entry = self._data[row.source]
        cells = [entry[column] for column in (self._column("image"), self._column("mask")) if column]
        return stored + [source for source in map(_source, filter(_is_image, cells)) if isinstance(source, Path)]

    def read(self, row: Row) -> Item:
        entry = self._data[row.source]
        photo = _photo(entry[self._column("image")], row.id)
        boxes = None if row.detail is None else self._boxes(photo, row)
        column, masks = self._column("mask"), None
        if column:
            if entry[column] is None:
                raise DataError(f"{row.id!r} has no mask in the column {column!r}")
            masks = marked(_labels(entry[column], row.id, photo))
        return Item(row.id, photo.image, row.target, masks, boxes)

    def _boxes(self, photo: Photo, row: Row) -> Boxes:
        boxes = [box for box, category in _objects(row.detail) if category is None or category == row.target]
        if self.options["box_format"] == "xywh":
            boxes = [(x, y, x + width, y + height) for x, y, width, height in boxes]
        return photo.upright_boxes(boxes)

    @property
    def _data(self) -> Any:
        """The split, with images left undecoded."""
        if "data" not in self.kept:
            datasets = imported("datasets", "datasets")
            data = _one_split(self._load(datasets), self.options["split"], self.root)
            for name, feature in data.features.items():
                if isinstance(feature, datasets.Image):
                    data = data.cast_column(name, datasets.Image(decode=False))
            self.kept["data"] = data
        return self.kept["data"]

    def _load(self, datasets: Any) -> Any:
        path, config = self.path, self.options["config"] or None
        if not path.exists() and (path.is_absolute() or self.root.startswith(".")):
            raise DataError(f"no such folder: {self.root!r}; hf: takes a folder of save_to_disk, or a data set's name")
        try:
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(path))
            return datasets.load_dataset(self.root, config)
        except Exception as error:  # the network, the format, and whatever a data set's own files lead to
            raise DataError(f"datasets cannot load {self.root!r}: {type(error).__name__}: {error}") from error

    def _columns(self) -> str:
        return ", ".join(self._data.column_names)

    def _column(self, what: str) -> str | None:
        """The column for `what`: as named, or the usual one that is there."""
        named, there = self.options[what], self._data.column_names
        if named == "-":
            return None
        if named:
            return one_of(named, there, "column")
        return next((name for name in _USUAL.get(what, ()) if name in there), None)


def _one_split(data: Any, split: str, root: str) -> Any:
    if not isinstance(data, dict):  # a DatasetDict is one
        if split:
            raise DataError(f"hf:{root} has no splits, got split={split!r}")
        return data
    if split:
        return data[one_of(split, list(data), "split")]
    chosen = list(data) if len(data) == 1 else [name for name in _SPLITS if name in data]
    if not chosen:
        raise DataError(f"hf:{root} has the splits {', '.join(data)}: choose one by ?split=NAME")
    return data[chosen[0]]


def _class_names(feature: Any) -> Sequence[str]:
    """The names in the first feature below this one that has names."""
    if hasattr(feature, "names"):
        return tuple(feature.names)
    inner = feature.values() if isinstance(feature, dict) else [getattr(feature, "feature", None)]
    found = (_class_names(each) for each in inner if each is not None)
    return next((names for names in found if names), ())


def _targets(label: Any, found: Any) -> list[Target]:
    """The classes that an image is asked about, sorted; None alone if there are no classes."""
    if label is None:
        several = [category for _, category in _objects(found)] if found is not None else [None]
    else:
        several = label if isinstance(label, list) else [label]
    if any(not isinstance(each, (int, str, type(None))) for each in several):
        raise DataError(f"a label is a number or a name, got {several!r}")
    return sorted(set(several), key=lambda each: (str(type(each)), each if each is not None else 0))


def _objects(found: Any) -> list[tuple[Sequence[float], Target]]:
    """Boxes with their categories, from lists of either, a list of objects, boxes alone or one box."""
    if isinstance(found, dict):
        boxes, categories = _first(found, _BOXES), _first(found, _CATEGORIES)
        if boxes is None:
            raise DataError(f"the objects have {', '.join(found)}, but no {' or '.join(_BOXES)}")
        return list(zip(boxes, categories or [None] * len(boxes), strict=True))
    if found and isinstance(found[0], dict):
        return [(_first(each, _BOXES) or (), _first(each, _CATEGORIES)) for each in found]
    return [(box, None) for box in ([found] if found and not isinstance(found[0], (list, tuple)) else found)]


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _photo(cell: Any, name: str) -> Photo:
    if not isinstance(cell, dict):
        raise DataError(f"{name!r} has no image, got {type(cell).__name__}: is this the column of images?")
    return open_photo(_source(cell), name)


def _labels(cell: Any, name: str, photo: Photo) -> np.ndarray:
    """A mask from a cell, an image or rows of numbers, turned upright."""
    if isinstance(cell, dict):
        return photo.labels(_source(cell), f"of {name}")
    try:
        labels = np.asarray(cell)
    except ValueError:  # rows of several lengths
        labels = np.empty(0, object)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "biuf":
        raise DataError(f"the mask of {name!r} is an image, or rows of numbers of one length")
    return photo.upright(labels)


def _is_image(cell: Any) -> bool:
    return isinstance(cell, dict) and (cell.get("bytes") is not None or bool(cell.get("path")))


def _source(cell: Mapping[str, Any]) -> Path | bytes:
    """What an image that is left undecoded comes from."""
    return cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"])
