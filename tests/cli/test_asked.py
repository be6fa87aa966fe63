"""What an explanation keeps of how it was asked for: the call that makes it again, and the class that is right."""

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import captum_vit
from captum_vit.explanation.explanation import Explanation
from captum_vit.sample import draw_scene
from tests.cli.helpers import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images that are taken for crosses, one in the folder of that class, one in that of another."""
    for i, name in enumerate(("cross", "disc")):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(draw_scene(15 + i, size=64).image).save(tmp_path / "data" / name / f"my picture {i}.png")
    return tmp_path / "data"


def saved(out: Path) -> Explanation:
    """The only explanation that was written."""
    (found,) = out.rglob("explanation.json")
    return Explanation.load(found.parent)


def test_the_command_makes_the_maps_again(folder: Path, tmp_path: Path):
    file = folder / "disc" / "my picture 1.png"
    asked = ["--method", "rollout", "--option", "fusion=max", "--no-verdict", "--top-k", "2"]
    run("explain", file, *asked, "--out", tmp_path / "out")
    first = saved(tmp_path / "out")
    words = shlex.split(first.call)
    assert words[:2] + words[-1:] == ["captum-vit", "explain", str(file)]
    assert sorted(words[2:-1]) == sorted(asked)
    run(*words[1:], "--out", tmp_path / "again")
    again = saved(tmp_path / "again")
    assert torch.equal(first.maps, again.maps)
    assert [a.title for a in first] == [a.title for a in again]


def test_the_command_of_a_file_that_is_named_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_scene(1, size=64).image).save("-x.png")
    run("explain", "--no-verdict", "--out", "out", "--", "-x.png")
    first = saved(Path("out"))
    run(*shlex.split(first.call)[1:-2], "--out", "again", "--", "-x.png")
    assert shlex.split(first.call)[-2:] == ["--", "-x.png"]
    assert torch.equal(saved(Path("again")).maps, first.maps)


def test_the_line_of_python_makes_the_maps_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "disc")
    file = "my picture 1.png"
    first = captum_vit.explain(file, method=["agcam", "rollout"], target=[0, "cross"], fusion="max", top_k=2)
    assert first.call == (
        "captum_vit.explain('my picture 1.png', method=['agcam', 'rollout'], target=[0, 'cross'], top_k=2, "
        "fusion='max')"
    )
    assert torch.equal(eval(first.call, {"captum_vit": captum_vit}).maps, first.maps)
    model = captum_vit.load_model("sample")
    assert captum_vit.explain(draw_scene(1, size=64).image, model).call == "captum_vit.explain(image, model=model)"


def test_folders_that_are_named_after_classes(folder: Path, tmp_path: Path):
    asked = ("explain", folder, "--recursive", "--by-folder", "--no-verdict")
    told = run(*asked, "--out", tmp_path / "out").stdout.splitlines()
    assert [line.strip() for line in told if "wrong" in line] == ["wrong: it is disc"]
    found = sorted((tmp_path / "out").rglob("explanation.json"))
    truths = {path.parent.parent.name: Explanation.load(path.parent).truth for path in found}
    assert truths == {"cross": "cross", "disc": "disc"}
    (folder / "tiger").mkdir()
    (folder / "disc" / "my picture 1.png").rename(folder / "tiger" / "a.png")
    failed = run("explain", folder, "--recursive", "--by-folder", "--out", tmp_path / "other", code=2)
    assert "no class 'tiger' in 'sample'" in failed.stderr


def test_a_run_that_goes_on_does_not_take_what_was_asked_otherwise(folder: Path, tmp_path: Path):
    asked = ["explain", folder, "--recursive", "--no-verdict", "--out", tmp_path / "out"]
    run(*asked)
    assert "2 of 2 images were explained before" in run(*asked, "--resume").stdout
    assert "0 of 2 images were explained before" in run(*asked, "--resume", "--by-folder").stdout
