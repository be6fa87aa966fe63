"""Whether a shard holds the rows that it should: told before anything is made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import OutputError, RunError

RUN = b"captum_vit.run"  # in the file's own metadata: of which run it is
Test = Callable[[pa.DataType], bool]


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


REQUIRED: dict[str, Test] = {
    "item": pa.types.is_integer,
    "id": pa.types.is_string,
    "method": pa.types.is_string,
}
TEXTS = ("stamp", "content", "error")


def read_shard(path: Path, columns: Sequence[str] | None = None, without: Sequence[str] = ()) -> pa.Table:
    """The rows of a shard, by default all columns; of those that are asked for, one that is not there is null.

    Raises:
        RunError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            there = [name for name in file.schema_arrow.names if name not in without]
            table = file.read(there if columns is None else [name for name in columns if name in there])
            rows = file.metadata.num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{str(path)!r} is damaged ({reason}); --retry makes damaged rows anew") from error
    for name in columns or ():
        if name not in there:
            table = table.append_column(name, pa.nulls(rows))
    return table if columns is None else table.select(list(columns))


@dataclass(frozen=True)
class Expected:
    """What the shards of a run have to be.

    run: a name that no other run has.
    methods: of which every item has a row each, in this order; of a run that does not say them, items alone count.
    """

    run: str
    methods: Sequence[str]

    def damage(self, path: Path, items: range) -> str:
        """Why a shard does not hold the rows of these items; empty where it does. All of it is read."""
        try:
            return self.wrong(read_shard(path), items)
        except RunError as error:
            return " ".join(str(error.__cause__).split())[:200]

    def wrong(self, table: pa.Table, items: range) -> str:
        """Why rows are not those of these items; empty where they are."""
        if (table.schema.metadata or {}).get(RUN, b"").decode("ascii", "replace") != self.run:
            return "it is of another run"
        return _wrong_kind(table.schema, bool(self.methods)) or _wrong_items(table, items, self.methods)


def _wrong_kind(schema: pa.Schema, whole: bool) -> str:
    """The first column that is missing or does not hold what its name says."""
    kinds = {field.name: field.type for field in schema}
    for name, fits in REQUIRED.items() if whole else ():
        if name not in kinds or not fits(kinds[name]):
            return f"it has no column {name!r} of the kind that rows have"
    for name, kind in kinds.items():
        fits = pa.types.is_string if name in TEXTS else lambda kind: _is_number(kind) or _is_list(kind)
        if name not in REQUIRED and not pa.types.is_null(kind) and not fits(kind):
            return f"its column {name!r} holds {kind}"
    return ""


def _wrong_items(table: pa.Table, items: range, methods: Sequence[str]) -> str:
    """Why items have not a row of each method, or one of none."""
    if "item" not in table.column_names:
        return "it has no column 'item'"
    found = table["item"].to_pylist()
    if [item for item, _ in groupby(found)] != list(items):
        return f"it should hold the items {items.start} to {items.stop - 1}, each once and in order"
    if not methods:
        return ""
    rows = zip(found, table["method"].to_pylist(), strict=True)
    for item, own in groupby(rows, key=itemgetter(0)):
        named = [method for _, method in own]
        if named not in ([""], list(methods)):
            return f"item {item} should have a row of each of the {len(methods)} methods, and has {len(named)}"
    return ""


def remove(path: Path) -> None:
    """Take a shard away.

    Raises:
        OutputError: it cannot be, or it is a folder.
    """
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {str(path)!r}: {error.strerror or error}") from error
