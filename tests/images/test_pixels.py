"""Pixels of every kind become 8-bit RGB by a rule that is told; the tests compute the rule from the stored numbers."""

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captum_vit
from captum_vit import pixels
from captum_vit.data.pictures import read_labels
from captum_vit.errors import ImageLoadError, InputError, OptionError
from captum_vit.geometry import View
from captum_vit.images import ImageNote, decode_image, open_image, read_image, to_image
from captum_vit.visualization import overlay, sheet
from tests.figures.made import explanation as made
from tests.images.files import COLOURS, RAMP, png, tiff

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(255 * (values.astype(float) - low) / (high - low)).clip(0, 255).astype(np.uint8)


def shown(path: Path, content: bytes, **options: Any) -> tuple[np.ndarray, str]:
    """Red of what is shown, or all three where they differ, and the notes."""
    path.write_bytes(content)
    read = read_image(path, **options)
    assert (read.image.mode, read.image.info) == ("RGB", {})
    found = np.asarray(read.image)
    grey = (found == found[..., :1]).all()
    return found[..., 0] if grey else found, "; ".join(read.notes)


# --- more than eight bits


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32])
def test_negative_values_are_stretched(tmp_path: Path, dtype: Any, order: str):
    """As of a computed tomography in Hounsfield units."""
    low, high = (-100, 120) if dtype == np.int8 else (-1000, 2000)
    values = (low + (high - low) * RAMP).round().astype(dtype)
    found, notes = shown(tmp_path / "ct.tif", tiff(values, order=order))
    np.testing.assert_array_equal(found, stretched(values, low, high))
    assert f"values go from {low}, which is black, to {high}, which is white" in notes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_than_are_stored(tmp_path: Path, bits: int, order: str):
    values = (RAMP * (2**bits - 1)).round().astype(np.uint16)
    for content in (tiff(values, order=order), png(values, 0)):
        found, notes = shown(tmp_path / "a", content)
        np.testing.assert_array_equal(found, stretched(values, 0, 2**bits - 1))
        assert f"its greatest value is {2**bits - 1}: read as {bits} bits, {2**bits - 1} is white" in notes


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_sixteen_bits_are_nothing_to_tell(tmp_path: Path, dtype: Any):
    values = (RAMP * 65535).round().astype(dtype)
    found, notes = shown(tmp_path / "a.tif", tiff(values))
    np.testing.assert_array_equal(found, stretched(values, 0, 65535))
    assert notes == ""


def test_whole_numbers_of_32_bits_without_a_sign(tmp_path: Path):
    values = (RAMP * 4e9).astype(np.uint32)
    found, notes = shown(tmp_path / "a.tif", tiff(values))
    np.testing.assert_array_equal(found, stretched(values, 0, values.max()))
    assert "its values go from 0, which is black, to 4e+09" in notes


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_with_fewer_bits_than_are_stored(tmp_path: Path, order: str):
    """Pillow keeps the upper eight of sixteen, which are all but black here."""
    values = (COLOURS * 4095).round().astype(np.uint16)
    contents = [tiff(values, order=order), tiff(values // 4, values, order=order), png(values, 2)]
    for content, options in zip(contents, ({}, {"page": 1}, {}), strict=True):
        found, notes = shown(tmp_path / "a", content, **options)
        np.testing.assert_array_equal(found, stretched(values, 0, 4095))
        assert "its greatest value is 4095: read as 12 bits, 4095 is white" in notes
    with Image.open(tmp_path / "a") as opened:
        np.testing.assert_array_equal(np.asarray(read_image(opened).image), stretched(values, 0, 4095))
    bright, notes = shown(tmp_path / "b", tiff(16 * values, order=order))
    np.testing.assert_array_equal(bright, (16 * values) >> 8)
    assert notes == ""


def test_greys_with_transparency_and_fewer_bits(tmp_path: Path):
    """Pillow cannot be brought to give the lower eight: in sixteen steps, and told."""
    values = np.stack([(RAMP * 4095).round(), np.full(RAMP.shape, 65535)], 2).astype(np.uint16)
    found, notes = shown(tmp_path / "a.png", png(values, 4))
    assert np.abs(found - stretched(values[..., 0], 0, 4095).astype(float)).max() < 17
    assert "read as 12 bits" in notes


@pytest.mark.parametrize(
    ("values", "low", "high", "note"),
    [
        (RAMP, 0, 1, "its floating-point values lie in 0..1: 0 is black, 1 is white"),
        (RAMP / 2, 0, 1, "lie in 0..1"),
        (RAMP * 200, 0, 255, "lie in 0..255"),
        (RAMP * 300, 0, 300, "go from 0, which is black, to 300, which is white"),
        (RAMP - 0.5, -0.5, 0.5, "go from -0.5, which is black, to 0.5, which is white"),
        (RAMP * 3e38, 0, 3e38, "go from 0, which is black, to 3e+38"),
        (RAMP * 0 - 7, -7, -6, "are all -7, which is black"),
    ],
)
def test_floating_point_values(tmp_path: Path, values: np.ndarray, low: float, high: float, note: str):
    found, notes = shown(tmp_path / "a.tif", tiff(values.astype(np.float32)))
    np.testing.assert_allclose(found, stretched(values.astype(np.float32), low, high), atol=1)
    assert note in notes
    assert "a window of two values would say otherwise" in notes


def test_values_that_are_no_numbers(tmp_path: Path):
    values = (RAMP * 500 - 100).astype(np.float32)
    expected = stretched(values, -100, 400)
    values[0, :4], values[1, :3], values[2, :2] = np.nan, np.inf, -np.inf
    expected[0, :4], expected[1, :3], expected[2, :2] = 0, 255, 0
    values[39, 59], values[0, 5] = 400, -100
    expected[0, 5] = 0
    found, notes = shown(tmp_path / "a.tif", tiff(values))
    np.testing.assert_array_equal(found, expected)
    assert "4 of its 2400 pixels hold no number and are black" in notes
    (tmp_path / "a.tif").write_bytes(tiff(values * np.nan))
    with pytest.raises(ImageLoadError, match=r"a.tif' has no finite value among its pixels: there is nothing to show"):
        open_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match="the image has no finite value among its pixels"):
        to_image(Image.fromarray(values * np.nan))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_number_that_stands_for_no_value(tmp_path: Path, dtype: Any):
    values = (RAMP * 500 - 100).round().astype(dtype)
    values[3:5] = -9999
    found, notes = shown(tmp_path / "a.tif", tiff(values, tags={42113: (2, b"-9999\0")}))
    expected = stretched(values, -100, 400)
    expected[3:5] = 0
    np.testing.assert_array_equal(found, expected)
    assert "120 of its 2400 pixels hold no number" in notes


def test_a_large_image_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = (RAMP * 3000 - 1000).round().astype(np.int32)
    whole = shown(tmp_path / "a.tif", tiff(values))
    monkeypatch.setattr(pixels, "_BAND", 60 * 7)
    parts = shown(tmp_path / "a.tif", tiff(values))
    np.testing.assert_array_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


def clipped(image: Image.Image, *_: object) -> pixels.Read:
    """As Pillow itself converts."""
    return pixels.Read(image.convert("RGB"))


@pytest.mark.parametrize(
    "content",
    [tiff((RAMP * 3000 - 1000).astype(np.int32)), tiff(RAMP.astype(np.float32)), png((RAMP * 4095).astype("u2"), 0)],
    ids=["signed", "floats", "twelve bits"],
)
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: Pillow's own conversion")
def test_a_plain_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    monkeypatch.setattr("captum_vit.decoding.to_rgb", clipped)
    found, _ = shown(tmp_path / "a", content)
    np.testing.assert_allclose(found, stretched(RAMP, 0, 1), atol=2)


# --- a window


@pytest.mark.parametrize(
    "content",
    [
        tiff((RAMP * 3000 - 1000).round().astype(np.int16)),
        tiff((RAMP * 3000 - 1000).astype(np.float32)),
        png((RAMP * 4095).round().astype(np.uint16), 0),
        tiff((RAMP * 255).round().astype(np.uint8)),
    ],
    ids=["signed", "floats", "twelve bits", "eight bits"],
)
def test_a_window_says_what_is_black_and_white(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    with Image.open(tmp_path / "a") as opened:
        stored = np.asarray(opened)
    found, notes = shown(tmp_path / "a", content, window=(20, 200))
    np.testing.assert_array_equal(found, stretched(stored, 20, 200))
    assert notes == ""
    assert np.array_equal(np.asarray(open_image(tmp_path / "a", window=(20, 200)))[..., 0], found)


@pytest.mark.parametrize("window", [(1, 0), (2, 2), (0, float("nan")), (0, float("inf")), "ab", (1, 2, 3), (None, 1)])
def test_what_is_no_window(tmp_path: Path, window: Any):
    (tmp_path / "a.png").write_bytes(png((RAMP * 4095).astype(np.uint16), 0))
    with pytest.raises(OptionError, match=r"a window is .*, \(low, high\) with low < high, got"):
        open_image(tmp_path / "a.png", window=window)


def test_a_window_for_colours(tmp_path: Path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    with pytest.raises(
        ImageLoadError, match=r"a\.png' has colours or a palette \(mode RGB\), and a window is for greys"
    ):
        open_image(tmp_path / "a.png", window=(0, 100))


# --- modes and transparency

MODES = [
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
    *("CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "I;16L", "F"),
]


def in_mode(mode: str) -> Image.Image:
    image = Image.fromarray((255 * COLOURS).round().astype(np.uint8))
    grey = Image.fromarray((255 * RAMP).round().astype(np.uint8))
    if mode in ("La", "RGBa", "PA"):
        return image.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    if mode == "F":
        return grey.convert("F")
    if mode[0] == "I":
        return grey.convert("I").point(lambda value: value * 257).convert(mode)
    return image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow(mode: str):
    image = in_mode(mode)
    assert image.mode == mode
    read = read_image(image)
    expected = {
        "1": lambda: np.asarray(image) * 255.0,
        **dict.fromkeys(("L", "LA", "La"), lambda: np.asarray(in_mode("RGB").convert("L"))),
        **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "F"), lambda: RAMP * 255),
    }.get(mode, lambda: np.asarray(in_mode("RGB")))()
    found = np.asarray(read.image).astype(float)
    distance = np.abs(found - (expected[..., None] if expected.ndim == 2 else expected))
    assert distance.mean() < (20 if mode in ("P", "PA") else 3)  # a palette has 216 colours
    assert read.image.info == {}
    assert bool(read.notes) == (mode == "F")


TRANSPARENT = {
    "1": [0, 1],
    "L": [0, 3, 255],
    "P": [0, 3, bytes([0, 128, 255]), bytes(range(256))],
    "RGB": [(1, 2, 3), (255, 255, 255)],
    "I;16": [0, 3, 65535],
}


@pytest.mark.parametrize(("mode", "colour"), [(mode, colour) for mode in TRANSPARENT for colour in TRANSPARENT[mode]])
def test_a_transparent_colour_stays_as_it_is_stored(tmp_path: Path, mode: str, colour: Any):
    image = in_mode(mode)
    image.save(tmp_path / "a.png", transparency=colour)
    image.save(tmp_path / "b.png")
    expected = np.asarray(read_image(tmp_path / "b.png").image)
    with Image.open(tmp_path / "a.png") as opened, Image.open(tmp_path / "a.png") as decoded:
        assert "transparency" in opened.info
        decoded.load()
        for source in (tmp_path / "a.png", opened, decoded):
            read = read_image(source)
            np.testing.assert_array_equal(np.asarray(read.image), expected)
            for kind in ("PNG", "JPEG", "GIF"):
                read.image.save(io.BytesIO(), kind)


def test_a_transparent_colour_is_explained_and_saved(tmp_path: Path):
    for mode in ("1", "L", "P"):
        in_mode(mode).resize((64, 64)).save(tmp_path / "a.png", transparency=0)
        found = captum_vit.explain(tmp_path / "a.png", method="rollout")
        assert "<html" in found.to_html()
        found.save(tmp_path / mode)
        again = captum_vit.Explanation.load(tmp_path / mode)
        np.testing.assert_array_equal(np.asarray(again.image), np.asarray(found.image))


@pytest.mark.xfail(strict=True, raises=ValueError, reason="broken on purpose: the colour follows into the new mode")
def test_a_transparent_colour_that_is_kept(tmp_path: Path):
    in_mode("1").save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as opened:
        opened.convert("RGB").save(io.BytesIO(), "PNG")


def test_a_profile_of_other_colours_goes_with_them(tmp_path: Path):
    in_mode("CMYK").save(tmp_path / "a.jpg", icc_profile=b"of four inks")
    saved = io.BytesIO()
    open_image(tmp_path / "a.jpg").save(saved, "PNG")
    with Image.open(saved) as again:
        assert "icc_profile" not in again.info


# --- how it is told


def told(call: Any, *args: Any, **options: Any) -> Sequence[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    assert all(w.category is ImageNote for w in caught)
    return [str(w.message) for w in caught]


def test_a_note_is_a_warning_with_the_name(tmp_path: Path):
    content = png((RAMP * 4095).round().astype(np.uint16), 0)
    (tmp_path / "a.png").write_bytes(content)
    note = "its greatest value is 4095: read as 12 bits, 4095 is white; a window of two values would say otherwise"
    assert told(open_image, tmp_path / "a.png") == [f"{str(tmp_path / 'a.png')!r}: {note}"]
    assert told(to_image, str(tmp_path / "a.png")) == [f"{str(tmp_path / 'a.png')!r}: {note}"]
    assert told(decode_image, content, "x.png of a") == [f"x.png of a: {note}"]
    assert told(to_image, Image.fromarray(RAMP.astype(np.float32)))[0].startswith("the image: its floating-point")
    assert told(open_image, tmp_path / "a.png", window=(0, 4095)) == []


@pytest.mark.parametrize("picture", [Image.new("RGB", (0, 5)), Image.new("I", (0, 0)), Image.new("L", (7, 0))])
def test_no_pixels(picture: Image.Image):
    with pytest.raises(InputError, match=r"the image has no pixels \(.x.\)"):
        to_image(picture)


def test_a_tiff_of_numbers_that_pillow_does_not_read(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(tiff(RAMP.astype(np.float64)))
    with pytest.raises(
        ImageLoadError, match=r"a TIFF that is damaged, or of pixels that Pillow does not read, as floats"
    ):
        open_image(tmp_path / "a.tif")


LYING = {
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}


def check_lying(file: Path, stored: np.ndarray, orientation: int) -> None:
    file.write_bytes(tiff(stored, tags={274: (3, struct.pack("<H", orientation))}))
    expected = LYING[orientation](stored)
    np.testing.assert_array_equal(read_labels(file), expected)
    with Image.open(file) as opened:
        for read in (read_image(file), read_image(opened)):
            levels = np.asarray(read.image)[..., 0]
            np.testing.assert_array_equal(levels, np.round(expected * (255 / np.iinfo(stored.dtype).max)))
        assert opened.filename == str(file)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", LYING)
def test_a_plain_tiff_that_lies_on_its_side(tmp_path: Path, orientation: int, dtype: Any):
    """Pillow's map of the file in memory has the rows of the upright image."""
    check_lying(tmp_path / "a.tif", (RAMP * np.iinfo(dtype).max).astype(dtype), orientation)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: Pillow maps the file")
def test_a_tiff_that_is_mapped_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pixels, "load", lambda image: image.load())
    check_lying(tmp_path / "a.tif", (RAMP * 255).astype(np.uint8), 6)


def test_a_picture_is_written_without_loss():
    noise = Image.fromarray(NOISE)
    for image in (noise, noise.quantize(8), noise.convert("LA"), Image.new("RGB", (300, 5), "white")):
        with Image.open(io.BytesIO(pixels.png(image))) as again:
            assert again.mode == image.mode
            np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "I", "F"])
def test_a_picture_of_any_mode_is_drawn_on(mode: str, tmp_path: Path):
    """As somebody opens it, and passes it to a function that draws."""
    plain, grid = read_image(in_mode(mode)).image, np.arange(12.0).reshape(3, 4)
    if mode in "IF":
        in_mode(mode).save(tmp_path / "a.tif")
    else:
        in_mode(mode).save(tmp_path / "a.png", transparency=0)
    with Image.open(next(tmp_path.iterdir())) as opened:
        for draw in (lambda image: overlay(image, grid), lambda image: sheet([[("title", image)]])):
            drawn = draw(opened)
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(draw(plain)))
            drawn.save(io.BytesIO(), "PNG")
        found = replace(made(), image=opened, view=View.of(opened.size))
        assert "<html" in found.to_html()
        found.plot()
        found.save(tmp_path / "saved")
