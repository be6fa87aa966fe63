"""Folders that can be written, and files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


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

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
