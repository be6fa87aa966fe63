"""A video as overlays, as a strip and as an animation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captum_vit.colours import LOOK
from captum_vit.errors import ExplanationLoadError, InputError, OptionError
from captum_vit.explanation.explanation import Explanation
from captum_vit.figures import strips
from captum_vit.visualization import overlay
from tests.report.helpers import explained
from tests.report.made_videos import COUNT, video


def test_an_overlay_is_of_a_frame():
    e = video()
    a = e.attributions[0]
    for frame in range(COUNT):
        still = e.still(frame)
        wanted = overlay(e.frames.images[frame], still.attributions[0].map, e.view, scale=e.scale(a, LOOK))
        assert np.array_equal(np.asarray(e.overlay(frame=frame)), np.asarray(wanted))
    assert np.array_equal(np.asarray(e.overlay()), np.asarray(e.overlay(frame=e.strongest)))
    own = overlay(e.frames.images[0], e.still(0).attributions[0].map, e.view)
    assert not np.array_equal(np.asarray(e.overlay(frame=0)), np.asarray(own)), (
        "each in its own scale would have passed"
    )
    with pytest.raises(OptionError, match="frame must be 0 to 5"):
        e.overlay(frame=COUNT)
    with pytest.raises(OptionError, match="frame=0 is for videos"):
        explained().overlay(frame=0)


def nearest(shown: np.ndarray, wanted: np.ndarray) -> float:
    """The least mean difference of a picture to any part of its size of what is shown."""
    parts = np.lib.stride_tricks.sliding_window_view(shown, wanted.shape[:2], (0, 1))
    return float(np.abs(parts - wanted.transpose(2, 0, 1)).mean((2, 3, 4)).min())


def test_a_film_has_a_picture_for_each_frame(tmp_path: Path):
    e = video().only("daam", "zebra")
    e.film.save(tmp_path / "film.gif", max_side=96)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == COUNT
        found = []
        for i in range(COUNT):
            gif.seek(i)
            found.append(np.asarray(gif.convert("RGB")).astype(int))
    for i, shown in enumerate(found):
        own, other = (nearest(shown, np.asarray(e.overlay(frame=j)).astype(int)) for j in (i, (i + 1) % COUNT))
        assert own < 6 < other
    assert repr(e.film).startswith("Film(6 frames of")


def test_the_flow_of_a_video_is_that_of_its_strongest_frame():
    e = video()
    flow = e.flow
    assert len(flow.frames()) == 4
    assert all(map(np.array_equal, flow.values, [a.flow for a in e.still()]))
    assert e.film.names == e.frames.names
    with pytest.raises(InputError, match="a film is of a video or a volume"):
        _ = explained().film


def test_a_strip_has_a_row_for_each_map():
    e = video()
    figure = e.plot()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(e.frames.names) * len(e)
    few = strips.frames(e, count=2)
    assert [a.get_title() for a in few.axes if a.get_title()] == [e.frames.names[0], e.frames.names[-1]] * len(e)
    with pytest.raises(InputError, match="a strip of frames is of a video"):
        strips.frames(explained())


def test_a_video_is_saved_and_loaded(tmp_path: Path):
    e = video()
    e.save(tmp_path / "clip")
    found = Explanation.load(tmp_path / "clip")
    assert (found.maps == e.maps).all()
    assert (found.frames.places, found.frames.names, found.frames.kind) == (e.frames.places, e.frames.names, "frame")
    for ours, theirs in zip(found.frames.images, e.frames.images, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert np.array_equal(np.asarray(found.overlay(frame=1)), np.asarray(e.overlay(frame=1)))
    small = found.reduced(48)
    assert {image.size for image in small.frames.images} == {(48, 32)}
    assert small.overlay(frame=2).size == (48, 32)


def test_a_saved_frame_keeps_the_colours_of_the_whole(tmp_path: Path):
    e = video()
    for frame in (0, 3):
        still = e.still(frame)
        still.save(tmp_path / "still")
        found = Explanation.load(tmp_path / "still")
        assert np.array_equal(np.asarray(found.overlay()), np.asarray(still.overlay()))
        bare = replace(still, attributions=tuple(replace(a, whole=None) for a in still))
        assert not np.array_equal(np.asarray(bare.overlay()), np.asarray(still.overlay())), "its own would have passed"
        assert found.to_html() == still.to_html()
    file = tmp_path / "still" / "explanation.json"
    manifest = json.loads(file.read_text())
    manifest["attributions"][0]["whole"] = False  # and yet it is there
    file.write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match="those that the manifest names"):
        Explanation.load(tmp_path / "still")
    manifest["attributions"][0]["whole"] = 3
    file.write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match=r"attributions\[0\].whole must be true or false"):
        Explanation.load(tmp_path / "still")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"places": [0.0] * 5}, r"frames.names must be a list of 5"),
        ({"places": [0.0] * 7, "names": ["a"] * 7}, "cannot be cut into 7 frames"),
        ({"places": [], "names": []}, r"frames.places must be a list of 1 to"),
        ({"places": [None] * 6}, r"frames.places\[0\] must be a finite number"),
        ({"kind": 3}, "frames.kind must be text"),
    ],
)
def test_what_no_video_has_is_not_loaded(tmp_path: Path, change, told):
    video().save(tmp_path)
    file = tmp_path / "explanation.json"
    manifest = json.loads(file.read_text())
    manifest["frames"] |= change
    file.write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=told):
        Explanation.load(tmp_path)


def test_a_volume_of_one_map_without_frames_is_no_image(tmp_path: Path):
    with pytest.raises(InputError, match=r"floats of shape \(4, any, any\), got torch.float32 of shape \(4, 3, 4, 6\)"):
        replace(video(), frames=None).save(tmp_path)
