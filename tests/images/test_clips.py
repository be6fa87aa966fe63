"""Videos in any form are the same frames; what is none is refused."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit.clips import Clip, is_clip, read_clip, sampled
from captum_vit.errors import ImageLoadError, InputError
from tests.images.made_clips import clip, write_video


def pixels(found) -> np.ndarray:
    return np.stack([np.asarray(image) for image in found.images])


def forms(folder: Path) -> dict:
    """The same clip in all forms that lose nothing."""
    frames = clip()
    pictures = [Image.fromarray(frame) for frame in frames]
    (folder / "frames").mkdir()
    for i, picture in enumerate(map(Image.fromarray, frames)):
        picture.save(folder / "frames" / f"{i:03d}.png")
    pictures[0].save(folder / "stack.tif", save_all=True, append_images=pictures[1:])
    pictures = [Image.fromarray(frame) for frame in frames]  # a picture keeps how it was written last
    pictures[0].save(folder / "moving.webp", save_all=True, append_images=pictures[1:], lossless=True)
    np.save(folder / "clip.npy", frames)
    return {
        "list": pictures,
        "clip": Clip(pictures),
        "array": frames,
        "tensor": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "folder": folder / "frames",
        "pages": folder / "stack.tif",
        "animation": folder / "moving.webp",
        "npy": folder / "clip.npy",
    }


@pytest.mark.parametrize("form", ["list", "clip", "array", "tensor", "folder", "pages", "animation", "npy"])
def test_every_form_gives_the_same_frames(form, tmp_path):
    found = read_clip(forms(tmp_path)[form], 4)
    assert np.array_equal(pixels(found), clip()[[0, 2, 4, 6]])
    assert not np.array_equal(pixels(found), clip()[[1, 3, 5, 7]]), "frames in between would have passed"
    assert found.names == ("frame 0", "frame 2", "frame 4", "frame 6")
    assert found.notes == ("frames: 4 of 8, evenly spread (0, 2, 4, 6)",)


def test_numbers_in_the_names_of_frames_count_as_numbers(tmp_path):
    for i, frame in enumerate(clip()):
        Image.fromarray(frame).save(tmp_path / f"Frame{i + 5}.png")  # 5 to 12
    found = read_clip(tmp_path, None)
    assert np.array_equal(pixels(found), clip())
    as_letters = [i - 5 for i in sorted(range(5, 13), key=str)]
    assert not np.array_equal(pixels(found), clip()[as_letters])


def test_a_video_file_is_decoded(tmp_path):
    write_video(tmp_path / "clip.mp4", clip())
    found = read_clip(tmp_path / "clip.mp4", 4)
    assert found.source == "clip.mp4"
    assert found.names == ("frame 0, 0.00 s", "frame 2, 0.25 s", "frame 4, 0.50 s", "frame 6, 0.75 s")
    errors = [np.abs(pixels(found).astype(int) - clip()[i::2][:4].astype(int)).mean() for i in (0, 1)]
    assert errors[0] < 8 < errors[1]  # of lossy compression; the frames in between are others


def test_an_animation_is_a_video(tmp_path):
    first, *others = [Image.fromarray(frame) for frame in clip()]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others)
    with Image.open(tmp_path / "clip.gif") as opened:
        assert is_clip(opened)
        assert np.abs(pixels(read_clip(opened, 8)).astype(int) - clip()).mean() < 8


def test_frames_are_taken_as_video_processors_take_them():
    for total, count in ((300, 16), (17, 16), (8, 8), (100, 7)):
        theirs = torch.arange(0, total, total / count, dtype=torch.float64).long()[:count]
        assert sampled(total, count) == theirs.tolist()
    assert sampled(3, None) == [0, 1, 2]


def test_a_short_clip_is_told_of():
    found = read_clip(clip()[:3], 6)
    assert found.notes == ("frames: the clip has 3 and the model takes 6, so that some are shown several times",)
    assert np.array_equal(pixels(found), clip()[[0, 0, 1, 1, 2, 2]])


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    Image.fromarray(clip()[0]).save(tmp_path / "one.png")
    (tmp_path / "empty.mp4").touch()
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for given, error, told in [
        (tmp_path / "text.mp4", ImageLoadError, "is no video, or damaged"),
        (tmp_path / "empty.mp4", ImageLoadError, "is empty"),
        (tmp_path / "none.mp4", ImageLoadError, "no such file"),
        (tmp_path / "one.png", InputError, "one picture is no video"),
        (tmp_path / "objects.npy", ImageLoadError, "holds no array"),
        (clip().astype(np.float32), InputError, r"got float32 of shape \(8, 32, 48, 3\)"),
        ([clip()[0], clip()[1, :16]], InputError, "must be of one size, got 48x16, 48x32"),
        ({"frames": 3}, InputError, "a video is a path, a Clip of frames"),
    ]:
        with pytest.raises(error, match=told):
            read_clip(given, None)


def test_without_the_package_its_name_is_told(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", clip())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageLoadError, match=r"needs PyAV, .* pip install 'captum-vit\[video\]'"):
        read_clip(tmp_path / "clip.mp4", 4)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ImageLoadError, match="holds no pictures, as a recording of sound"):
        read_clip(tmp_path / "sound.mp4", 4)
