"""A folder of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError
from ..images import SUFFIXES
from .base import IndexedReader, Item, Row, wrong_layout
from .pictures import marked, open_photo

_HOLDS = (
    "a folder with images/ in it and, of the same names, masks/; folders in both of them are classes. Without masks "
    "the folders of the classes may also lie in it themselves, as dog/rex.jpg"
)


class Folder(IndexedReader):
    """Images and masks of the same names: images/dog/rex.jpg and masks/dog/rex.png.

    Folders in images/ are classes: target is the folder's path as text, or None without folders. If only masks/ has
    folders, an image has one row for each folder with a mask of it, and no row if there is none. A pixel of a mask
    belongs to the object if one of its colours, or its number in the palette, is above the threshold and it is not
    transparent. Without masks/, items have no mask; with it, an item whose image has no mask is an error. Links are
    followed; hidden files are not read. Where there is neither images/ nor masks/, the folder is what images/ would be.

    Args:
        root: what holds images/ and masks/, or the images.
        threshold: of a mask's pixels.
    """

    kind = "folder"

    def __init__(self, root: str | Path, *, threshold: int = 0) -> None:
        super().__init__(root, threshold=threshold)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(sorted({str(row.target) for row in self.rows if row.target is not None})))

    def list_rows(self) -> list[Row]:
        bare = self.path.is_dir() and not any((self.path / name).is_dir() for name in ("images", "masks"))
        images = _by_stem(self.path if bare else self._images())
        if bare and not images:
            raise wrong_layout(self.kind, self.root, "no folder images, and no images", _HOLDS)
        masks = _by_stem(self.path / "masks") if (self.path / "masks").is_dir() else None
        if masks and not any("/" in stem for stem in images) and any("/" in stem for stem in masks):
            return [
                Row(f"{name}/{folder}", folder, images[name], mask)
                for (folder, _, name), mask in sorted((s.rpartition("/"), m) for s, m in masks.items())
                if name in images
            ]
        rows = []
        for stem, file in images.items():
            target = stem.rpartition("/")[0] or None
            error = (
                f"no mask of {stem!r} in {str(self.path / 'masks')!r}"
                if masks is not None and stem not in masks
                else ""
            )
            rows.append(Row(f"{stem}/{target}" if target else stem, target, file, (masks or {}).get(stem), error))
        return rows

    def _images(self) -> Path:
        folder = self.path / "images"
        if not folder.is_dir():
            raise wrong_layout(self.kind, self.root, "no folder images", _HOLDS)
        return folder

    def files(self, row: Row) -> list[Path]:
        return [row.source] if row.detail is None else [row.source, row.detail]

    def read(self, row: Row) -> Item:
        photo = open_photo(row.source)
        if row.detail is None:
            return Item(row.id, photo.image, row.target)
        mask = marked(photo.labels(row.detail), self.options["threshold"])
        return Item(row.id, photo.image, row.target, mask)


def _by_stem(folder: Path) -> dict[str, Path]:
    """Path inside the folder without suffix -> file, sorted.

    Raises:
        DataError: two files differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    for file in sorted(_walk(folder)):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{found[stem].name!r} and {file.name!r} in {str(file.parent)!r} have one name: rename one")
        found[stem] = file
    return found


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Images in a folder and its folders; a link back into a folder above is not followed."""
    files, here = [], (*above, folder.resolve())
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            files += _walk(child, here) if child.resolve() not in here else []
        elif child.suffix.lower() in SUFFIXES:
            files.append(child)
    return files
