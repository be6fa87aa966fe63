"""A shard that does not hold what it should is told before anything is computed, and made anew by a retry."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captum_vit.errors import OutputError, RunError
from captum_vit.evaluation import Evaluator, Leaderboard, Plan, evaluate, read_rows
from captum_vit.evaluation.shards import MANIFEST
from tests.cli.helpers import run

PLAN = Plan(data="sample:6", methods=("random", "gaussian"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three shards."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    evaluate(PLAN, folder, shard=4)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it without the last shard."""
    shutil.copytree(whole, tmp_path / "run")
    shard(tmp_path / "run", 2).unlink()
    return tmp_path / "run"


def shard(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:06d}.parquet"


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """The second shard with other rows."""

    def damage(folder: Path) -> None:
        table = pq.read_table(shard(folder, 1))
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), shard(folder, 1))

    return damage


def cut(folder: Path, size: int) -> None:
    file = shard(folder, 1)
    file.write_bytes(file.read_bytes()[:size])


def flipped(folder: Path) -> None:
    """One bit of the numbers, which the file's footer says nothing of."""
    data = bytearray(shard(folder, 1).read_bytes())
    chunk = pq.ParquetFile(shard(folder, 1)).metadata.row_group(0).column(0)
    data[_start(chunk) + chunk.total_compressed_size - 1] ^= 1
    shard(folder, 1).write_bytes(data)


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    """Where a column begins in its file: a dictionary comes before its data."""
    return chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset


def of_another_run(folder: Path) -> None:
    evaluate(Plan(data="sample:6", methods=("random", "gaussian"), target="predicted"), folder.parent / "b", shard=4)
    shutil.copy(shard(folder.parent / "b", 1), shard(folder, 1))


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: cut(folder, 0), "size is 0 bytes"),
    "cut off": (lambda folder: cut(folder, 900), "Parquet"),
    "garbage": (lambda folder: shard(folder, 1).write_bytes(bytes(range(256)) * 9), "Parquet"),
    "a bit": (flipped, r"CRC|[Cc]orrupt|Couldn't deserialize|decompress|checksum"),
    "another shard's": (
        lambda folder: shutil.copy(shard(folder, 0), shard(folder, 1)),
        "it should hold the items 4 to 7, each once and in order",
    ),
    "another run's": (of_another_run, "it is of another run"),
    "a row too few": (rewritten(lambda table: table.slice(0, 7)), "item 7 should have a row of each of the 2 methods"),
    "an item too few": (rewritten(lambda table: table.slice(0, 6)), "it should hold the items 4 to 7"),
    "a row twice": (rewritten(lambda table: pa.concat_tables([table.slice(0, 1), table])), "item 4 should have a row"),
    "all twice": (rewritten(lambda table: pa.concat_tables([table, table])), "it should hold the items 4 to 7"),
    "no rows": (rewritten(lambda table: table.slice(0, 0)), "it should hold the items 4 to 7"),
    "no column of methods": (rewritten(lambda table: table.drop_columns("method")), "it has no column 'method' of"),
    "words for numbers": (
        rewritten(lambda table: with_column(table, "iou", pa.array(["much"] * len(table)))),
        "its column 'iou' holds string",
    ),
    "numbers for items": (
        rewritten(lambda table: with_column(table, "item", table["item"].cast(pa.float64()))),
        "it has no column 'item' of the kind that rows have",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_first_and_mended_by_a_retry(
    kind: str, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    damage, message = DAMAGE[kind]
    damage(folder)
    computed: list[int] = []
    compute = Evaluator.__call__
    monkeypatch.setattr(
        Evaluator, "__call__", lambda self, items, *rest: computed.extend(items) or compute(self, items, *rest)
    )
    with pytest.raises(RunError, match=rf"rows-000001\.parquet' is damaged: .*({message}).*; --retry makes damaged"):
        evaluate(PLAN, folder, shard=4)
    assert computed == []
    with pytest.raises(RunError, match=r"rows-000001\.parquet' is damaged"):
        Leaderboard.read(folder)
    board = evaluate(PLAN, folder, shard=4, retry=True)
    assert computed == [*range(4, 8), *range(8, 12)]
    assert board.to_markdown() == Leaderboard.read(whole).to_markdown()
    assert read_rows(folder).equals(read_rows(whole))


def test_a_sound_run_is_no_damage(folder: Path, whole: Path):
    """The checks above could find damage everywhere."""
    assert evaluate(PLAN, folder, shard=4).to_markdown() == Leaderboard.read(whole).to_markdown()


def test_a_copy_beside_the_shards_is_none_of_the_run(folder: Path, whole: Path):
    shutil.copy(shard(folder, 0), folder / "rows-000000 (copy).parquet")
    shutil.copy(shard(folder, 0), folder / "rows-000007.parquet")
    assert evaluate(PLAN, folder, shard=4).to_markdown() == Leaderboard.read(whole).to_markdown()


def test_how_many_are_damaged_is_told(folder: Path):
    for number in (0, 1):
        shard(folder, number).write_bytes(b"")
    with pytest.raises(RunError, match=r"rows-000000\.parquet' is damaged: .*, and 1 more; --retry"):
        evaluate(PLAN, folder, shard=4)


def test_a_folder_in_the_place_of_a_shard_is_not_removed(folder: Path):
    shard(folder, 1).unlink()
    shard(folder, 1).mkdir()
    with pytest.raises(OutputError, match=r"cannot remove .*rows-000001\.parquet'"):
        evaluate(PLAN, folder, shard=4, retry=True)


def test_the_command_line_mends_it(tmp_path: Path):
    asked = ("evaluate", "--data", "sample:2", "--methods", "gaussian", "--out", tmp_path / "run")
    run(*asked)
    shard(tmp_path / "run", 0).write_bytes(b"")
    found = run(*asked, code=2)
    assert "\nError: " in found.stderr
    assert "--retry" in found.stderr
    run(*asked, "--retry")


def test_an_empty_manifest_is_told(folder: Path):
    (folder / MANIFEST).write_bytes(b"")
    with pytest.raises(RunError, match=r"cannot read .*manifest\.json'"):
        evaluate(PLAN, folder, shard=4)
