"""ImageNet (ILSVRC 2012), with the boxes of its localization task."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..errors import DataError
from ..images import SUFFIXES
from .annotations import Corners, read_annotation
from .base import IndexedReader, Item, Row, first_folder, imported, wrong_layout
from .pictures import open_photo

_HOLDS = (
    "ILSVRC/ (or the folder above) with Data/CLS-LOC/val/ and Annotations/CLS-LOC/val/, or a folder with val/ in it "
    "that has one folder a class, named n01440764"
)


@cache
def synsets() -> tuple[str, ...]:
    """WordNet's names of the 1000 classes, sorted: a class's number in any model is its place here."""
    return tuple(Path(__file__).with_name("imagenet_synsets.txt").read_text("ascii").split())


@cache
def class_numbers() -> dict[str, int]:
    """Synset -> class number."""
    return {synset: number for number, synset in enumerate(synsets())}


class ImageNet(IndexedReader):
    """ImageNet: one row an image, target the class number 0 to 999, in the order of the images' names.

    The class comes from the image's folder, from LOC_val_solution.csv, or from the XML file, in this order. Boxes come
    from XML files, read as items are asked for, else from that table. They count pixels from 0 and include both ends:
    xmin, xmax becomes xmin, xmax + 1. Without XML files and table, items have no boxes; with them, an item whose image
    has no box is an error.

    Args:
        root: ILSVRC, the folder above it, the folder that holds the split, or a folder of class folders.
        split: val or train.
        boxes: whether to read boxes.
        annotations: folder of the XML files, where it is not found by itself; in `root`, or a whole path.
    """

    kind = "imagenet"
    split_option = "split"

    def __init__(self, root: str | Path, *, split: str = "val", boxes: bool = True, annotations: str = "") -> None:
        super().__init__(root, split=split, boxes=boxes, annotations=annotations)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(synsets()))

    def list_rows(self) -> list[Row]:
        split, path = self.options["split"], self.path
        images = first_folder(path / "ILSVRC/Data/CLS-LOC" / split, path / "Data/CLS-LOC" / split, path / split)
        if images is None and path.is_dir() and any(child.name in class_numbers() for child in path.iterdir()):
            images = path
        if images is None:
            raise wrong_layout(self.kind, self.root, f"no images of the split {split!r}", _HOLDS)
        listed = class_folders(images)
        solution = self._solution()
        rows = [self._row(file, synset, solution) for file, synset in listed or _flat(images)]
        return sorted(rows, key=lambda row: row.id)

    def _row(self, file: Path, synset: str, solution: Mapping[str, tuple[str, list[Corners]]]) -> Row:
        table = solution.get(file.stem)
        try:
            synset = synset or (table[0] if table else self._synset_in_xml(file))
        except DataError as error:
            return Row(file.stem, source=file, error=str(error))
        if synset not in class_numbers():
            return Row(
                file.stem, source=file, error=f"{str(file)!r} has the class {synset!r}, which is none of ImageNet"
            )
        return Row(f"{file.stem}/{synset}", class_numbers()[synset], file, table[1] if table else None)

    def files(self, row: Row) -> list[Path]:
        folder = self._annotations() if self.options["boxes"] else None
        return [row.source] if folder is None else [row.source, _xml(folder, row.source)]

    def read(self, row: Row) -> Item:
        photo = open_photo(row.source)
        folder = self._annotations()
        if not self.options["boxes"] or (folder is None and not self._solution()):
            return Item(row.id, photo.image, row.target)
        corners, size = row.detail, None
        if folder is not None:
            found = read_annotation(_xml(folder, row.source))
            corners, size = (
                [thing.corners for thing in found.things if thing.name == row.id.rpartition("/")[2]],
                found.size,
            )
        if not corners:
            raise DataError(f"the annotation of {row.id!r} has no box of its class")
        return Item(
            row.id,
            photo.image,
            row.target,
            boxes=photo.upright_boxes([(a, b, c + 1, d + 1) for a, b, c, d in corners], size),
            corners=photo.upright_boxes(corners, size),
        )

    def _annotations(self) -> Path | None:
        """The folder of XML files."""
        if "annotations" not in self.kept:
            given, split, path = self.options["annotations"], self.options["split"], self.path
            if given and not (path / given).is_dir():
                raise DataError(f"no folder of annotations {str(path / given)!r}")
            places = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "Annotations", "bbox")
            found = first_folder(*(path / place / split for place in places), path / "Annotations", path / "bbox")
            self.kept["annotations"] = path / given if given else found
        folder: Path | None = self.kept["annotations"]
        return folder

    def _synset_in_xml(self, file: Path) -> str:
        folder = self._annotations()
        if folder is None:
            raise DataError(
                f"nothing says the class of {file.name!r}: no class folder, LOC_val_solution.csv or XML file"
            )
        names = {thing.name for thing in read_annotation(_xml(folder, file)).things}
        if len(names) != 1:
            raise DataError(f"the annotation of {file.name!r} has {len(names)} classes, expected one")
        return names.pop()

    def _solution(self) -> dict[str, tuple[str, list[Corners]]]:
        """Image -> synset and boxes, from Kaggle's table; empty if there is none."""
        if "solution" not in self.kept:
            name = f"LOC_{self.options['split']}_solution.csv"
            file = next((f for f in (self.path / name, self.path.parent / name) if f.is_file()), None)
            self.kept["solution"] = _read_solution(file) if file else {}
        table: dict[str, tuple[str, list[Corners]]] = self.kept["solution"]
        return table


def class_folders(folder: Path) -> list[tuple[Path, str]]:
    """Images and the names of their class folders, as torchvision's ImageFolder lists them; none without folders."""
    with os.scandir(folder) as entries:  # which knows folders without a look at each of 50,000 files
        if not any(entry.is_dir() for entry in entries):
            return []
    listed = imported("torchvision.datasets", "torchvision").ImageFolder(str(folder), allow_empty=True)
    files = [(Path(file), listed.classes[number]) for file, number in listed.samples]
    return [(file, name) for file, name in files if not file.name.startswith(".")]


def _flat(folder: Path) -> list[tuple[Path, str]]:
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    return [(file, "") for file in files if not file.name.startswith(".")]


def _xml(folder: Path, image: Path) -> Path:
    """An image's annotation: beside all others, or in its class's folder."""
    nested = folder / image.parent.name / f"{image.stem}.xml"
    return nested if nested.is_file() else folder / f"{image.stem}.xml"


def _read_solution(file: Path) -> dict[str, tuple[str, list[Corners]]]:
    table: dict[str, tuple[str, list[Corners]]] = {}
    line = 1
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            for entry in reader:
                line = reader.line_num
                words = entry["PredictionString"].split()
                numbers = [[float(word) for word in words[i + 1 : i + 5]] for i in range(0, len(words), 5)]
                table[entry["ImageId"]] = (words[0], [(a, b, c, d) for a, b, c, d in numbers])
    except (KeyError, ValueError, IndexError, AttributeError, csv.Error, OSError) as error:
        raise DataError(
            f"{str(file)!r}, line {line}: expected ImageId,PredictionString, a class and four numbers a box"
        ) from error
    return table
