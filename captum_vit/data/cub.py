"""Caltech-UCSD Birds 200-2011."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError
from .base import IndexedReader, Item, Row, first_folder, one_of, wrong_layout
from .pictures import marked, open_photo

_LISTS = ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")
_HOLDS = f"CUB_200_2011/ (or the folder above) with images/ and {', '.join(f'{name}.txt' for name in _LISTS)}"
_SPLITS = {"test": ("0",), "train": ("1",), "all": ("0", "1")}


class Cub(IndexedReader):
    """CUB-200-2011: one row an image, target the bird's number, 0 to 199, in the order of images.txt.

    Boxes are x, y, width, height, taken as 0-based: x to x + width. Masks, from segmentations/ inside the folder or
    beside it, hold what the five annotators said, each a fifth of 255; a pixel counts above the threshold.

    Args:
        root: CUB_200_2011, or the folder above it.
        split: test, train or all.
        masks: whether to read masks, where there are any.
        threshold: of a mask's pixels, 0 to 254; by default three of five annotators.
    """

    kind = "cub"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "test", masks: bool = True, threshold: int = 127) -> None:
        super().__init__(root, split=split, masks=masks, threshold=threshold)

    @property
    def names(self) -> Mapping[int, str]:
        return {int(key) - 1: name for key, name in self._table("classes").items()}

    def list_rows(self) -> list[Row]:
        split = _SPLITS[one_of(self.options["split"], list(_SPLITS), "split")]
        images, labels, parts, boxes, names = map(self._table, _LISTS)
        rows = []
        for number, name in images.items():
            if number not in labels or labels[number] not in names:
                raise DataError(
                    f"image {number} of {self.root!r} has no class in image_class_labels.txt and classes.txt"
                )
            if number not in parts or parts[number] in split:
                label, path = labels[number], Path(name)
                if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
                    raise DataError(f"image {number} of {self.root!r} is no path below images/: {name!r}")
                rows.append(Row(f"{path.with_suffix('')}/{label}", int(label) - 1, name, boxes.get(number)))
        return rows

    def files(self, row: Row) -> list[Path]:
        return [self._folder / "images" / row.source, *filter(None, [self._mask_of(row)])]

    def read(self, row: Row) -> Item:
        photo = open_photo(self._folder / "images" / row.source)
        if row.detail is None:
            raise DataError(f"bounding_boxes.txt has no line for {row.source!r}")
        try:
            x, y, width, height = map(float, row.detail.split())
        except ValueError as error:
            raise DataError(f"bounding_boxes.txt has no x, y, width, height for {row.source!r}") from error
        boxes = photo.upright_boxes([(x, y, x + width, y + height)])
        file = self._mask_of(row)
        if file is None:
            return Item(row.id, photo.image, row.target, boxes=boxes)
        mask = marked(photo.labels(file), self.options["threshold"])
        return Item(row.id, photo.image, row.target, mask, boxes)

    def _mask_of(self, row: Row) -> Path | None:
        """The file of a mask; None where the data set has no masks, or nobody asks for them."""
        folder = first_folder(self._folder / "segmentations", self._folder.parent / "segmentations")
        return (folder / row.source).with_suffix(".png") if folder and self.options["masks"] else None

    @property
    def _folder(self) -> Path:
        nested = self.path / "CUB_200_2011"
        return nested if nested.is_dir() else self.path

    def _table(self, name: str) -> dict[str, str]:
        """Number -> what stands behind it in a line."""
        file = self._folder / f"{name}.txt"
        if not file.is_file():
            raise wrong_layout(self.kind, self.root, f"no {file.name}", _HOLDS)
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise DataError(f"cannot read {str(file)!r}: {error}") from error
        lines = (line.strip().partition(" ") for line in text.splitlines() if line.strip())
        table = {number: rest.strip() for number, _, rest in lines}
        wrong = [number for number in table if not (number.isascii() and number.isdigit())]
        if wrong:
            raise DataError(f"{str(file)!r} has lines of a number and what it stands for, got {wrong[0]!r}")
        return table
