"""Reading images: what works, and what each kind of bad file is told."""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit import decoding
from captum_vit.checkpoints import read_checkpoint
from captum_vit.errors import ImageLoadError, InputError
from captum_vit.images import find_images, open_image, to_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, format)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_FILES = {
    "empty.png": (b"", "is empty (0 bytes)"),
    "text.png": (b"Dear reader,\nthis is a letter.\n", "is not an image but text"),
    "page.jpg": ("<!DOCTYPE html><p>für dich</p>".encode(), "is not an image but text"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "is not an image but text"),
    "zeros.jpg": (bytes(1000), "is damaged or cut off"),
    "random.png": (bytes(range(128, 256)) * 4, "is not an image in a format that is known here"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(256)), "a photograph of a phone (HEIC)"),
    "slice.dcm": (bytes(128) + b"DICM" + bytes(99), "is a DICOM file: save its slice as a TIFF of 16 bits"),
    "array.npy": (b"\x93NUMPY\1\0v\0" + bytes(range(256)), "is an array of NumPy: load it by numpy.load"),
    "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)), "is a PDF: save its page as PNG"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    "cut.png": (encoded("PNG")[:2000], "is damaged or cut off"),
    "cut.jpg": (encoded("JPEG")[:1000], "is damaged or cut off"),
    "cut.webp": (encoded("WEBP")[:1000], "is damaged or cut off"),
    "cut.bmp": (encoded("BMP")[:1000], "is damaged or cut off"),
    "cut-early.png": (encoded("PNG")[:12], "is damaged or cut off"),
    "enormous.png": (png_header(13_000, 12_000), "is enormous (13000x12000): at most 150 megapixels"),
    "bomb.png": (png_header(60_000, 60_000), "is enormous: at most 150 megapixels"),
    "strip.png": (png_header(5_000, 10), "is a strip of 5000x10 pixels"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, name: str):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageLoadError) as error:
        open_image(tmp_path / name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_links_that_lead_nowhere(tmp_path: Path):
    (tmp_path / "a.png").symlink_to("gone.png")
    (tmp_path / "b.png").symlink_to("c.png")
    (tmp_path / "c.png").symlink_to("b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(ImageLoadError, match=rf"{name}' is a link that leads to no file"):
            open_image(tmp_path / name)


def test_a_good_file_passes_the_same_checks(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(encoded("PNG"))
    assert np.array_equal(np.asarray(open_image(tmp_path / "good.png")), NOISE)


def test_the_size_is_refused_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60 * 40 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ImageLoadError, match=r"enormous \(60x40\)"):
        open_image(tmp_path / "a.png")


def test_missing_files_folders_and_devices(tmp_path: Path):
    with pytest.raises(ImageLoadError, match="no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ImageLoadError, match="is a folder, not an image"):
        open_image(tmp_path)
    with pytest.raises(ImageLoadError, match="is not a regular file"):
        open_image("/dev/null")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(ImageLoadError, match=r"cannot read '.*a\.png': Permission denied"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize(("orientation", "turned"), [(1, NOISE), (3, NOISE[::-1, ::-1]), (6, np.rot90(NOISE, -1))])
def test_exif_orientation(tmp_path: Path, orientation: int, turned: np.ndarray):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), turned)


def test_broken_exif_is_no_obstacle(tmp_path: Path):
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), NOISE)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_modes_become_rgb(tmp_path: Path, mode: str):
    Image.fromarray(NOISE).convert(mode).save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif").mode == "RGB"


def test_a_palette_with_transparency(tmp_path: Path):
    Image.fromarray(NOISE).quantize(16).save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert open_image(tmp_path / "a.png").mode == "RGB"  # any warning of Pillow would fail the test


def test_sixteen_bits_are_scaled(tmp_path: Path):
    grey = NOISE[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 1], grey)


def test_find_images(tmp_path: Path):
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "c.webp"):
        (inside / name).touch()
    (inside / "folder.png").mkdir()
    found = find_images([tmp_path / "lone.png", inside, inside / "a.jpg"])
    assert found == [tmp_path / "lone.png", inside / "a.jpg", inside / "b.PNG", inside / "c.webp"]


def test_a_folder_without_images(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageLoadError, match=r"no images in the folder .*: looked for .*\.jpg"):
        find_images([tmp_path])


# --- images that are here already


def ramp16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(256, 0))


def test_sixteen_bits_are_scaled_from_a_pil_image_too(tmp_path: Path):
    ramp16().save(tmp_path / "a.png")
    shown = np.asarray(to_image(ramp16()))
    assert shown.mean() == pytest.approx(127, abs=1)
    assert np.array_equal(shown, np.asarray(to_image(tmp_path / "a.png")))


def test_a_palette_with_transparency_of_a_pil_image(tmp_path: Path):
    Image.fromarray(NOISE).quantize(16).save(tmp_path / "a.png", transparency=bytes(range(16)))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(to_image(opened)), np.asarray(open_image(tmp_path / "a.png")))


def test_a_pil_image_whose_file_is_damaged(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded("PNG")[:2000])
    with (
        Image.open(tmp_path / "a.png") as opened,
        pytest.raises(ImageLoadError, match=r"the PIL image is damaged or cut off \("),
    ):
        to_image(opened)


@pytest.mark.parametrize(
    "picture",
    [NOISE, torch.from_numpy(NOISE).permute(2, 0, 1), Image.fromarray(NOISE)],
    ids=["array", "tensor", "PIL"],
)
def test_the_same_picture_in_every_form(picture: Any):
    assert np.array_equal(np.asarray(to_image(picture)), NOISE)


def test_greys():
    grey = NOISE[..., 0]
    for picture in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        assert np.array_equal(np.asarray(to_image(picture))[..., 1], grey)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            torch.zeros(50, 60, 3, dtype=torch.uint8),
            "got torch.uint8 of shape (50, 60, 3); tensors are channels first: pass tensor.permute(2, 0, 1)",
        ),
        (torch.zeros(50, 60, dtype=torch.uint8), "got torch.uint8 of shape (50, 60); tensors are channels first"),
        (np.zeros((5, 6), bool), "got bool of shape (5, 6); make black and white of a mask by array.astype('uint8')"),
        (np.zeros((5, 6)), "got float64 of shape (5, 6); make uint8 of values in 0..1 by (array * 255).round()"),
        (np.zeros((3, 5, 6), np.uint8), "got uint8 of shape (3, 5, 6); arrays are channels last: pass array."),
        (np.zeros((5, 6), np.int64), "a uint8 array (H, W) or (H, W, 3), a uint8 tensor (3, H, W)"),
        (np.zeros((0, 6, 3), np.uint8), "an image has pixels, got uint8 of shape (0, 6, 3)"),
        (5, "got int"),
    ],
)
def test_what_is_no_image(picture: Any, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        to_image(picture)


# --- threads


def interleaved(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Two calls at once, of which the one that came first is the first to leave."""
    entered = {who: threading.Event() for who in "ab"}
    leave = {who: threading.Event() for who in "ab"}
    inner = getattr(owner, name)

    def waiting(*args: Any, **kwargs: Any) -> Any:
        who = threading.current_thread().name
        entered[who].set()
        assert leave[who].wait(20)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, waiting)
    threads = {who: threading.Thread(target=call, name=who) for who in "ab"}
    for who in "ab":
        threads[who].start()
        assert entered[who].wait(20)
    for who in "ab":
        leave[who].set()
        threads[who].join(20)


def test_filters_of_warnings_after_two_images_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    before = list(warnings.filters)
    interleaved(lambda: open_image(tmp_path / "a.png"), monkeypatch, Image, "open")
    assert list(warnings.filters) == before


def test_filters_of_warnings_after_two_checkpoints_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pth")
    before = list(warnings.filters)
    interleaved(lambda: read_checkpoint(tmp_path / "w.pth"), monkeypatch, torch, "load")
    assert list(warnings.filters) == before


def test_one_that_leaves_does_not_wake_the_warnings_of_another(tmp_path: Path):
    """Odd metadata is no obstacle while other threads come and go (a warning is an error in these tests)."""
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    before, failures = list(warnings.filters), []

    def read() -> None:
        try:
            for _ in range(20):
                open_image(tmp_path / "a.png")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


def test_warnings_of_others_are_heard_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))

    def formats() -> list[str]:
        with pytest.warns(UserWarning, match="of ours"):
            warnings.warn("of ours", stacklevel=1)
        with pytest.raises(UserWarning, match="of ours"):
            warnings.warn("of ours", stacklevel=1)
        return ["PNG"]

    monkeypatch.setattr(decoding, "known_formats", formats)
    assert open_image(tmp_path / "a.png").size == (60, 40)
