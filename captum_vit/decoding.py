"""Files that should hold an image, from nobody knows where: looked at before they are opened, opened with care."""

import sys
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from .errors import ImageLoadError, InputError, OptionError
from .pixels import Read, Window, to_rgb
from .quiet import quiet

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow would run Ghostscript for others
MAX_PIXELS = 150_000_000  # half a gigabyte as RGB; below the limit at which Pillow itself refuses
MAX_PAGES = 10_000  # of a TIFF, which Pillow counts in a time that grows with their square
MAX_RATIO = 100  # a preprocessing that keeps proportions blows a longer strip up to any size
_MAGIC = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHONES = "a photograph of a phone (HEIC): save it as JPEG"
_OTHERS = {  # how files of another kind begin: where, and what to do with them
    b"version https://git-lfs": (0, "a pointer of Git LFS, not the image itself: fetch that by git lfs pull"),
    **dict.fromkeys((b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), (4, _PHONES)),
    b"DICM": (128, "a DICOM file: save its slice as a TIFF of 16 bits, or pass an array of its values in 0..255"),
    b"\x93NUMPY": (0, "an array of NumPy: load it by numpy.load, and pass the array"),
    b"%PDF": (0, "a PDF: save its page as PNG"),
    b"8BPS": (0, "a file of Photoshop: save it as PNG"),
    b"\0\0\0\x0cjP  ": (0, "JPEG 2000: save it as PNG or TIFF"),
}
_COLOURS = ("LA", "RGB", "RGBA", "RGBX")


@cache
def known_formats() -> list[str]:
    """The formats that this build of Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def check_file(path: Path) -> None:
    """That there is a regular file which holds something and may be read.

    Raises:
        ImageLoadError: there is not.
    """
    try:
        if path.is_dir():
            raise ImageLoadError(f"{str(path)!r} is a folder, not an image: name the files in it")
        if path.is_symlink() and not path.exists():
            raise ImageLoadError(f"{str(path)!r} is a link that leads to no file")
        if not path.exists():
            raise ImageLoadError(f"no such file: {str(path)!r}")
        if not path.is_file():
            raise ImageLoadError(f"{str(path)!r} is not a regular file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageLoadError(f"{str(path)!r} is empty (0 bytes): get the file again")
    except ImageLoadError:
        raise
    except OSError as error:
        raise ImageLoadError(f"cannot read {str(path)!r}: {error.strerror}") from error


def decode(source: Path | BytesIO, name: str, page: int | None = None, window: Window | None = None) -> Read:
    """The image in a file that is there, or in the bytes of one.

    Args:
        source: where it is.
        name: what messages call it.
        page, window: as for `captum_vit.images.open_image`.
    Raises:
        ImageLoadError: no image, damaged, too large to decode, no such page, or colours where a window was given.
        OptionError: a window that is none.
    """
    with quiet("PIL"):  # it remarks on odd metadata; sizes are checked here
        pages = count(source, name)
        number = _page_number(name, page, pages)
        with _opened(source, name) as image:
            try:
                _turn_to(image, number, name)
                read = to_rgb(image, window, low_bytes(image, source))
            except (ImageLoadError, OptionError):
                raise
            except InputError as error:
                raise ImageLoadError(f"{name} has {error}") from error
            except Exception as error:
                raise ImageLoadError(_damaged(name, error)) from error
    if page is not None or pages == 1:
        return read
    return Read(read.image, (first_of(pages, "page=1"), *read.notes))


def first_of(pages: int | None, second: str) -> str:
    """What is told where the first of several pages was taken; None says that nobody can count them."""
    if pages is None:
        return "page 0 is read; those that follow are damaged"
    others = f"{second} would be the other" if pages == 2 else f"{second} to {pages - 1} would be the others"
    return f"page 0 of its {pages} is read, {others}"


def _turn_to(image: Image.Image, page: int, name: str) -> None:
    """The page, whose size is checked before any of it is decoded."""
    _check_size(name, *image.size)
    if page:
        image.seek(page)
        _check_size(name, *image.size)


def low_bytes(image: Image.Image, source: Path | BytesIO | None = None) -> Image.Image | None:
    """The lower eight bits of an image of colours with 16, of which Pillow keeps the upper eight; None of any other.

    Args:
        image: opened and not decoded yet, at the page that is wanted.
        source: where it was opened; by default its own file is read.
    """
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    if image.mode not in _COLOURS or not tiles or not all(_swapped(tile[3]) for tile in tiles):
        return None
    if any("LA;" in str(tile[3]) for tile in tiles):  # of these Pillow knows one order of bytes alone
        return Image.new(image.mode, image.size)
    with _opened(source or _whole(image), "the image") as again:
        if image.tell():
            again.seek(image.tell())
        again.tile = [_with_args(tile, _swapped(tile[3])) for tile in again.tile]
        again.load()
        return again.copy()


def _with_args(tile: Any, args: Any) -> Any:
    """A tile with other arguments for its decoder: a plain tuple before Pillow 11."""
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def _whole(image: Image.Image) -> BytesIO:
    """What the file of an open image holds."""
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    held = BytesIO(file.read())
    file.seek(place)
    return held


def _swapped(args: Any) -> Any:
    """How a decoder is told to take the other byte of two: their order, with which the name of pixels ends, is turned.

    None where they have not two.
    """
    raw = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    kind, order = str(raw)[:-1], str(raw)[-1:].replace("N", sys.byteorder[0].upper())
    if not kind.endswith(";16") or order not in ("B", "L"):
        return None
    other = kind + {"B": "L", "L": "B"}[order]
    return other if isinstance(args, str) else (other, *args[1:])


def _opened(source: Path | BytesIO, name: str) -> ImageFile.ImageFile:
    """The file with its header read, at its first page."""
    if isinstance(source, BytesIO):
        source.seek(0)
    try:
        return Image.open(source, formats=known_formats())
    except Image.DecompressionBombError as error:
        raise ImageLoadError(f"{name} {_too_large('')}") from error
    except UnidentifiedImageError as error:
        raise ImageLoadError(f"{name} {_what_it_is(source)}") from error
    except Exception as error:  # decoders raise whatever the damage leads to
        raise ImageLoadError(_damaged(name, error)) from error


def count(source: Path | BytesIO, name: str) -> int | None:
    """How many pages there are, of a TIFF up to MAX_PAGES; None if later ones are damaged.

    Opened for itself: damage leaves it at any page.
    """
    with quiet("PIL"):
        with _opened(source, name) as image:
            if image.format == "TIFF":
                with suppress(Exception):  # there are fewer, or they are damaged
                    image.seek(MAX_PAGES)
                    return MAX_PAGES
        with _opened(source, name) as image:
            try:
                return getattr(image, "n_frames", 1)
            except Exception:
                return None


def _page_number(name: str, page: int | None, pages: int | None) -> int:
    """The page that was asked for, from 0, if it is there or may be."""
    number = page or 0
    if pages is None:
        return max(number, 0)
    if not -pages <= number < pages:
        there = "one page, page 0" if pages == 1 else f"{pages} pages, 0 to {pages - 1}"
        raise ImageLoadError(f"{name} has {there}, got page={page}")
    return number % pages


def _check_size(name: str, width: int, height: int) -> None:
    """The size that the header promises, before any pixel is decoded."""
    if not width * height:
        raise ImageLoadError(f"{name} has no pixels ({width}x{height}): get the file again")
    if width * height > MAX_PIXELS:
        raise ImageLoadError(f"{name} {_too_large(f' ({width}x{height})')}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageLoadError(
            f"{name} is a strip of {width}x{height} pixels: cut it, one side may be {MAX_RATIO} times the other"
        )


def _too_large(size: str) -> str:
    return f"is enormous{size}: at most {MAX_PIXELS // 10**6} megapixels are decoded, make it smaller first"


def _damaged(name: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"cannot read {name}: {error.strerror}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name} is damaged or cut off ({reason}): get the file again"


def _what_it_is(source: Path | BytesIO) -> str:
    """Why Pillow knows no format for the file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            start = file.read(512)
    else:
        start = source.getvalue()[:512]
    if start.startswith(_MAGIC) or not start.strip(b"\0"):
        return "is damaged or cut off: get the file again"
    if start.startswith(_TIFF):
        return (
            "is a TIFF that is damaged, or of pixels that Pillow does not read, as floats of 64 bits or colours of 32: "
            "save it with greys of 16 bits, floats of 32, or colours of 8 or 16"
        )
    known = next((told for sign, (at, told) in _OTHERS.items() if start[at : at + len(sign)] == sign), None)
    if known:
        return f"is {known}"
    text = start.decode("utf-8", "ignore")
    if len(text) > len(start) / 2 and all(c.isprintable() or c.isspace() for c in text):
        return "is not an image but text, whatever its name says"
    return f"is not an image in a format that is known here: convert it to one of {', '.join(SUFFIXES)}"
