"""A run on disk: a manifest that says what it is, and shards of rows, each there whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import OutputError, RunError
from ..files import make_folder, write_atomically

MANIFEST = "manifest.json"
FORMAT = 1
FOLLOW = ("figures", "curves")  # of a manifest; they follow from its metrics


class Shards:
    """The folder of a run: rows of consecutive items in parquet files of at most `size` items each.

    A folder that was begun with the same settings goes on; one begun with others is refused, so that rows of different
    runs never mix.

    Args:
        folder: where; made if it is not there.
        settings: all that decides the rows, as JSON holds it.
        recorded: what else the manifest says of the run's beginning; it may differ when the run goes on.
        items: how many there are.
        size: items of a shard.
    Raises:
        RunError: another run stands in the folder.
        OutputError: it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        items: int,
        size: int = 32,
        *,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.items, self.size = Path(folder), items, size
        if items < 1 or size < 1:
            raise RunError(f"a run has items, and shards of at least one: got {items} and {size}")
        manifest = json.loads(json.dumps({"format": FORMAT, "items": items, "shard": size, "settings": settings}))
        path = self.folder / MANIFEST
        make_folder(self.folder)
        if path.exists():
            there = {name: value for name, value in read_manifest(self.folder).items() if name != "recorded"}
            _check_same(there, manifest, self.folder)
        else:
            write_atomically(
                path, json.dumps(manifest | {"recorded": recorded or {}}, indent=1, ensure_ascii=False).encode()
            )
        self.tidy()

    def __len__(self) -> int:
        return -(-self.items // self.size)

    def indices(self, shard: int) -> range:
        """The items of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.items))

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [shard for shard in range(len(self)) if not self._path(shard).exists()]

    def reopen_failed(self) -> None:
        """Remove the shards that hold an item with an error, so that they are missing."""
        for shard in range(len(self)):
            path = self._path(shard)
            if path.exists() and any(read_shard(path, ["error"])["error"].to_pylist()):
                path.unlink()

    def write(self, shard: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put a shard in its place, whole.

        Raises:
            OutputError: it cannot be written, and nobody else wrote it.
        """
        data = BytesIO()
        pq.write_table(as_table(rows), data, compression="zstd")
        try:
            write_atomically(self._path(shard), data.getvalue())
        except OutputError:
            if not self._path(shard).exists():  # if it does, an actor of a killed run was faster, with the same rows
                raise

    def tidy(self) -> None:
        """Remove temporary files, which writers that were killed left behind, of the shards that are there.

        Those of missing shards stay until somebody has written the shard: they may be another process's at work, and
        neither their age nor a process number, which another machine gave, tells.
        """
        for part in self.folder.glob(".rows-*.parquet.*.tmp"):
            shard = part.with_name(".".join(part.name.split(".")[1:3]))
            if shard.exists():
                with suppress(OSError):  # a folder that cannot be written is still good to read
                    part.unlink(missing_ok=True)

    def _path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard:06d}.parquet"


def read_rows(folder: str | Path, *, without: Sequence[str] = ()) -> pa.Table:
    """All rows that a run has so far, in the order of the items; columns that a shard lacks are null there.

    Args:
        folder: of the run.
        without: columns that are left aside.
    Raises:
        RunError: no run stands in the folder, or it has no rows yet.
    """
    read_manifest(Path(folder))
    tables = []
    for path in sorted(Path(folder).glob("rows-*.parquet")):
        tables.append(read_shard(path, without=without))
    if not tables:
        raise RunError(f"the run in {str(folder)!r} has no rows yet")
    return pa.concat_tables(tables, promote_options="permissive")


def read_shard(path: Path, columns: Sequence[str] | None = None, without: Sequence[str] = ()) -> pa.Table:
    """The rows of a shard, by default all columns; of those that are asked for, one that is not there is null.

    Raises:
        RunError: the file is damaged.
    """
    try:
        file = pq.ParquetFile(path)
        there = [name for name in file.schema_arrow.names if name not in without]
        table = file.read(there if columns is None else [name for name in columns if name in there])
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"the rows in {str(path)!r} are damaged ({error}): delete the file, and start again") from error
    for name in columns or ():
        if name not in there:
            table = table.append_column(name, pa.nulls(file.metadata.num_rows))
    return table


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the run in a folder is.

    Raises:
        RunError: there is none.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"no run in {str(folder)!r}: it holds no {MANIFEST}; captum-vit evaluate writes runs") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(folder / MANIFEST)!r}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("settings"), dict):
        raise RunError(f"{str(folder / MANIFEST)!r} is not the manifest of a run: it has no settings")
    if manifest.get("format") != FORMAT:
        raise RunError(f"{str(folder)!r} was written by another version, in format {manifest.get('format')!r}")
    return manifest


def as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table; what a row lacks is null."""
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})


def _check_same(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    differing = sorted(_differences(there, wanted))
    if differing:
        raise RunError(
            f"{str(folder)!r} holds a run with other settings ({'; '.join(differing[:4])}): choose another folder"
            + ("" if any(folder.glob("rows-*.parquet")) else ", or delete this one, which has no rows yet")
        )


def _differences(there: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in there.keys() | wanted.keys():
            if key not in FOLLOW:
                inner = name if key == "settings" else f"{name}.{key}" if name else key
                yield from _differences(there.get(key), wanted.get(key), inner)
    elif there == wanted:
        return
    elif there is None or wanted is None:
        yield f"{name}: {'only now' if there is None else 'only there'}"
    else:
        known = all(isinstance(value, (str, int, float)) and len(str(value)) <= 40 for value in (there, wanted))
        yield f"{name}: {json.dumps(there)} there, {json.dumps(wanted)} now" if known else f"{name}: another"
