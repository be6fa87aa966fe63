"""Folders of whatever files there are: each is explained, or told of on a line of its own, and the others are done."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captum_vit.cli import batching
from captum_vit.cli import explain as work
from captum_vit.errors import OutputError
from captum_vit.explanation.explaining import Explainer
from tests.cli.helpers import explain, photo, pixels, refused, run, written
from tests.images.files import RAMP, png, tiff

CT = (RAMP * 3000 - 1000).round().astype(np.int16)


def test_notes_are_told_with_the_file(tmp_path: Path):
    Path("ct.tif").write_bytes(tiff(CT, CT))
    Path("deep.png").write_bytes(png((RAMP * 4095).round().astype(np.uint16), 0))
    result = explain("ct.tif", "deep.png", "--method", "rollout")
    assert "Note: 'ct.tif': page 0 of its 2 is read, page=1 would be the other" in result.stderr
    assert "Note: 'ct.tif': its values go from -1000, which is black, to 2000, which is white" in result.stderr
    assert "Note: 'deep.png': its greatest value is 4095: read as 12 bits" in result.stderr


def test_a_page_and_a_window():
    Path("ct.tif").write_bytes(tiff(CT, CT[::-1]))
    result = explain("ct.tif", "--method", "rollout", "--page", "1", "--window", "-1000,0", "--out", "out")
    assert "'ct.tif'" not in result.stderr
    first = pixels("out/ct/overview.png")
    explain("ct.tif", "--method", "rollout", "--page", "0", "--window", "-1000,0", "--out", "out")
    assert np.abs(first - pixels("out/ct-2/overview.png")).max() > 100
    refused("--window takes the values of black and white, as -1000,400, got '5'", "ct.tif", "--window", "5")
    refused("--window takes the values of black and white", "ct.tif", "--window", "9,1")
    result = explain("ct.tif", "--method", "rollout", "--page", "2", code=1)
    assert "Failed: 'ct.tif' has 2 pages, 0 to 1, got page=2" in result.stderr


def one_of_each(folder: Path) -> None:
    folder.mkdir()
    photo(folder / "good.png")
    for mode in ("1", "L", "P"):
        with Image.open(folder / "good.png") as good:
            good.convert(mode).save(folder / f"transparent-{mode}.png", transparency=0)
    (folder / "ct.tif").write_bytes(tiff(CT))
    (folder / "nothing.png").touch()
    (folder / "text.jpg").write_text("Dear reader")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        (folder / "lost.png").symlink_to("nowhere")


def test_a_folder_with_one_of_each(tmp_path: Path):
    """With report and animation, which save the image again."""
    one_of_each(Path("in"))
    result = run("explain", "in", "--method", "rollout", "--out", "out", code=1)
    done = {Path(name).parts[0] for name in written("out")}
    assert done == {"good", "transparent-1", "transparent-L", "transparent-P", "ct"}
    failed = [line for line in result.stderr.splitlines() if line.startswith("Failed: ")]
    assert len(failed) == (5 if hasattr(os, "mkfifo") else 3)
    assert f"{len(failed)} of {len(failed) + 5} images failed; the others are done" in result.stderr
    report = run("report", "out", "--out", "all.html")
    assert "5 explanations, written: all.html" in report.stdout


class Unforeseen(Exception):
    pass


def raising(error: Exception, name: str) -> Any:
    """In place of a function whose first argument that knows a file's name has this one."""

    def wrap(inner: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if any(name in str(getattr(each, "source", each)) for each in args):
                raise error
            return inner(*args, **options)

        return call

    return wrap


@pytest.mark.parametrize(
    "error", [Unforeseen("a\nlong story"), RuntimeError(), MemoryError(), ZeroDivisionError("x" * 999)]
)
@pytest.mark.parametrize(("owner", "name"), [(batching, "read_image"), (batching, "_seen"), (work, "write")])
def test_whatever_goes_wrong_with_one_file(monkeypatch: pytest.MonkeyPatch, error: Exception, owner: Any, name: str):
    for each in ("a.png", "bad.png", "c.png"):
        photo(each)
    monkeypatch.setattr(owner, name, raising(error, "bad")(getattr(owner, name)))
    result = explain("a.png", "bad.png", "c.png", "--method", "rollout", "--out", "out", code=1)
    failed = [line for line in result.stderr.splitlines() if line.startswith("Failed: ")]
    assert len(failed) == 1
    assert failed[0].startswith(f"Failed: 'bad.png' could not be explained ({type(error).__name__}")
    assert len(failed[0]) < 300
    assert {Path(name).parts[0] for name in written("out")} == {"a", "c"}


def test_a_file_that_the_model_cannot_take(monkeypatch: pytest.MonkeyPatch):
    """A batch that fails is explained one by one."""
    for each in ("a.png", "bad.png", "c.png"):
        photo(each)
    answer = Explainer.answer

    def fails(self: Explainer, seen: Any, asked: Any) -> Any:
        if any(one.source == "bad.png" for one in seen):
            raise RuntimeError("out of memory")
        return answer(self, seen, asked)

    monkeypatch.setattr(Explainer, "answer", fails)
    result = explain("a.png", "bad.png", "c.png", "--method", "rollout", "--out", "out", code=1)
    assert "Failed: 'bad.png' could not be explained (RuntimeError: out of memory)" in result.stderr
    assert {Path(name).parts[0] for name in written("out")} == {"a", "c"}


def test_what_all_files_would_meet_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    for each in ("a.png", "b.png"):
        photo(each)
    monkeypatch.setattr(work, "write", raising(OutputError("cannot write: no space"), "")(work.write))
    result = explain("a.png", "b.png", "--method", "rollout", code=2)
    assert result.stderr.splitlines()[-1] == "Error: cannot write: no space"
