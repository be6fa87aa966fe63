"""A run on disk: a manifest that says what it is, and shards of rows, each there whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import OutputError, RunError
from ..files import make_folder, write_atomically
from .sound import RUN, Expected, read_shard, remove

MANIFEST = "manifest.json"
FORMAT = 2
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
        self._expected = expected(read_manifest(self.folder))
        self.tidy()

    def __len__(self) -> int:
        return -(-self.items // self.size)

    def indices(self, shard: int) -> range:
        """The items of a shard."""
        return shard_items(shard, self.items, self.size)

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [shard for shard in range(len(self)) if not self._path(shard).exists()]

    def damaged(self) -> dict[int, str]:
        """The shards that are there and do not hold what they should, with the reason; all rows are read for it."""
        found = {shard: self._expected.damage(self._path(shard), self.indices(shard)) for shard in self._there()}
        return {shard: reason for shard, reason in found.items() if reason}

    def check(self) -> None:
        """That all shards that are there are sound.

        Raises:
            RunError: one is not.
        """
        damaged = self.damaged()
        if damaged:
            [first, *others] = [str(self._path(shard)) for shard in damaged]
            more = f", and {len(others)} more" if others else ""
            raise RunError(
                f"{first!r} is damaged: {next(iter(damaged.values()))}{more}; --retry makes damaged rows anew"
            )

    def reopen(self) -> None:
        """Remove the shards that are damaged or hold an error, so that they are missing.

        Raises:
            OutputError: one cannot be removed.
        """
        damaged = self.damaged()
        for shard in self._there():
            path = self._path(shard)
            if shard in damaged or any(read_shard(path, ["error"])["error"].to_pylist()):
                remove(path)

    def read_items(self) -> Iterator[tuple[int, str, str]]:
        """(item, stamp, content) of every item that was read for its rows."""
        for shard in self._there():
            table = read_shard(self._path(shard), ["item", "stamp", "content"])
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            yield from dict.fromkeys((item, stamp, content) for item, stamp, content in rows if content)

    def write(self, shard: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put a shard in its place, whole.

        Raises:
            OutputError: it cannot be written, and nobody else wrote it.
        """
        data = BytesIO()
        table = as_table(rows).replace_schema_metadata({RUN: self._expected.run})
        pq.write_table(table, data, compression="zstd", write_page_checksum=True)
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

    def _there(self) -> list[int]:
        return [shard for shard in range(len(self)) if self._path(shard).exists()]

    def _path(self, shard: int) -> Path:
        return shard_path(self.folder, shard)


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"rows-{shard:06d}.parquet"


def shard_items(shard: int, items: int, size: int) -> range:
    """The items of a shard, of so many in all and in each."""
    return range(shard * size, min((shard + 1) * size, items))


def read_rows(folder: str | Path, *, without: Sequence[str] = ()) -> pa.Table:
    """All rows that a run has so far, in the order of the items; columns that a shard lacks are null there.

    Args:
        folder: of the run.
        without: columns that are left aside.
    Raises:
        RunError: no run stands in the folder, it has no rows yet, or some of them are damaged.
    """
    manifest = read_manifest(Path(folder))
    items, size, wanted = manifest["items"], manifest["shard"], expected(manifest)
    tables = []
    for shard in range(-(-items // size)):  # not whatever lies there: a copy of a shard is none of the run's
        path = shard_path(Path(folder), shard)
        if path.exists():
            table = read_shard(path, without=without)
            reason = wanted.wrong(table, shard_items(shard, items, size))
            if reason:
                raise RunError(f"{str(path)!r} is damaged: {reason}; --retry makes damaged rows anew")
            tables.append(table)
    if not tables:
        raise RunError(f"the run in {str(folder)!r} has no rows yet")
    return pa.concat_tables(tables, promote_options="permissive")


def expected(manifest: Mapping[str, Any]) -> Expected:
    """What the shards of a run have to be, by its manifest."""
    settings = manifest["settings"]
    told = json.dumps([manifest["items"], manifest["shard"], settings], sort_keys=True)
    methods = settings.get("methods")
    return Expected(sha256(told.encode()).hexdigest(), tuple(methods) if isinstance(methods, dict) else ())


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the run in a folder is.

    Raises:
        RunError: there is none.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"no run in {str(folder)!r}: it holds no {MANIFEST}; captum-vit evaluate writes runs, and maps that "
            "captum-vit explain wrote are put side by side by captum-vit report --compare"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(folder / MANIFEST)!r}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("settings"), dict):
        raise RunError(f"{str(folder / MANIFEST)!r} is not the manifest of a run: it has no settings")
    if manifest.get("format") != FORMAT:
        raise RunError(f"{str(folder)!r} was written by another version, in format {manifest.get('format')!r}")
    if not all(isinstance(manifest.get(name), int) and manifest[name] > 0 for name in ("items", "shard")):
        raise RunError(f"{str(folder / MANIFEST)!r} does not say how many items the run has, and in how large shards")
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
