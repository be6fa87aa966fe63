"""Pascal VOC 2007 to 2012."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError
from .annotations import Annotation, Corners, Thing, read_annotation
from .base import IndexedReader, Item, Row, imported, one_of, wrong_layout
from .pictures import Photo, open_photo

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_VOID = 255
_HOLDS = "the folder with VOCdevkit/VOC2012/ in it, which has Annotations/, ImageSets/ and JPEGImages/"


class Voc(IndexedReader):
    """Pascal VOC: one row for each class in an image, target the class's name.

    Boxes count pixels from 1 and include both ends: xmin, xmax becomes xmin - 1, xmax. Objects flagged difficult are
    left out with their boxes, as in VOC's own evaluation, and a class that has no other gets no row. Masks are of the
    class as in SegmentationClass, difficult objects included; the border of 255 is not valid. The XML files are read
    when the reader is made, through torchvision.

    Args:
        root: what holds VOCdevkit, or VOCdevkit itself, or VOC2012 in it.
        year: 2007 to 2012; by default the latest that is there.
        set: image set: train, val, trainval, test.
        masks: the images of the segmentation task, with masks, instead of those of the detection task.
        difficult: keep objects flagged difficult.
    """

    kind = "voc"
    split_option = "set"

    def __init__(
        self, root: str | Path, *, year: str = "", set: str = "val", masks: bool = False, difficult: bool = False
    ) -> None:
        super().__init__(root, year=year, set=set, masks=masks, difficult=difficult)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(CLASSES))

    def list_rows(self) -> list[Row]:
        datasets = imported("torchvision.datasets", "torchvision")
        holder, year = self._find()
        make = datasets.VOCSegmentation if self.options["masks"] else datasets.VOCDetection
        sets = holder / "VOCdevkit" / f"VOC{year}" / "ImageSets" / ("Segmentation" if self.options["masks"] else "Main")
        one_of(self.options["set"], sorted(file.stem for file in sets.glob("*.txt") if "_" not in file.stem), "set")
        try:
            listed = make(str(holder), year=year, image_set=self.options["set"], download=False)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(f"{self.kind}:{self.root} cannot be read: {error}") from error
        return [row for file in listed.images for row in self._rows_of(Path(file))]

    def _find(self) -> tuple[Path, str]:
        """The folder that holds VOCdevkit, and the year."""
        wanted = self.options["year"]
        for holder in (self.path, self.path.parent, self.path.parent.parent):
            years = sorted(folder.name[3:] for folder in holder.glob("VOCdevkit/VOC20[01][0-9]") if folder.is_dir())
            if holder == self.path.parent.parent:
                years = [year for year in years if self.path.name == f"VOC{year}"]
            elif holder == self.path.parent:
                years = years if self.path.name == "VOCdevkit" else []
            if years:
                return holder, one_of(wanted, years, "year") if wanted else years[-1]
        raise wrong_layout(self.kind, self.root, "no VOCdevkit", _HOLDS)

    def _rows_of(self, file: Path) -> list[Row]:
        try:
            found = read_annotation(file.parent.parent / "Annotations" / f"{file.stem}.xml")
        except DataError as error:
            return [Row(file.stem, source=file, error=str(error))]
        names = sorted({thing.name for thing in self._counted(found)})
        return [Row(f"{file.stem}/{name}", name, file, found) for name in names]

    def files(self, row: Row) -> list[Path]:
        return [row.source, _mask_of(row.source)] if self.options["masks"] else [row.source]

    def read(self, row: Row) -> Item:
        photo, found = open_photo(row.source), row.detail
        written: list[Corners] = [thing.corners for thing in self._counted(found) if thing.name == row.target]
        boxes = photo.upright_boxes([(x1 - 1, y1 - 1, x2, y2) for x1, y1, x2, y2 in written], found.size)
        corners = photo.upright_boxes(written, found.size)
        if not self.options["masks"]:
            return Item(row.id, photo.image, row.target, boxes=boxes, corners=corners)
        classes = self._segmentation(photo, row.source)
        number = CLASSES.index(one_of(str(row.target), CLASSES, "class of VOC")) + 1
        return Item(row.id, photo.image, row.target, classes == number, boxes, classes != _VOID, corners)

    def _counted(self, found: Annotation) -> list[Thing]:
        """The objects of an image, those flagged difficult only where they are asked for."""
        return [thing for thing in found.things if self.options["difficult"] or not thing.difficult]

    @staticmethod
    def _segmentation(photo: Photo, file: Path) -> np.ndarray:
        labels = photo.labels(_mask_of(file))
        if labels.ndim != 2:
            raise DataError(f"the mask of {file.stem!r} has colours, not VOC's palette: get the published file")
        return labels


def _mask_of(file: Path) -> Path:
    return file.parent.parent / "SegmentationClass" / f"{file.stem}.png"
