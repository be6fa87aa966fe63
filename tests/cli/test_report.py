"""The report, the flow and the saved explanation that `captum-vit explain` writes, and `captum-vit report`."""

from pathlib import Path

from PIL import Image

from captum_vit import Explanation
from captum_vit.saving import MANIFEST
from tests.cli.helpers import photo, run, written


def test_what_explain_writes_beside_the_overlays():
    result = run("explain", photo("a.png"), "--method", "daam", "--target", "cross")
    assert result.stdout.splitlines()[-1] == (
        "  written: captum-vit-out/a/overview.png and 1 overlay, flow.gif, report.html beside it"
    )
    names = written("captum-vit-out/a")
    assert [n for n in names if not n.startswith(("image-", "maps-"))] == [
        "daam-5-cross.png", "explanation.json", "flow.gif", "overview.png", "report.html",
    ]  # fmt: skip
    assert len(names) == 7
    with Image.open("captum-vit-out/a/flow.gif") as flow:
        assert flow.n_frames == 6
    loaded = Explanation.load("captum-vit-out/a")
    assert loaded.source == "a.png"
    assert loaded.attention is None
    assert "cross" in Path("captum-vit-out/a/report.html").read_text()


def test_the_attention_is_kept_on_request():
    run("explain", photo("a.png"), "--target", "0", "--attention", "--no-flow")
    attention = Explanation.load("captum-vit-out/a").attention
    assert attention is not None
    assert len(attention.patches) == 6
    assert "flow.gif" not in written("captum-vit-out/a")


def test_a_page_of_several_explanations():
    for name in ("a.png", "b.png"):
        run("explain", photo(name), "--target", "cross", "--no-flow")
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
        run("explain", photo(name), "--target", "cross", "--no-flow")
    Path("captum-vit-out/a", MANIFEST).write_text("{")
    result = run("report", "captum-vit-out", code=1)
    assert result.stdout.startswith("1 explanation, written")
    assert result.stderr.startswith("Failed: cannot read 'captum-vit-out/a/explanation.json'")
    Path("captum-vit-out/b", MANIFEST).write_text("[]")
    assert run("report", "captum-vit-out", code=2).stderr.endswith("Error: none of the explanations could be read\n")


def test_folders_without_any():
    Path("empty").mkdir()
    result = run("report", "empty", "nowhere", code=2)
    assert result.stderr == "Error: no saved explanation in 'empty', 'nowhere': captum-vit explain writes them\n"


def test_a_page_that_cannot_be_written():
    run("explain", photo("a.png"), "--target", "cross", "--no-flow")
    result = run("report", "captum-vit-out", "--out", "no/such/place.html", code=2)
    assert result.stderr == "Error: cannot write 'no/such/place.html': No such file or directory\n"
