"""The animation from block to block."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from captum_vit.colours import Look, Scale
from captum_vit.errors import OptionError, OutputError
from captum_vit.explained import Label
from captum_vit.explanation import flow as module
from captum_vit.explanation.explanation import Explanation
from captum_vit.explanation.flow import Flow
from captum_vit.visualization import overlay, thinned
from tests.figures.made import CAT, DOG, LAYERS, explanation

webp = pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")
KINDS = [".gif", pytest.param(".webp", marks=webp)]
SIDE = 160


def read(source: Path | BytesIO) -> tuple[list[Image.Image], list[int], int]:
    """Frames, their durations in milliseconds, and how often it runs (0: for ever)."""
    frames, durations = [], []
    with Image.open(source) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            frames.append(image.convert("RGB"))
            durations.append(image.info["duration"])
        return frames, durations, image.info["loop"]


def off(a: Image.Image, b: Image.Image) -> float:
    """Mean distance of two pictures, in levels of 255."""
    return float(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean())


def corner(frame: Image.Image, size: tuple[int, int], side: int = SIDE) -> Image.Image:
    """The picture at the lower right, of a frame of one attribution."""
    gap = max(4, side // 24)
    right, bottom = frame.width - gap, frame.height - gap
    return frame.crop((right - size[0], bottom - size[1], right, bottom))


LOOKS = {"own": Look(), "common": Look(scale="common"), "boosted": Look(boost_faint=True)}


def expected(look: str, position: int = -1) -> Image.Image:
    """What a frame has to hold, by the function that the flow is to agree with."""
    e = explanation()
    photo, flow = e.image.resize((SIDE, 107), Image.Resampling.LANCZOS), e.attributions[0].flow
    scale = Scale.of(flow) if look == "common" else None
    return overlay(photo, flow[position], e.view, LOOKS[look], scale=scale)


def test_values_are_those_of_the_explanation():
    e = explanation(("agcam", "rollout"))
    assert [value.shape for value in e.flow.values] == [(4, 4, 4)] * 2
    assert all(torch.equal(value[-1], a.map) for value, a in zip(e.flow.values, e, strict=True))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("position", [0, 2, -1])
def test_frames_show_the_maps(look, position):
    frames = explanation().flow.frames(SIDE, LOOKS[look])
    assert len(frames) == len(LAYERS)
    assert len({(frame.mode, frame.size) for frame in frames}) == 1
    assert off(corner(frames[position], (SIDE, 107)), expected(look, position)) == 0


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the block has to matter")
def test_the_frame_before(look):
    frames = explanation().flow.frames(SIDE, LOOKS[look])
    assert off(corner(frames[-2], (SIDE, 107)), expected(look)) < 0.3


def test_looks_differ():
    assert off(expected("boosted"), expected("own")) > 1
    assert off(expected("common", 0), expected("own", 0)) > 1
    with pytest.raises(OptionError, match=r"look must be a captum_vit.Look, as Look\(alpha=0.5\), got 'own'"):
        explanation().flow.frames(look="own")
    with pytest.raises(OptionError, match="max_side must be at least 16 pixels, got 3"):
        explanation().flow.frames(3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_one_frame_a_block_and_loops(kind, tmp_path):
    path = tmp_path / f"flow{kind}"
    explanation().flow.save(path, seconds=1.2, max_side=SIDE)
    frames, durations, loop = read(path)
    assert durations == [200, 200, 200, 600]
    assert loop == 0
    drawn = explanation().flow.frames(SIDE)
    for frame, original in zip(frames, drawn, strict=True):
        assert off(frame, original) < 3  # what 255 colours, or a lossy code, cost
    assert off(corner(frames[-1], (SIDE, 107)), expected("own")) < 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_a_second(kind, tmp_path):
    explanation().flow.save(tmp_path / f"flow{kind.upper()}", fps=5, max_side=64)
    assert read(tmp_path / f"flow{kind.upper()}")[1] == [200, 200, 200, 600]


@pytest.mark.parametrize("speed", [{"seconds": 0}, {"seconds": -1}, {"seconds": 1e9}, {"fps": 0}, {"fps": 1000}])
@pytest.mark.parametrize("nan", [False, True])
def test_speeds_that_there_are_not(speed, nan, tmp_path):
    if nan:
        speed = dict.fromkeys(speed, float("nan"))
    with pytest.raises(OptionError, match=r"a frame must last 0\.02 to 60 seconds; (seconds|fps)=.* for 4 of them"):
        explanation().flow.save(tmp_path / "flow.gif", **speed)
    assert not list(tmp_path.iterdir())


def unseen(frames: list[Image.Image]) -> list[np.ndarray]:
    """What the model saw nothing of, the same in all frames as drawn."""
    return [np.asarray(corner(frame, (SIDE, 107)))[:, :20] for frame in frames]


def test_a_gif_does_not_flicker(tmp_path):
    explanation(("agcam", "rollout")).flow.save(tmp_path / "flow.gif", max_side=SIDE)
    steady(read(tmp_path / "flow.gif")[0])


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a palette a frame has to be noticed")
def test_a_palette_for_each_frame():
    data = BytesIO()
    first, *others = (f.quantize(64) for f in explanation(("agcam", "rollout")).flow.frames(SIDE))
    first.save(data, "GIF", save_all=True, append_images=others, loop=0, duration=100)
    steady(read(data)[0])


def colours(frames: list[Image.Image]) -> np.ndarray:
    return np.concatenate([np.asarray(frame).astype(int).reshape(-1, 3) for frame in frames])


def test_a_gif_keeps_the_colours_of_evidence(tmp_path):
    e = one_small_spot()
    e.flow.save(tmp_path / "flow.gif")
    drawn, written = colours(e.flow.frames()), colours(read(tmp_path / "flow.gif")[0])
    yellow = drawn[:, :2].min(1) - drawn[:, 2] > 20
    assert yellow.any()
    assert np.abs(drawn - written)[yellow].mean() < 3


def one_small_spot() -> Explanation:
    """Evidence in one patch of many, on a photograph of many greys."""
    flow = torch.linspace(0, 0.3, 32 * 32).reshape(1, 32, 32).repeat(4, 1, 1)
    flow[:, 5, 5] = torch.arange(1.0, 5)
    e = explanation()
    return replace(e, attributions=(replace(e.attributions[0], flow=flow),))


def steady(frames: list[Image.Image]) -> None:
    colours = np.unique(np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames]), axis=0)
    assert len(colours) <= 256
    assert all(np.array_equal(part, unseen(frames)[0]) for part in unseen(frames))


@pytest.mark.parametrize("name", ["flow.mp4", "flow", "flow.png", ".gif"])
def test_another_ending(name, tmp_path):
    with pytest.raises(OptionError, match=re.escape(f"an animation ends in .gif or .webp, got {name!r}")):
        explanation().flow.save(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_no_file_or_the_old_one(kind, tmp_path, monkeypatch):
    path = tmp_path / f"flow{kind}"
    monkeypatch.setattr(module, "_encoded", lambda *_, **__: 1 / 0)
    for before in (None, b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises(ZeroDivisionError):
            explanation().flow.save(path, max_side=32)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        explanation().flow.save(tmp_path / "nowhere" / "flow.gif", max_side=32)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_notebook_shows_an_animation():
    e = explanation(classes=(Label(0, '"><b>cat</b>', 0.5),))
    [(tag, attributes)] = Tags(e.flow._repr_html_()).found
    assert tag == "img"
    assert attributes["alt"] == 'From block 0 to block 3: AGCAM: "><b>cat</b>'
    head, data = attributes["src"].split(",")
    assert head in ("data:image/webp;base64", "data:image/gif;base64")
    assert len(read(BytesIO(b64decode(data)))[0]) == 4
    assert e.flow._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(1500, 300), (60, 300), (40, 30), (1, 1)])
def test_any_shape_of_image(size):
    e = explanation(("agcam", "daam", "rollout"), (CAT, DOG), size)
    widths = {frame.size for frame in e.flow.frames(64)}
    assert len(widths) == 1


def test_attributions_of_different_layers():
    e = explanation(("agcam", "daam"))
    late = replace(e.attributions[1], flow=e.attributions[1].flow[2:], layers=LAYERS[2:])
    frames = replace(e, attributions=(late, e.attributions[0])).flow.frames(SIDE)
    assert len(frames) == 4
    left = [np.asarray(frame)[:, : frame.width // 2] for frame in frames]
    body = [part[-100:] for part in left]
    assert np.array_equal(body[0], body[1])
    assert np.array_equal(body[1], body[2])
    assert not np.array_equal(body[2], body[3])


def test_the_strip_is_a_figure():
    figure = Flow(explanation()).plot()
    assert [ax.get_title() for ax in figure.axes if ax.images] == [f"block {i}" for i in range(4)]


def test_thinning_keeps_the_ends():
    assert thinned(12, None) == list(range(12))
    assert thinned(12, 4) == [0, 4, 7, 11]
    assert thinned(3, 5) == [0, 1, 2]
    assert thinned(12, 1) == [11]
    for length in range(1, 30):
        for count in range(2, length + 1):
            picked = thinned(length, count)
            assert len(set(picked)) == count
            assert (picked[0], picked[-1]) == (0, length - 1)
