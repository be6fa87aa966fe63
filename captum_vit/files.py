"""Folders that can be written, and files that appear whole or not at all."""

import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError, OptionError, OutputError, brief


def lines_of(file: str | Path) -> list[str]:
    """The lines of a text file, without empty ones at its end.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise OptionError(f"cannot read {brief(str(file))}: {error.strerror or error}") from error
    except ValueError as error:  # no path, or no text
        raise OptionError(f"cannot read {brief(str(file))}: {error}") from error


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """What the system refuses within is an OutputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """A folder that is there, with all above it.

    Raises:
        OutputError: it cannot be made.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """That a folder can be made and written, so that a failure comes before the work; nothing of the trial stays.

    Raises:
        OutputError: it cannot.
    """
    probe, new = folder / f".{os.getpid()}.tmp", not folder.exists()
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if new:
            folder.rmdir()


def write_atomically(path: Path, data: bytes) -> None:
    """A file that appears whole under its name or not at all, whoever else writes it at the same time.

    It is on the disk when this returns, so that it outlasts a loss of power.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a loss of power may leave the name without what it stands for
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def parts_of(path: Path) -> Iterator[Path]:
    """What was left of a file by those that were killed while they wrote it."""
    yield from path.parent.glob(f".{glob.escape(path.name)}.*.tmp")


def _sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk, where the system lets one say so."""
    with suppress(OSError):  # Windows opens no folders, and some shared storage cannot
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


_CAREFULLY = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"))


def read_within(folder: Path, name: str, most: int) -> bytes:
    """What a regular file in a folder that somebody else may have filled holds.

    Nothing else is opened: no pipe, socket or device, which may never end, and no link that leads out of the folder.

    Args:
        folder: where it is.
        name: of the file.
        most: how many bytes it may have; nothing is allocated for more.
    Raises:
        InputError: it is something else, or larger.
        OSError: it is not there, or cannot be read.
    """
    path = folder / name
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if path.parent != Path(os.path.realpath(folder)):
            raise InputError(f"{name!r} is a link that leads out of the folder: copy the file itself")
    _check_regular(os.lstat(path), name, most)
    with open(os.open(path, os.O_RDONLY | _CAREFULLY), "rb") as file:
        found = os.fstat(file.fileno())
        _check_regular(found, name, most)  # another one may have taken its place
        return file.read(found.st_size)


def _check_regular(found: os.stat_result, name: str, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{name!r} is not a regular file")
    if found.st_size > most:
        raise InputError(f"{name!r} has {found.st_size} bytes, and at most {most} are read")
