"""Files with several images: which one was taken is told, and each can be had."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captum_vit import decoding
from captum_vit.errors import ImageLoadError
from captum_vit.images import ImageNote, count_pages, open_image, open_pages, read_image
from tests.images.files import RAMP, tiff

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
PAGES = [Image.new("RGB", (50, 40), colour) for colour in COLOURS]
KINDS: dict[str, dict[str, Any]] = {"TIFF": {}, "GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "MPO": {}}


@pytest.fixture(params=KINDS)
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"several.{request.param.lower()}"
    first, *others = (page.copy() for page in PAGES)  # a format leaves its options behind on what it saved
    first.save(path, request.param, save_all=True, append_images=others, **KINDS[request.param])
    return path


def colour(image: Image.Image) -> int:
    """Which of the colours it has; a photograph's differ a little."""
    return int(np.argmin([np.abs(np.asarray(image).mean((0, 1)) - np.array(each)).sum() for each in COLOURS]))


def test_the_first_is_taken_and_told(several: Path):
    read = read_image(several)
    assert colour(read.image) == 0
    assert read.notes == ("page 0 of its 3 is read, page=1 to 2 would be the others",)
    with pytest.warns(ImageNote, match="several.*: page 0 of its 3 is read"):
        open_image(several)


def test_one_is_chosen_or_all(several: Path):
    assert count_pages(several) == 3
    assert [colour(image) for image in open_pages(several)] == [0, 1, 2]
    assert [colour(open_image(several, page=page)) for page in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for page in (3, -4):
        with pytest.raises(ImageLoadError, match=rf"several.* has 3 pages, 0 to 2, got page={page}"):
            open_image(several, page=page)


def test_frames_of_an_open_image(several: Path):
    with Image.open(several) as opened:
        assert read_image(opened).notes == ("page 0 of its 3 is read, image.seek(1) to 2 would be the others",)
        opened.seek(1)
        read = read_image(opened)
        assert (colour(read.image), read.notes) == (1, ())


def test_one_page(tmp_path: Path):
    PAGES[1].save(tmp_path / "a.png")
    assert count_pages(tmp_path / "a.png") == 1
    assert read_image(tmp_path / "a.png").notes == ()
    assert colour(open_image(tmp_path / "a.png", page=-1)) == 1
    with pytest.raises(ImageLoadError, match=r"a\.png' has one page, page 0, got page=1"):
        open_image(tmp_path / "a.png", page=1)


def test_a_window_for_all_pages(tmp_path: Path):
    stack = [(RAMP * 1000 * (i + 1)).astype(np.float32) for i in range(3)]
    (tmp_path / "a.tif").write_bytes(tiff(*stack))
    alike = [np.asarray(image).max() for image in open_pages(tmp_path / "a.tif", window=(0, 3000))]
    assert alike == [85, 170, 255]
    with pytest.warns(ImageNote, match="floating-point values go from"):
        assert [np.asarray(image).max() for image in open_pages(tmp_path / "a.tif")] == [255, 255, 255]


def cut_after_the_first(content: bytes) -> bytes:
    first = len(tiff((RAMP * 255).astype(np.uint8)))
    return content[: first + 5]


def test_damage_behind_the_first_page(tmp_path: Path):
    whole = tiff(*[(RAMP * 255).round().astype(np.uint8)] * 3)
    (tmp_path / "a.tif").write_bytes(cut_after_the_first(whole))
    read = read_image(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read.image)[..., 0], (RAMP * 255).round())
    assert read.notes == ("page 0 is read; those that follow are damaged",)
    assert read_image(tmp_path / "a.tif", page=0).notes == ()
    with pytest.raises(ImageLoadError, match=r"a\.tif' is damaged or cut off"):
        open_image(tmp_path / "a.tif", page=1)
    with pytest.raises(ImageLoadError, match="has pages that are damaged or cut off: name one by page="):
        open_pages(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        assert np.array_equal(np.asarray(read_image(opened).image)[..., 0], (RAMP * 255).round())


def test_every_page_has_to_be_of_a_size_that_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small, large = np.zeros((20, 20), np.uint8), np.zeros((200, 200), np.uint8)
    (tmp_path / "a.tif").write_bytes(tiff(small, large))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    assert open_image(tmp_path / "a.tif", page=0).size == (20, 20)
    with pytest.raises(ImageLoadError, match=r"is enormous \(200x200\)"):
        open_image(tmp_path / "a.tif", page=1)


def test_pages_stand_upright_each_for_itself(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    PAGES[0].copy().save(tmp_path / "a.webp", save_all=True, append_images=PAGES[1:], exif=exif)
    assert [image.size for image in open_pages(tmp_path / "a.webp")] == [(40, 50)] * 3


def test_a_photograph_with_a_picture_behind_it(tmp_path: Path):
    """As phones write them, under the name of a JPEG."""
    buffer = io.BytesIO()
    PAGES[0].copy().save(buffer, "MPO", save_all=True, append_images=PAGES[1:2])
    (tmp_path / "photo.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "photo.jpg").notes == ("page 0 of its 2 is read, page=1 would be the other",)


def test_pages_are_counted_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A small file may name pages without end, which take the longer the more there are."""
    (tmp_path / "a.tif").write_bytes(tiff(*[np.zeros((4, 4), np.uint8)] * 9))
    assert count_pages(tmp_path / "a.tif") == 9
    monkeypatch.setattr(decoding, "MAX_PAGES", 5)
    assert count_pages(tmp_path / "a.tif") == 5
    assert read_image(tmp_path / "a.tif").notes == ("page 0 of its 5 is read, page=1 to 4 would be the others",)
    monkeypatch.setattr(decoding, "MAX_PAGES", 9)
    assert count_pages(tmp_path / "a.tif") == 9
