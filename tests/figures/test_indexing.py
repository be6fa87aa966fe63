"""Pictures in 256 colours."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from captum_vit.explanation import indexing
from captum_vit.explanation.indexing import indexed

Frames = list[Image.Image]


def noise(count: int, colours: int) -> Frames:
    """Frames of so many colours, neighbours of which differ by 2 of 255."""
    rng = np.random.default_rng(0)
    side = round(colours ** (1 / 3))
    table = 100 + 2 * np.indices((side, side, side)).reshape(3, -1).T.astype(np.uint8)
    return [Image.fromarray(table[rng.integers(0, len(table), (40, 50))]) for _ in range(count)]


def off(frames: Frames, drawn: Frames) -> int:
    """By how much of 255 the farthest pixel is drawn wrong."""
    pairs = zip(frames, drawn, strict=True)
    return max(int(np.abs(pixels(a) - pixels(b)).max()) for a, b in pairs)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def by_pillow(frames: Frames) -> Frames:
    together = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    palette = together.quantize(255, Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


@pytest.mark.parametrize(
    "drawer",
    [
        indexed,
        pytest.param(by_pillow, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason="looked up by 4s")),
    ],
)
def test_few_colours_stay_as_they_are(drawer: Callable[[Frames], Frames]):
    frames = noise(3, 6**3)
    assert off(frames, drawer(frames)) <= 1


def test_black_and_white_are_black_and_white():
    frames = [Image.new("RGB", (4, 4), "black"), Image.new("RGB", (4, 4), "white")]
    assert off(frames, indexed(frames)) == 0


def test_each_pixel_has_the_nearest_colour_of_the_palette():
    frames = noise(2, 20**3)
    drawn = indexed(frames)
    palette = np.array(drawn[0].getpalette()).reshape(-1, 3)
    for frame, picture in zip(frames, drawn, strict=True):
        assert picture.getpalette() == drawn[0].getpalette()
        known = indexing._colours(indexing._cells(frame).ravel())  # within 1 of the pixels
        assert np.abs(known - pixels(frame).reshape(-1, 3)).max() <= 1
        nearest = np.square(known[:, None] - palette).sum(-1).min(1)
        assert np.array_equal(np.square(known - palette[np.asarray(picture).ravel()]).sum(-1), nearest)
    assert len(palette) <= 255


def peak(frames: Frames, drawer: Callable[[Frames], object]) -> int:
    tracemalloc.start()
    drawer(frames)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def counted(frames: Frames) -> np.ndarray:
    """The colours of all frames at once."""
    return np.unique(np.concatenate([indexing._cells(frame).ravel() for frame in frames]))


@pytest.mark.parametrize(
    "drawer",
    [indexed, pytest.param(counted, marks=pytest.mark.xfail(strict=True, reason="broken on purpose: all at once"))],
)
def test_more_frames_take_no_more_memory_but_for_what_is_drawn(drawer: Callable[[Frames], object]):
    frames = [Image.new("RGB", (400, 400), (i, 0, 0)) for i in range(24)]
    assert peak(frames, drawer) < 1.5 * peak(frames[:2], drawer)
