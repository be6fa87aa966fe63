"""Rows of a run as numbers: what was measured, and what it was measured of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows as a figure reads them: each measures one method's map of one item.

    values: (n, columns of the figure).
    method, target, item, image: (n,), the row's method, its class, the item and the image that it is about; each is
        numbered from 0.
    methods, targets: how many methods and classes the numbers stand for. A class or method may have no row.
    """

    values: Array
    method: Index
    target: Index
    item: Index
    image: Index
    methods: int
    targets: int

    def measured(self, values: Array) -> "Rows":
        """The same rows with these values (n, columns), without rows that have a NaN or infinite one."""
        return replace(self, values=values)._where(np.all(np.isfinite(values), axis=1))

    def of_methods(self, numbers: Index) -> "Rows":
        """The rows of some methods, given by rising numbers, which are numbered anew in this order."""
        found = self._where(np.isin(self.method, numbers))
        return replace(found, method=np.searchsorted(numbers, found.method), methods=len(numbers))

    def of_targets(self, numbers: range) -> "Rows":
        """The rows about consecutive classes, which are numbered anew from 0."""
        found = self._where((self.target >= numbers.start) & (self.target < numbers.stop))
        return replace(found, target=found.target - numbers.start, targets=len(numbers))

    def paired(self) -> "Rows":
        """The rows about items of which every method has a row."""
        has = np.zeros((self.methods, _count(self.item)), bool)
        has[self.method, self.item] = True
        return self._where(np.all(has, axis=0)[self.item])

    @property
    def images(self) -> int:
        """How many images the numbers stand for."""
        return _count(self.image)

    def _where(self, chosen: NDArray[np.bool_]) -> "Rows":
        arrays = {name: getattr(self, name)[chosen] for name in ("values", "method", "target", "item", "image")}
        return replace(self, **arrays)


def number_rows(table: pa.Table, methods: Sequence[str]) -> tuple[Rows, list[int]]:
    """The rows of a table with columns `method`, `id` and `target`, without values as yet.

    Args:
        table: of a run, without rows that failed.
        methods: in the order of their numbers; one may have no row.
    Returns:
        The rows; the classes from the lowest, by the model's numbers.
    """
    ids = list(column(table, "id"))
    classes, target = np.unique(as_numbers(table, "target"), return_inverse=True)
    numbers = {name: number for number, name in enumerate(methods)}
    method = np.array([numbers[name] for name in column(table, "method")], int)
    item, image = _numbered(ids), _numbered(map(image_of, ids))
    rows = Rows(np.empty((len(table), 0)), method, target, item, image, len(methods), max(len(classes), 1))
    return rows, [int(number) for number in classes]


def image_of(item: str) -> str:
    """The image that an item is a question about: what stands before the class in its id."""
    return item.rpartition("/")[0] or item


def column(table: pa.Table, name: str) -> Iterable[Any]:
    """The values of a column; None for each row if there is no such column."""
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def as_numbers(table: pa.Table, name: str) -> Array:
    """A column as numbers, (n,); NaN where there is none."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.array(table[name].cast(pa.float64()).to_numpy(), float)


def _numbered(names: Iterable[str]) -> Index:
    """Equal names have one number, from 0 in the order of their first appearance."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], int)


def _count(numbered: Index) -> int:
    return int(numbered.max(initial=-1)) + 1
