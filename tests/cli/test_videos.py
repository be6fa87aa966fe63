"""`captum-vit explain clip.mp4`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captum_vit import explain, load_model
from captum_vit.explanation.explanation import Explanation
from tests.cli.helpers import run
from tests.explanation.test_videos import model, processor
from tests.images.made_clips import clip, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model().save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    write_video(tmp_path / "clip.mp4", clip())
    first, *others = [Image.fromarray(frame) for frame in clip()]
    first.save(tmp_path / "moving.gif", save_all=True, append_images=others)
    first.save(tmp_path / "still.png")
    return tmp_path


def test_a_clip_is_drawn(folder: Path):
    told = run("explain", "clip.mp4", "--model", "hf/model", "--method", "agcam", "--out", "out", "--no-verdict").output
    assert "frames: 4 of 8, evenly spread (0, 2, 4, 6)" in told
    e = Explanation.load("out/clip")
    assert e.maps.shape == (1, 1, 2, 4, 4)
    assert e.source == "clip.mp4"
    with Image.open("out/clip/film.gif") as film:
        assert film.n_frames == 4
    name = next(path.name for path in Path("out/clip").glob("agcam-*.png"))
    assert f"written: {Path('out/clip/report.html')}, and beside it overview.png, 1 overlay and film.gif" in told
    with Image.open(Path("out/clip") / name) as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(e.overlay()))
    assert e.call == "captum-vit explain --model hf/model --method agcam --no-verdict clip.mp4"


def test_an_animation_is_a_clip_and_a_picture_is_none(folder: Path):
    run("explain", "moving.gif", "--model", "hf/model", "--no-report", "--out", "out")
    told = run("explain", "still.png", "--model", "hf/model", "--no-report", "--out", "out", code=1).stderr
    assert "Failed: 'still.png' is one picture, and the model takes videos or volumes: name a file of one" in told
    assert (Path("out/moving") / "film.gif").exists()


def test_a_model_of_images_takes_no_video(folder: Path):
    told = run("explain", "clip.mp4", "--no-report", "--out", "out", code=1).stderr
    assert "Failed: 'clip.mp4' is no image, and the model takes images: name another --model" in told


def test_a_folder_of_frames_is_a_video(folder: Path):
    for name in ("walks/first", "walks/second.cut"):
        Path(name).mkdir(parents=True)
        for i, frame in enumerate(clip() if name.endswith("first") else clip()[::-1]):
            Image.fromarray(np.ascontiguousarray(frame)).save(Path(name) / f"{i}.png")
    asked = "--model", "hf/model", "--method", "agcam", "--no-verdict"
    told = run("explain", "walks/first", *asked, "--frames", "--out", "out").output
    assert "frames: 4 of 8, evenly spread (0, 2, 4, 6)" in told
    e = Explanation.load("out/first")
    assert e.source == "first"
    assert e.call == "captum-vit explain --model hf/model --method agcam --frames --no-verdict walks/first"
    by_hand = explain(clip(), load_model("hf/model"), method="agcam")
    assert np.allclose(e.maps, by_hand.maps)
    run("explain", "walks", *asked, "--frames", "--recursive", "--out", "all", "--no-report")
    assert {path.parent.name for path in Path("all").rglob("film.gif")} == {"first", "second_cut"}
    again = run("explain", "walks/first", *asked, "--frames", "--out", "out", "--resume").output
    assert "1 of 1 images were explained before" in again
    Image.fromarray(clip()[0]).save("walks/first/2.png")
    again = run("explain", "walks/first", *asked, "--frames", "--out", "out", "--resume").output
    assert "0 of 1 images were explained before" in again, "another frame"


def test_a_folder_that_is_no_video_is_told_of(folder: Path):
    told = run("explain", ".", "--frames", "--no-report", "--out", "out", code=1).stderr
    assert "is a folder, and the model takes images, no videos: leave out --frames" in " ".join(told.split())
    told = run("explain", "model", "--frames", "--model", "hf/model", "--out", "out", code=2).stderr
    assert "no images in the folder 'model'" in told
