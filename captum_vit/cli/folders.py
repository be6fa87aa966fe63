"""The folder of an image under --out: whose it is, and what of it is ours to replace.

A hidden record in each folder holds a hash of the image's pixels and the names of the files that were written, so that
an image of the same name never mixes with another, and a run leaves nothing behind that the next one does not renew.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from ..errors import OutputError
from ..explanation.saving import MANIFEST, remove
from ..files import make_folder, parts_of, read_within, write_atomically

RECORD = ".captum-vit.json"
MOST = 2**24  # bytes of it; a run writes a line for each picture


def fingerprint(image: Image.Image) -> str:
    """A hash of an image's size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Folder:
    """A folder that holds this image, or nothing yet, with the files that an earlier run wrote there."""

    path: Path
    image: str
    earlier: frozenset[str] = frozenset()

    def announce(self, names: Iterable[str]) -> None:
        """Note what is about to be written, beside what is there: whoever is stopped here has all on record.

        Raises:
            OutputError: the folder cannot be written.
        """
        make_folder(self.path)
        self._note(self.earlier | set(names))

    def finish(self, names: Collection[str], made: str = "") -> None:
        """Remove what the earlier run wrote and this one did not, and what it had begun to; nothing else is touched.

        Args:
            names: the files that were written.
            made: what they were made of, a hash, by which `finished` finds them.

        Raises:
            OutputError: a file cannot be removed.
        """
        try:
            left = self.earlier - set(names)
            if MANIFEST in left:
                remove(self.path)
            for name in left:
                (self.path / name).unlink(missing_ok=True)
            for name in self.earlier.union(names, {RECORD}):
                for begun in parts_of(self.path / name):
                    begun.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot clear the folder {str(self.path)!r}: {error.strerror}") from error
        self._note(names, made)

    def _note(self, names: Iterable[str], made: str = "") -> None:
        record = {"image": self.image, "files": sorted(names), **({"made": made} if made else {})}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        write_atomically(self.path / RECORD, text.encode())


def folder_for(out: Path, name: str, image: str, names: Collection[str], taken: Collection[Path] = ()) -> Folder:
    """The folder of this name, or the next one (`name-2`, ...) that is free or holds the same image.

    Args:
        out: where the folders are.
        name: of the folder that is wanted.
        image: fingerprint of the image.
        names: files that are to be written; a folder is not free if one of them is there and not on its record.
        taken: folders that this run has used already.
    """
    for number in count(1):
        path = out / (name if number == 1 else f"{name}-{number}")
        if path in taken or (path.exists() and not path.is_dir()):
            continue
        found = _record(path) if (path / RECORD).exists() else (image, frozenset[str](), "")
        if found is None or found[0] != image:
            continue
        foreign = {MANIFEST, *names} - found[1]
        if not any((path / file).exists() for file in foreign):
            return Folder(path, image, found[1])
    raise AssertionError  # numbers do not end


def finished(out: Path, name: str, made: str, taken: Collection[Path]) -> Path | None:
    """The folder of this name, or a next one, whose files were all made of the same, whole, by an earlier run.

    Args:
        out, name, taken: as for `folder_for`.
        made: a hash of the image's file and of all that was asked.
    """
    for number in count(1):
        path = out / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return None
        found = None if path in taken else _record(path)
        if found is None or found[2] != made:
            continue
        if all((path / file).exists() for file in found[1]):
            return path
    raise AssertionError  # numbers do not end


def _record(folder: Path) -> tuple[str, frozenset[str], str] | None:
    """Image, files and what they were made of; None where a folder's record is damaged, or names files elsewhere."""
    try:
        record = json.loads(read_within(folder, RECORD, MOST).decode())
        image, files = record["image"], frozenset(record["files"])
        plain = all(Path(file).name == file not in ("", "..") for file in files)
        made = str(record.get("made", ""))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (image, files, made) if plain else None
