"""Threads of a run beside other programs, by what the system says of them."""

from pathlib import Path

import pytest
import torch

from captum_vit.cli import cores
from captum_vit.cli.cores import running_processes, threads_here, usable_cores
from captum_vit.evaluation import Plan, evaluate
from tests.cli.helpers import run


@pytest.mark.parametrize(
    ("machine", "usable", "busy", "workers", "threads"),
    [
        (2, 2, 0, 1, 2),
        (2, 2, 1, 1, 1),
        (2, 2, 9, 1, 1),
        (64, 64, 8, 1, 56),
        (64, 64, 8, 8, 7),
        (64, 4, 30, 1, 4),  # a container of four cores, on a machine with as many free
        (64, 4, 62, 1, 2),
        (2, 2, 0, 8, 1),
    ],
)
def test_threads_are_the_cores_that_nobody_uses(
    machine: int, usable: int, busy: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.cpu_count", lambda: machine)
    assert threads_here(workers, cores=usable, running=busy) == threads


def test_a_container_has_the_cores_of_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    for text, expected in (("max 100000", 16), ("250000 100000", 3), ("1000 100000", 1), ("odd", 16)):
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cores(tmp_path) == expected
    assert usable_cores(tmp_path / "none") == 16


def test_what_runs_beside_is_seen_several_times(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    seen = iter(["0.1 0.2 0.3 1/200 7\n", "0 0 0 9/200 7", "0 0 0 4/200 7", "0 0 0 4/200 7", "0 0 0 3/200 7"])
    assert running_processes(lambda: next(seen)) == 3
    assert running_processes(lambda: "odd") == 0

    def missing() -> str:
        raise FileNotFoundError

    assert running_processes(missing) == 0


def test_the_command_line_uses_them_and_gives_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    compute = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: asked.append(torch.get_num_threads()) or compute(*a, **k))
    before = torch.get_num_threads()
    order = ("evaluate", "--data", "sample:1", "--methods", "random", "--threads", str(before + 2))
    run(*order, "--out", tmp_path / "a")
    assert set(asked) == {before + 2}
    asked.clear()
    monkeypatch.setattr("captum_vit.cli.evaluate.threads_here", lambda workers: 1)
    monkeypatch.setattr("captum_vit.cli.evaluate.usable_cores", lambda: 7)
    found = run(*order[:-2], "--out", tmp_path / "b")
    assert "Note: 1 of 7 cores for each process, since others are busy; --threads takes more\n" in found.stderr
    assert set(asked) == {1}
    assert torch.get_num_threads() == before
    evaluate(Plan(data="sample:1", methods=("random",)), tmp_path / "c", threads=before + 1)
    assert asked[-1] == before + 1
    assert torch.get_num_threads() == before
