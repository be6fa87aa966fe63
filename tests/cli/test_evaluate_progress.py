"""What evaluate tells on its way, in a log; the line of a terminal is in test_progress.py."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captum_vit.evaluation import Evaluator, Plan, evaluate
from tests.cli.helpers import run
from tests.cli.terminal import shown
from tests.waiting import PATIENCE

DATA = ("--data", "sample:4", "--methods", "random")


class Meter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.counts: list[int] = []
        self.closed = 0

    def __call__(self, items: int, before: int) -> "Meter":
        self.begun.append((items, before))
        return self

    def update(self, count: int) -> None:
        self.counts.append(count)

    def close(self) -> None:
        self.closed += 1


def test_a_log_has_a_line_of_what_was_done(tmp_path: Path):
    found = run("evaluate", *DATA, "--out", tmp_path / "run")
    assert found.stderr.startswith("Loading sample and sample:4, and asking each method once\n")
    assert len(re.findall(r"^8 of 8 items in \d+ s", found.stderr, re.M)) == 1
    assert "\r" not in found.stderr
    again = run("evaluate", *DATA, "--out", tmp_path / "run")
    assert "of 8 items" not in again.stderr  # there was nothing to do


def test_every_batch_is_counted_and_what_was_done_before(tmp_path: Path):
    plan, meter = Plan(data="sample:4", methods=("random",), batch_size=3), Meter()
    evaluate(plan, tmp_path, shard=4, progress=meter)
    assert meter.begun == [(8, 0)]
    assert sum(meter.counts) == 8
    assert [count for count in meter.counts if count] == [3, 1, 3, 1]
    (tmp_path / "rows-000001.parquet").unlink()
    again = Meter()
    evaluate(plan, tmp_path, shard=4, progress=again)
    assert (again.begun, sum(again.counts), again.closed) == ([(8, 4)], 4, 1)
    done = Meter()
    evaluate(plan, tmp_path, shard=4, progress=done)
    assert done.begun == []


def test_items_that_fail_are_counted_too(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "data/images/disc").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/images/disc/{name}.png").write_bytes(b"no image")
    meter = Meter()
    evaluate(Plan(data=f"folder:{tmp_path / 'data'}", methods=("random",)), tmp_path / "run", progress=meter)
    assert sum(meter.counts) == 2


def test_a_run_that_is_stopped_closes_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "_rows", stop)
    meter = Meter()
    with pytest.raises(KeyboardInterrupt):
        evaluate(Plan(data="sample:1", methods=("random",)), tmp_path / "a", progress=meter)
    assert meter.closed == 1
    found = run("evaluate", *DATA, "--out", tmp_path / "b", code=130)
    assert "Stopped. Start it again" in found.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no such terminals here")
def test_a_terminal_shows_one_line_that_ends_as_a_sentence(tmp_path: Path):
    """In a terminal of the system's: what stands in it when the run has ended."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "captum_vit", "evaluate", *DATA, "--threads", "1", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        told = io.BytesIO()
        try:
            while part := os.read(ours, 4096):
                told.write(part)
        except OSError:  # the other end is closed
            pass
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    text = told.getvalue().decode()
    assert "Loading sample and sample:4, and asking each method once..." in text
    assert "0 of 8 items" in text
    line, after = shown(text)
    assert re.fullmatch(r"8 of 8 items in \d+ s(, .* items/(s|min))?", line)
    assert after == ""
