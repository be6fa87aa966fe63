"""What every data set gives: questions, each an image with a class and where that class stands in it."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import CaptumViTError, DataError, nearest
from .stamps import stamp

Target = int | str | None
Mask = NDArray[np.bool_]
Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Item:
    """One question: where in this image is the evidence for this class?

    Attributes:
        id: the image's path in the data set without its suffix, "/", the class; the same wherever the data set lies.
        image: RGB, upright.
        target: the class as the data set numbers or names it; None where the data set has none.
        masks: pixels of all objects of the class, bool, (H, W) of the upright image; None without masks. All False
            where the annotation marks no pixel.
        boxes: of the objects of the class, (n, 4), each x1, y1, x2, y2 in pixels of the upright image, 0-based, the
            right and lower side not included; None without boxes.
        corners: of the same boxes as they stand in the annotation, which may count from 1 and include the ends; None
            where they stand there like `boxes`. The published AGCAM protocol takes these.
        valid: pixels that the annotation speaks about, bool, (H, W); None for all. A pixel that the data set declares
            as void (a border, a crowd) is neither object nor background.
    """

    id: str
    image: Image.Image
    target: Target
    masks: Mask | None = None
    boxes: Boxes | None = None
    valid: Mask | None = None
    corners: Boxes | None = None

    @property
    def mask(self) -> Mask | None:
        """`masks`, or without masks the filled boxes: a pixel belongs to a box that holds its centre."""
        if self.masks is not None or self.boxes is None:
            return self.masks
        mask = np.zeros((self.image.height, self.image.width), bool)
        for x1, y1, x2, y2 in np.ceil(self.boxes - 0.5).clip(min=0).astype(int):
            mask[y1:y2, x1:x2] = True
        return mask


class Reader(Protocol):
    """A data set, ready to be read item by item, in an order that never changes."""

    @property
    def name(self) -> str:
        """The kind of data set."""
        ...

    @property
    def names(self) -> Mapping[int, str]:
        """Class number -> name; empty if the data set has none."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The id of every item, without reading one."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the data, as JSON; only its `root` depends on where the data lies."""
        ...


class Row(NamedTuple):
    """What the index knows of an item before it is read.

    Attributes:
        id, target: of the item.
        source: where its image is, and detail: what else `read` needs, as the reader likes it.
        error: if not empty, why the item cannot be read; asking for the item raises it.
    """

    id: str
    target: Target = None
    source: Any = None
    detail: Any = None
    error: str = ""


class IndexedReader(Sequence[Item], ABC):
    """A reader that lists its rows once, when it is made, and opens images only as items are asked for.

    A subclass lists its rows in `list_rows` and reads one in `read`; what it keeps open belongs into `self.kept`. A
    pickle holds the path and the options but no rows: a copy lists them anew when it first needs them, and refuses
    them if they are not those of the original.

    Args:
        root: where the data lies.
        options: what `describe` tells of the reader besides, as JSON.
    Raises:
        DataError: there are no rows, or two have one id.

    Attributes:
        kind: what stands before the colon in a spec.
        split_option: the option that may also stand behind the path after a colon.
        names: class number -> name; empty if the data set has none.
    """

    kind: ClassVar[str]
    split_option: ClassVar[str] = ""

    def __init__(self, root: str | Path, **options: Any) -> None:
        self.root = str(root)
        self.options = options
        self.kept: dict[str, Any] = {}
        self._rows: list[Row] | None = None
        self._number, self._fingerprint = self._measure(self.rows)

    @abstractmethod
    def list_rows(self) -> list[Row]:
        """All rows, in the order of the items."""

    @abstractmethod
    def read(self, row: Row) -> Item:
        """The item of a row."""

    def files(self, row: Row) -> Sequence[Path] | None:
        """All files that `read` looks at for a row, there or not; None, as by default, where nobody says."""
        return None

    def stamp(self, index: int) -> str:
        """What changes when an item may have changed, without reading it; empty where nobody says its files."""
        row = self.rows[index]
        files = self.files(row)
        told = (row.id, row.target, row.error, None if isinstance(row.detail, Path) else row.detail)
        return "" if files is None else stamp(told, files)

    @property
    def names(self) -> Mapping[int, str]:
        return {}

    @property
    def name(self) -> str:
        """The kind of data set."""
        return self.kind

    @property
    def path(self) -> Path:
        """Where the data lies."""
        return Path(self.root)

    @property
    def rows(self) -> list[Row]:
        """The index; in a copy from a pickle it is made here.

        Raises:
            DataError: the copy finds other rows than the original had.
        """
        if self._rows is None:
            rows = self.list_rows()
            if hasattr(self, "_fingerprint") and self._measure(rows) != (self._number, self._fingerprint):
                raise DataError(
                    f"{self.kind}:{self.root} changed: it had {self._number} rows when it was opened and now has "
                    f"{len(rows)}, or others: open it again"
                )
            self._rows = rows
        return self._rows

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of every item, in order."""
        return tuple(row.id for row in self.rows)

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """The item at a place; of a slice, which reads at once, a list.

        Raises:
            IndexError: there are not so many.
            ImageLoadError: the image is missing or damaged.
            DataError: the annotation is.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.kind} has {len(self)} items, got {number}")
        row = self.rows[number]
        if row.error:
            raise DataError(row.error)
        try:
            return self.read(row)
        except CaptumViTError:
            raise
        except Exception as error:  # a damaged annotation raises whatever its reader stumbles over
            raise DataError(f"the item {row.id!r} cannot be read: {type(error).__name__}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Kind, root as it was given, options, number of rows and SHA-256 over the ids; all of it JSON."""
        return {
            "kind": self.kind,
            "root": self.root,
            "options": dict(self.options),
            "number": self._number,
            "fingerprint": self._fingerprint,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("root", "options", "_number", "_fingerprint")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, kept={}, _rows=None)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({self.root!r}{options}): {self._number} items"

    def _measure(self, rows: list[Row]) -> tuple[int, str]:
        ids = [row.id for row in rows]
        if not ids:
            raise DataError(f"{self.kind}:{self.root} has no items{self._with_options()}")
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise DataError(f"{self.kind}:{self.root} has {twice!r} more than once: a run could not tell them apart")
        return len(ids), sha256("\n".join(ids).encode("utf-8", "surrogateescape")).hexdigest()

    def _with_options(self) -> str:
        chosen = ", ".join(f"{name}={value}" for name, value in self.options.items() if value != "")
        return f" with {chosen}" if chosen else ""


def imported(module: str, package: str) -> Any:
    """A module of a package that only some data sets need.

    Raises:
        DataError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"this data set is read by {package}, which cannot be imported ({error}): pip install {package}, or "
            f"'captum-vit[data]' for all data sets"
        ) from error


def first_folder(*candidates: Path) -> Path | None:
    """The first of the folders that is there."""
    return next((folder for folder in candidates if folder.is_dir()), None)


def one_of(value: str, known: Sequence[str], what: str) -> str:
    """The value, if it is known.

    Raises:
        DataError: it is not; with the nearest names.
    """
    if value not in known:
        raise DataError(f"no {what} {value!r}: there are {', '.join(known)}{nearest(value, list(known))}")
    return value


def wrong_layout(kind: str, root: str | Path, missing: str, holds: str) -> DataError:
    """The error for a path that is not laid out as the data set.

    Args:
        kind: of data set.
        root: the path.
        missing: what is not there, as "no folder images".
        holds: what the path has to be.
    """
    if not Path(root).exists():
        return DataError(f"no such file or folder: {str(root)!r}; {kind}: takes {holds}")
    return DataError(f"{missing} in {str(root)!r}: {kind}: takes {holds}")
