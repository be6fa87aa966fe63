"""ImageNet-S, masks for a part of ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError
from .base import IndexedReader, Item, Row, wrong_layout
from .imagenet import class_folders, class_numbers, synsets
from .pictures import open_photo

_SIZES = (50, 300, 919)  # classes in the published subsets
_VOID = 1000
_HOLDS = "ImageNetS919 (or 300, 50) with validation/ and validation-segmentation/ in it, each with one folder a class"


class ImageNetS(IndexedReader):
    """ImageNet-S (Gao et al. 2022, arXiv:2106.03149): one row an image, target ImageNet's class number, 0 to 999.

    A mask is a PNG whose red channel plus 256 times its green is a class of the subset, counted from 1 in the order of
    the synsets; 0 is anything else, and 1000 is not valid. The row's mask is of the class that the image's folder
    names; objects of other classes in it are asked about nowhere. Masks are opened as items are asked for.

    Args:
        root: ImageNetS50, ImageNetS300 or ImageNetS919.
        split: validation, or train-semi.
        categories: file with the subset's synsets, one a line; by default the folders, which have to be complete.
    """

    kind = "imagenet-s"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "validation", categories: str = "") -> None:
        super().__init__(root, split=split, categories=categories)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(synsets()))

    @property
    def _masks(self) -> Path:
        return self.path / f"{self.options['split']}-segmentation"

    def list_rows(self) -> list[Row]:
        images = self.path / self.options["split"]
        for folder in (images, self._masks):
            if not folder.is_dir():
                raise wrong_layout(self.kind, self.root, f"no folder {folder.name}", _HOLDS)
        numbers = {synset: number for number, synset in enumerate(self._categories(), 1)}
        unknown = [synset for synset in numbers if synset not in class_numbers()]
        if unknown:
            raise DataError(f"{unknown[0]!r} in {self.root!r} is none of ImageNet's classes, which read as n01440764")
        rows = [
            Row(f"{file.stem}/{synset}", class_numbers()[synset], file, numbers[synset])
            for file, synset in class_folders(images)
            if synset in numbers
        ]
        return sorted(rows, key=lambda row: row.id)

    def _categories(self) -> list[str]:
        """The subset's synsets, in order."""
        if self.options["categories"]:
            file = self.path / self.options["categories"]
            if not file.is_file():
                raise DataError(f"no such file: {str(file)!r}; categories= takes a file with a synset a line")
            return sorted(file.read_text("utf-8").split())
        found = sorted(folder.name for folder in self._masks.iterdir() if folder.name in class_numbers())
        if len(found) not in _SIZES:
            raise DataError(
                f"{str(self._masks)!r} has the folders of {len(found)} classes, not of 50, 300 or 919, so nobody can "
                f"tell the numbers in its masks: add ?categories=FILE with the subset's synsets"
            )
        return found

    def _mask_of(self, row: Row) -> Path:
        return self._masks / row.source.parent.name / f"{row.source.stem}.png"

    def files(self, row: Row) -> list[Path]:
        return [row.source, self._mask_of(row)]

    def read(self, row: Row) -> Item:
        photo = open_photo(row.source)
        labels = photo.labels(self._mask_of(row))
        if labels.ndim != 3 or labels.shape[2] < 2:
            raise DataError(f"the mask of {row.id!r} has one channel, expected red + 256 * green")
        classes = labels[..., 0].astype(np.int64) + 256 * labels[..., 1].astype(np.int64)
        return Item(row.id, photo.image, row.target, classes == row.detail, valid=classes != _VOID)
