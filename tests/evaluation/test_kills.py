"""Runs that are killed, on either engine, and go on: every row once, and the leaderboard of an undisturbed run."""

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_vit.errors import OptionError, OutputError
from captum_vit.evaluation import Plan, evaluate, read_rows
from captum_vit.evaluation.engines import _check_room
from captum_vit.evaluation.shards import Shards
from tests.waiting import ROOT, wait_until

PLAN = Plan(data="sample:50", methods=("agcam", "random", "tests.evaluation.test_kills:held"))
SHARD, SHARDS = 2, 50  # of two questions about each scene
HELD_IN = "HELD_IN"  # the variable that names the folder of a run that is held
HALF, MOST = "half", "most"  # files there: a shard is half written; how many shards the run may have
HEAVY = ["captum_vit.evaluation", "ray.data", "scipy.ndimage", "timm", "torchmetrics", "transformers"]
Start = Callable[..., BaseProcess]


def held(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A method that stands still once its run has as many shards as it may: so no run ends before it is killed."""
    folder = Path(os.environ[HELD_IN]) if HELD_IN in os.environ else None
    if folder and (folder / MOST).exists():
        most = int((folder / MOST).read_text())
        wait_until(lambda: shards_in(folder / "run") < most, "nobody kills the run")
    return images.mean(1)


def run(folder: Path, engine: str, in_place: bool) -> None:
    """What a process does: a run in a folder, and what it prints beside it."""
    with (folder / "printed").open("w") as printed:
        os.dup2(printed.fileno(), 1), os.dup2(printed.fileno(), 2)
    torch.set_num_threads(1)
    os.environ |= {HELD_IN: str(folder), "PYTHONPATH": str(ROOT)}  # Ray's actors have them from this process
    if in_place:
        Shards.write = write_in_place
    evaluate(PLAN, folder / "run", engine=engine, shard=SHARD, progress=True)


def write_in_place(shards: Shards, shard: int, rows: list[Any], whole: Callable[..., None] = Shards.write) -> None:
    """As a careless program would write: the shard is there half, until the one who writes is killed."""
    whole(shards, shard, rows)
    path = shards._path(shard)
    path.write_bytes(path.read_bytes()[:100])
    (shards.folder.parent / HALF).touch()
    wait_until(lambda: False, "nobody kills the run")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Any]], str]:
    """Rows and leaderboard of a local run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    board = evaluate(PLAN, folder, shard=SHARD).to_markdown()
    return columns(folder), board


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a run in a process of its own; none outlives the test.

    The processes are forked from one that has imported all that takes long: it would take more than the runs do.
    """
    monkeypatch.syspath_prepend(ROOT)  # where a process finds this module
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    started: list[BaseProcess] = []

    def start(engine: str, *, in_place: bool = False) -> BaseProcess:
        started.append(context.Process(target=run, args=(tmp_path, engine, in_place)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_at_five_moments_nothing_is_lost_or_doubled(
    engine: str, start: Start, undisturbed: tuple[dict[str, list[Any]], str], tmp_path: Path
):
    rng = np.random.default_rng(0)
    for _ in range(5):
        kill_run(start, tmp_path, engine, after=int(rng.integers(1, 6)))
    finish(start(engine), tmp_path)
    assert (columns(tmp_path / "run"), evaluate(PLAN, tmp_path / "run", shard=SHARD).to_markdown()) == undisturbed


def test_shards_that_are_not_put_in_place_whole_would_be_noticed(start: Start, tmp_path: Path):
    process = start("local", in_place=True)
    wait_for(lambda: (tmp_path / HALF).exists(), process, tmp_path)
    process.kill()
    process.join()
    with pytest.raises(AssertionError, match="Parquet"):
        finish(start("local"), tmp_path)


def test_a_run_outlives_its_actors(start: Start, undisturbed: tuple[dict[str, list[Any]], str], tmp_path: Path):
    (tmp_path / MOST).write_text("7")  # it stands still there
    process = start("ray")
    wait_for(lambda: shards_in(tmp_path / "run") >= 5, process, tmp_path)
    victim = actors_of(process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(partial(gone, [victim]), "an actor outlives its end")
    assert shards_in(tmp_path / "run") < SHARDS
    (tmp_path / MOST).unlink()
    printed = finish(process, tmp_path)
    assert f"{SHARD * SHARDS}/{SHARD * SHARDS} " in printed  # each shard counted once
    assert columns(tmp_path / "run") == undisturbed[0]


def kill_run(start: Start, folder: Path, engine: str, *, after: int) -> None:
    """Kill a run that has made so many shards and is at work on the next; it may make three more before it is held."""
    before = shards_in(folder / "run")
    (folder / MOST).write_text(str(before + after + 3))
    process = start(engine)
    wait_for(lambda: shards_in(folder / "run") >= before + after, process, folder)
    actors = actors_of(process)
    assert len(actors) == (2 if engine == "ray" else 0)
    process.kill()
    process.join()
    wait_until(partial(gone, actors), "an actor outlives its run")
    assert before < shards_in(folder / "run") < SHARDS
    (folder / MOST).unlink()


def finish(process: BaseProcess, folder: Path) -> str:
    """What a run printed that is left to itself."""
    wait_until(lambda: not process.is_alive(), "the run does not end")
    printed = (folder / "printed").read_text()
    assert process.exitcode == 0, printed
    assert not list((folder / "run").glob(".*")), "temporary files stay"
    return printed


def wait_for(there: Callable[[], bool], process: BaseProcess, folder: Path) -> None:
    """Wait until a run has come so far; it must not end before."""
    wait_until(lambda: there() or not process.is_alive(), "the run does not come so far")
    if not there():
        pytest.fail(f"{shards_in(folder / 'run')} shards, then the end: {(folder / 'printed').read_text()}")


def actors_of(driver: BaseProcess) -> list[int]:
    """Process numbers of the actors that the Ray of this driver runs."""
    running = processes()
    ours = {pid for pid, parent, name in running if parent == driver.pid and "raylet" in name}
    return [pid for pid, parent, name in running if parent in ours and name.startswith("ray::MapWorker")]


def gone(pids: list[int]) -> bool:
    return not set(pids) & {pid for pid, _, _ in processes()}


def processes() -> list[tuple[int, int, str]]:
    """Number, parent and name of all that run; what is dead and waits for its parent to notice does not."""
    command = ["ps", "-eww", "-o", "pid=,ppid=,stat=,args="]  # -ww: lines whole, whatever COLUMNS says
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = [line.split(maxsplit=3) for line in table.splitlines()]
    return [(int(pid), int(parent), name) for pid, parent, state, name in fields if not state.startswith("Z")]


def columns(folder: Path) -> dict[str, list[Any]]:
    table = read_rows(folder)
    return {name: table[name].to_pylist() for name in table.column_names}


def shards_in(folder: Path) -> int:
    return len(list(folder.glob("rows-*.parquet")))


def test_actors_that_no_machine_has_room_for():
    """An error of ours, and not a wait without an end."""
    with pytest.raises(OptionError, match="the actors ask for 2000 GPUs, and there are 0: take fewer actors"):
        _check_room({"CPU": 4.0}, CPU=1.0, GPU=2000.0)
    with pytest.raises(OptionError, match="the actors ask for 8 CPUs, and there are 4"):
        _check_room({"CPU": 4.0}, CPU=8.0, GPU=0.0)
    _check_room({"CPU": 4.0}, CPU=4.0, GPU=0.0)


def part_of(folder: Path, shard: int) -> Path:
    """A temporary file as a writer of a shard that was killed leaves it."""
    part = folder / f".rows-{shard:06d}.parquet.12345.0123abcd.tmp"
    part.write_bytes(b"PAR1")
    return part


def test_what_a_killed_writer_left_goes_as_soon_as_its_shard_is_there(tmp_path: Path):
    Shards(tmp_path, {}, items=3, size=1).write(0, [{"item": 0}])
    useless, perhaps_at_work, foreign = part_of(tmp_path, 0), part_of(tmp_path, 1), tmp_path / ".notes.tmp"
    foreign.touch()
    again = Shards(tmp_path, {}, items=3, size=1)
    assert not useless.exists()
    assert perhaps_at_work.exists()
    again.write(1, [{"item": 1}])
    again.tidy()
    assert not perhaps_at_work.exists()
    assert foreign.exists()
    assert again.missing() == [2]


def test_two_may_write_one_shard_while_a_third_tidies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slow, fast = (Shards(tmp_path, {}, items=1) for _ in range(2))
    replace = Path.replace

    def overtaken(part: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        fast.write(0, [{"item": 0}])
        fast.tidy()
        assert not part.exists()
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", overtaken)
    slow.write(0, [{"item": 0}])
    assert columns(tmp_path) == {"item": [0]}
    shutil.rmtree(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):  # where nobody else wrote the shard, it is lost
        slow.write(0, [{"item": 0}])
