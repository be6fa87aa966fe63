"""Where what is kept of images lies as long as a run lasts."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ..features.keeping import Kept
from ..files import make_folder, writing_to


class Shelf:
    """A hidden folder under --out, which holds what is kept of each image as long as a run lasts."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder: Path | None = None

    def put(self, kept: Kept, number: int) -> Path:
        """A new file.

        Raises:
            OutputError: it cannot be written, as to a full disk.
        """
        if self._folder is None:
            make_folder(self._out)
            with writing_to(self._out):
                self._folder = Path(tempfile.mkdtemp(prefix=".tokens-", dir=self._out))
        path = self._folder / f"{number}.npz"
        with writing_to(self._folder):
            kept.write(path)
        return path

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # it holds what was written
                self._out.rmdir()
