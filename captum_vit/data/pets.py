"""Oxford-IIIT Pets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .base import IndexedReader, Item, Row, imported, one_of, wrong_layout
from .pictures import open_photo

_PET, _BORDER = 1, 3  # of a trimap; 2 is background
_HOLDS = "oxford-iiit-pet/ (or the folder above) with images/ and annotations/ in it, which has trimaps/"


class Pets(IndexedReader):
    """Oxford-IIIT Pets: one row an image, target the breed's number, 0 to 36, in the order of the published list.

    The mask is where the trimap says pet; its border, about which it is not sure, is not valid. Listed by torchvision.

    Args:
        root: oxford-iiit-pet, or the folder above it.
        split: test or trainval.
    """

    kind = "pets"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "test") -> None:
        super().__init__(root, split=split)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(self._listed().classes))

    def _listed(self) -> Any:
        if "listed" not in self.kept:
            one_of(self.options["split"], ("test", "trainval"), "split")
            holder = self.path.parent if self.path.name == "oxford-iiit-pet" else self.path
            if not (holder / "oxford-iiit-pet").is_dir():
                raise wrong_layout(self.kind, self.root, "no oxford-iiit-pet", _HOLDS)
            make = imported("torchvision.datasets", "torchvision").OxfordIIITPet
            try:
                self.kept["listed"] = make(str(holder), split=self.options["split"], download=False)
            except (RuntimeError, OSError, ValueError) as error:
                raise DataError(f"{self.root!r} is not {_HOLDS}: {error}") from error
        return self.kept["listed"]

    def list_rows(self) -> list[Row]:
        listed = self._listed()
        named = zip(listed._images, listed._segs, listed._labels, strict=True)  # it has no public list of them
        return [Row(f"{image.stem}/{label}", label, image, trimap) for image, trimap, label in named]

    def files(self, row: Row) -> list[Path]:
        return [row.source, row.detail]

    def read(self, row: Row) -> Item:
        photo = open_photo(row.source)
        trimap = photo.labels(row.detail)
        return Item(row.id, photo.image, row.target, trimap == _PET, valid=trimap != _BORDER)
