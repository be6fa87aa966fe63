"""Whether an item may have changed, told by its files without reading them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any


def stamp(told: Sequence[Any], files: Sequence[Path]) -> str:
    """A hash of what an index knows of an item, and of size and times of the files that it is read from.

    Equal stamps say that nothing has changed; others that it may have, as where files were copied.
    """
    digest = sha256(repr(told).encode("utf-8", "surrogateescape"))
    for file in files:
        digest.update(_state(file))
    return digest.hexdigest()


def _state(file: Path) -> bytes:
    """Size and times; of no file nothing. The second time is of the last change, which no program can set back."""
    try:
        found = file.stat()
    except OSError:
        return b"none"
    return struct.pack("<qqq", found.st_size, found.st_mtime_ns, found.st_ctime_ns)
