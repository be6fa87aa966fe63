"""The report, the flow and the saved explanation that `captum-vit explain` writes, and `captum-vit report`."""

import json
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captum_vit import Explanation
from captum_vit.cli import explain as _run
from captum_vit.colours import Look
from captum_vit.explanation.comparison import compare_maps
from captum_vit.explanation.saving import MANIFEST
from captum_vit.report import render
from tests.cli.helpers import photo, pixels, run, written


def test_what_explain_writes_beside_the_overlays():
    result = run("explain", photo("a.png"), "--method", "daam", "--target", "cross", "--flow")
    assert result.stdout.splitlines()[-1] == (
        "  written: captum-vit-out/a/report.html, and beside it overview.png, 1 overlay and flow.gif"
    )
    names = written("captum-vit-out/a")
    assert [n for n in names if not n.startswith(("image-", "maps-"))] == [
        "daam-5-cross.png",
        "explanation.json",
        "flow.gif",
        "overview.png",
        "report.html",
    ]
    assert len(names) == 7
    with Image.open("captum-vit-out/a/flow.gif") as flow:
        assert flow.n_frames == 6
    loaded = Explanation.load("captum-vit-out/a")
    assert loaded.source == "a.png"
    assert loaded.attention is None
    assert "cross" in Path("captum-vit-out/a/report.html").read_text()


def test_pages_of_single_images_go_when_one_page_holds_all(monkeypatch: pytest.MonkeyPatch):
    for name in ("a.png", "b.png"):
        run("explain", photo(name), "--target", "cross")
    monkeypatch.setattr("captum_vit.report.page.TOGETHER", 1)
    run("report", "captum-vit-out")
    beside = Path("captum-vit-out/report-images")
    assert written(beside) == ["00001.html", "00002.html"]
    (beside / "mine.html").touch()
    monkeypatch.setattr("captum_vit.report.page.TOGETHER", 2)
    run("report", "captum-vit-out")
    assert written(beside) == ["mine.html"]


def test_the_attention_is_kept_on_request():
    run("explain", photo("a.png"), "--target", "0", "--attention")
    attention = Explanation.load("captum-vit-out/a").attention
    assert attention is not None
    assert len(attention.patches) == 6
    assert "flow.gif" not in written("captum-vit-out/a")


def test_a_large_photograph_is_kept_smaller():
    """With the view of the smaller one: what is drawn of it later lies where it lay."""
    run("explain", photo("a.png", (900, 600)), "--max-side", "300", "--method", "rollout")
    kept = Explanation.load("captum-vit-out/a")
    assert kept.image.size == kept.view.original == (300, 200)
    assert kept.photographed == (900, 600)
    assert np.array_equal(np.asarray(kept.overlay()), pixels("captum-vit-out/a/rollout.png"))
    assert "900 × 600 pixels, kept as 300 × 200 pixels" in Path("captum-vit-out/a/report.html").read_text()
    run("report", "captum-vit-out")
    assert "900 × 600 pixels, kept as 300 × 200 pixels" in Path("captum-vit-out/report.html").read_text()


def test_a_page_of_several_explanations():
    for name in ("a.png", "b.png"):
        run("explain", photo(name), "--target", "cross")
    result = run("report", "captum-vit-out")
    assert result.stdout == "2 explanations, written: captum-vit-out/report.html\n"
    page = Path("captum-vit-out/report.html").read_text()
    assert "a.png" in page
    assert "b.png" in page
    one = run("report", "captum-vit-out/b", "--out", "one.html")
    assert one.stdout == "1 explanation, written: one.html\n"
    assert "a.png" not in Path("one.html").read_text()


def test_damaged_explanations_are_named_and_left_out():
    for name in ("a.png", "b.png"):
        run("explain", photo(name), "--target", "cross")
    Path("captum-vit-out/a", MANIFEST).write_text("{")
    result = run("report", "captum-vit-out", code=1)
    assert result.stdout.startswith("1 explanation, written")
    assert result.stderr.startswith("Failed: cannot read 'captum-vit-out/a/explanation.json'")
    Path("captum-vit-out/b", MANIFEST).write_text("[]")
    assert run("report", "captum-vit-out", code=2).stderr.endswith("Error: none of the explanations could be read\n")


class Alive:
    """How many photographs of loaded explanations there are at once, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references: list[weakref.ref] = []
        self.most = 0
        self.load = Explanation.load
        monkeypatch.setattr(Explanation, "load", self)

    def __call__(self, folder: Path) -> Explanation:
        explanation = self.load(folder)
        self.references.append(weakref.ref(explanation.image))
        self.most = max(self.most, sum(reference() is not None for reference in self.references))
        return explanation


def report_of_five(monkeypatch: pytest.MonkeyPatch) -> Alive:
    run("explain", photo("a.png"), "--target", "cross")
    for i in range(4):
        shutil.copytree("captum-vit-out/a", f"captum-vit-out/{i}")
    alive = Alive(monkeypatch)
    assert run("report", "captum-vit-out").stdout.startswith("5 explanations, written")
    assert Path("captum-vit-out/report.html").read_text().count('<section class="explanation"') == 5
    return alive


def test_photographs_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    alive = report_of_five(monkeypatch)
    assert len(alive.references) == 5
    assert alive.most <= 2


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: all loaded before the first is shown")
def test_photographs_that_are_kept(monkeypatch: pytest.MonkeyPatch):
    def all_at_once(folders: Sequence[Path], refused: Callable) -> list[Explanation]:
        return [Explanation.load(folder) for folder in folders]

    monkeypatch.setattr(_run, "loaded", all_at_once)
    test_photographs_are_not_kept(monkeypatch)


def test_one_damaged_in_any_way_leaves_the_others():
    """What a hand or a disk does to a manifest is told in one line."""
    for name in ("a.png", "b.png"):
        run("explain", photo(name), "--target", "cross")
    file = Path("captum-vit-out/a", MANIFEST)
    for wrong in ({"attributions": []}, {"labels": [{"index": 1, "name": 5, "score": "high"}]}, {"geometry": {}}):
        whole = file.read_text()
        file.write_text(json.dumps({**json.loads(whole), **wrong}))
        result = run("report", "captum-vit-out", code=1)
        assert result.stdout.startswith("1 explanation, written")
        assert result.stderr.startswith("Failed: the explanation in 'captum-vit-out/a' is damaged: ")
        assert result.stderr.count("\n") == 1
        file.write_text(whole)


def test_folders_without_any():
    Path("empty").mkdir()
    result = run("report", "empty", "nowhere", code=2)
    assert result.stderr == "Error: no saved explanation in 'empty', 'nowhere': captum-vit explain writes them\n"


def test_a_page_that_cannot_be_written():
    run("explain", photo("a.png"), "--target", "cross")
    result = run("report", "captum-vit-out", "--out", "no/such/place.html", code=2)
    assert result.stderr == "Error: cannot write 'no/such/place.html': No such file or directory\n"


def test_two_explanations_stand_side_by_side():
    for name in ("before", "after"):
        run("explain", photo("a.png"), "--target", "cross", "--out", name)
    run("report", "before/a", "after/a", "--compare", "--method", "agcam", "--out", "both.html")
    page = Path("both.html").read_text()
    assert all(name in page for name in ("before/a", "after/a", "cross"))
    assert len(page) < 3 * 2**20
    headings = [page.find(f"{letter}: {name}/a") for letter, name in (("A", "before"), ("B", "after"))]
    assert -1 < headings[0] < headings[1]  # in the order in which they were named
    few = run("report", "before/a", "--method", "agcam", "--compare", "--out", "one.html", code=2).stderr
    assert "two to six maps to compare, got 1: name the folders" in few
    assert not Path("one.html").exists()
    assert "--compare" in run("report", "before/a", "--method", "agcam", code=2).output


def test_runs_of_many_images_are_not_compared_whole():
    images = [photo(f"{number}.png") for number in range(4)]
    for name in ("before", "after"):
        run("explain", *images, "--target", "cross", "--method", "agcam", "--no-verdict", "--out", name)
    told = run("report", "before", "after", "--compare", code=2).stderr
    assert "got those of 8 images: name the folders of single images, as before/photo after/photo" in told
    assert not Path("before/comparison.html").exists()


def test_a_page_is_painted_as_it_is_asked_for():
    """By the options that explain has, of one page and of maps side by side; explain's own look is not kept."""
    run("explain", photo("a.png"), "--target", "cross", "--cmap", "magma")
    painted = {}
    for name, asked in {"plain": [], "other": ["--cmap", "viridis", "--scale", "0,0.5", "--alpha", "0.5"]}.items():
        run("report", "captum-vit-out", *asked, "--out", f"{name}.html")
        painted[name] = Path(f"{name}.html").read_text()
    explanation = Explanation.load("captum-vit-out/a")
    assert painted["plain"] == render([explanation])
    assert painted["other"] == render([explanation], look=Look((0, 0.5), cmap="viridis", alpha=0.5))
    assert painted["plain"] != painted["other"]
    assert "no colour map 'vridis'" in run("report", "captum-vit-out", "--cmap", "vridis", code=2).stderr


def test_maps_side_by_side_are_painted_as_it_is_asked_for():
    for name in ("before", "after"):
        run("explain", photo("a.png"), "--target", "cross", "--out", name)
    ask = ("report", "before/a", "after/a", "--compare", "--out", "both.html")
    maps = compare_maps(*map(Explanation.load, ("before/a", "after/a")), names=["before/a", "after/a"])
    run(*ask)
    assert Path("both.html").read_text() == maps.to_html()
    run(*ask, "--scale", "own", "--contour", "0.5")
    assert Path("both.html").read_text() == maps.to_html(look=Look(contour=0.5))
