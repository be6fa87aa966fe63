"""Where a copy of COCO, or a data set in its format, has its JSON file and its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .base import one_of, wrong_layout

HOLDS = (
    "a folder with annotations/instances_val2017.json and val2017/, images/val2017/ or images/ in it, one with "
    "_annotations.coco.json beside images, as Roboflow exports them, or the JSON file itself"
)
USUAL = "val2017"
NAMES = ("_annotations.coco.json", "annotations.json", "instances.json", "labels.json", "result.json")
TRIED = 20  # images by which a folder is known


def find_annotations(kind: str, root: Path, split: str, given: str) -> tuple[Path, str]:
    """The JSON file and its split, empty where it has none.

    Args:
        kind: of data set, for messages.
        root: the path that was named: a folder, or the file.
        split: that was asked for; else val2017 or the only one.
        given: the file, where it was named, in `root`.
    Raises:
        DataError: there is none, or several.
    """
    if given or root.is_file():
        file = root / given if given else root
        if not file.is_file():
            raise DataError(f"no file of annotations {str(file)!r}: annotations= takes a JSON file in {str(root)!r}")
        return file, split
    known = _splits(root)
    if not known:
        raise wrong_layout(kind, root, f"no annotations/instances_*.json, {', '.join(NAMES)}", HOLDS)
    if split:
        files = known[one_of(split, sorted(name for name in known if name), "split")]
    elif USUAL in known or len(known) == 1:
        split = USUAL if USUAL in known else next(iter(known))
        files = known[split]
    else:
        named = ", ".join(sorted(name for name in known if name))
        raise DataError(f"{str(root)!r} has the splits {named}: choose one, as {kind}:{root}:{sorted(known)[-1]}")
    if len(files) > 1:
        raise DataError(f"{' and '.join(repr(str(file)) for file in files)} are there: choose one by ?annotations=FILE")
    return files[0], split


def find_images(kind: str, root: Path, file: Path, split: str, given: str, names: Sequence[str]) -> Path:
    """The folder of images: the one that holds the first images of the file.

    Args:
        kind, root, split: as for `find_annotations`.
        file: of annotations.
        given: the folder, where it was named, in `root`.
        names: paths of the images below it.
    Raises:
        DataError: none holds them, or several do.
    """
    top = root if root.is_dir() else root.parent
    if given:
        if not (top / given).is_dir():
            raise DataError(f"no folder of images {str(top / given)!r}: images= takes a folder in {str(top)!r}")
        return top / given
    if file.parent.name == "annotations" and root.is_file():
        top = file.parent.parent
    named = [top / split, top / "images" / split] if split else []
    tried = [*named, top / "images", file.parent, top / "data", top]
    folders = list({folder.resolve(): folder for folder in reversed(tried) if folder.is_dir()}.values())[::-1]
    holding = [folder for folder in folders if any((folder / name).is_file() for name in names[:TRIED])]
    if len(holding) > 1:
        both = " and ".join(repr(str(folder)) for folder in holding)
        raise DataError(f"both {both} hold images of {file.name!r}: choose one by ?images=FOLDER")
    there = holding or [folder for folder in named if folder.is_dir()]
    if len(there) != 1:
        looked = ", ".join(str(folder.relative_to(top)) for folder in tried if folder != top)
        raise wrong_layout(kind, root, f"no folder with {names[0] if names else 'images'} ({looked}, or {top})", HOLDS)
    return there[0]


def _splits(root: Path) -> dict[str, list[Path]]:
    """Split -> its files of annotations; "" where they are of no split."""
    found: dict[str, list[Path]] = {}
    for file in sorted(root.glob("annotations/instances_*.json")):
        found.setdefault(file.stem.removeprefix("instances_"), []).append(file)
    for file in sorted(root.glob(f"*/{NAMES[0]}")):
        found.setdefault(file.parent.name, []).append(file)
    if not found:
        for file in sorted(root.glob("annotations/*.json")):
            found.setdefault(file.stem, []).append(file)
    alone = [root / name for name in NAMES if (root / name).is_file()]
    return found | ({"": alone} if alone and not found else {})
