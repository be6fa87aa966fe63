"""Reading images in any form, also from files and folders that nobody has checked."""

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import ImageLoadError, InputError
from .quiet import quiet

Picture = str | Path | Image.Image | np.ndarray | Tensor

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow would run Ghostscript for others
MAX_PIXELS = 150_000_000  # half a gigabyte as RGB; below the limit at which Pillow itself refuses
MAX_RATIO = 100  # a preprocessing that keeps proportions blows a longer strip up to any size
_MAGIC = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def open_image(path: str | Path) -> Image.Image:
    """The image in a file as RGB, turned upright as its EXIF orientation says; of an animation the first frame.

    16-bit greys are brought to 8 bits. A transparent image loses its alpha channel.

    Raises:
        ImageLoadError: there is no file, or it is a folder, empty, no image, damaged, or too large to decode.
    """
    path = Path(path)
    _check_file(path)
    return _decode(path, repr(str(path)))


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `open_image`, from what a file holds; `name` is what messages call it.

    Raises:
        ImageLoadError: no image, damaged, or too large to decode.
    """
    if not data:
        raise ImageLoadError(f"{name} is empty (0 bytes): get the file again")
    return _decode(BytesIO(data), name)


def to_image(picture: Picture) -> Image.Image:
    """A picture in any form as an upright RGB image.

    Raises:
        ImageLoadError: a file that is none, or a PIL image whose file is damaged.
        InputError: an array or tensor of another shape or type, or floating-point pixels.
    """
    if isinstance(picture, (str, Path)):
        return open_image(picture)
    if isinstance(picture, Image.Image):
        return _of_pil(picture)
    if (
        isinstance(picture, Tensor)
        and picture.dtype == torch.uint8
        and picture.dim() == 3
        and len(picture) in (1, 3, 4)
    ):
        pixels = picture.permute(1, 2, 0).cpu().numpy()
    elif (
        isinstance(picture, np.ndarray)
        and picture.dtype == np.uint8
        and (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 3, 4)))
    ):
        pixels = picture
    else:
        raise InputError(_no_image(picture))
    if not pixels.size:
        raise InputError(f"an image has pixels, got {_described(picture)}")
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels).convert("RGB")


def _of_pil(image: Image.Image) -> Image.Image:
    try:
        with quiet("PIL"):
            return _to_rgb(image)
    except InputError as error:
        raise InputError(f"the image has {error}") from error
    except Exception as error:  # its file is decoded only here
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageLoadError(f"the PIL image is damaged or cut off ({reason}): get its file again") from error


def _no_image(picture: object) -> str:
    """Why an object is taken for no image, and what to do."""
    advice = ""
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8:
        advice = "; tensors are channels first"
        if picture.dim() == 3 and picture.shape[2] in (1, 3, 4):
            advice += ": pass tensor.permute(2, 0, 1)"
    elif isinstance(picture, np.ndarray) and picture.dtype == bool:
        advice = "; make black and white of a mask by array.astype('uint8') * 255"
    elif isinstance(picture, np.ndarray) and picture.dtype.kind == "f":
        advice = "; make uint8 of values in 0..1 by (array * 255).round().astype('uint8')"
    elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[:1] in ((1,), (3,)):
        advice = "; arrays are channels last: pass array.transpose(1, 2, 0)" if picture.ndim == 3 else ""
    return (
        f"an image is a path, a PIL image, a uint8 array (H, W) or (H, W, 3), a uint8 tensor (3, H, W) or a "
        f"preprocessed tensor of floats (C, H, W), got {_described(picture)}{advice}"
    )


def _described(picture: object) -> str:
    if isinstance(picture, (np.ndarray, Tensor)):
        return f"{picture.dtype} of shape {tuple(picture.shape)}"
    return type(picture).__name__


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `paths` stand for: files as given, folders as the images in them, sorted by name.

    A folder's own folders and hidden files are left out; a file that comes twice is taken once. Files are not opened.

    Raises:
        ImageLoadError: a folder that cannot be read or holds no file with the suffix of an image.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for file in _images_in(path) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _images_in(folder: Path) -> list[Path]:
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        files = [p for p in files if not p.is_dir()]
    except OSError as error:
        raise ImageLoadError(f"cannot read the folder {str(folder)!r}: {error.strerror}") from error
    if not files:
        raise ImageLoadError(f"no images in the folder {str(folder)!r}: looked for {', '.join(SUFFIXES)}")
    return files


@cache
def known_formats() -> list[str]:
    """The formats that this build of Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise ImageLoadError(f"{str(path)!r} is a folder, not an image: name the files in it")
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


def _decode(source: Path | BytesIO, name: str) -> Image.Image:
    with quiet("PIL"):  # it remarks on odd metadata; sizes are checked here
        try:
            image = Image.open(source, formats=known_formats())
        except Image.DecompressionBombError as error:
            raise ImageLoadError(f"{name} {_too_large('')}") from error
        except UnidentifiedImageError as error:
            raise ImageLoadError(f"{name} {_what_it_is(source)}") from error
        except Exception as error:  # decoders raise whatever the damage leads to
            raise ImageLoadError(_damaged(name, error)) from error
        with image:
            _check_size(name, *image.size)
            try:
                return _to_rgb(image)
            except InputError as error:
                raise ImageLoadError(f"{name} has {error}") from error
            except Exception as error:
                raise ImageLoadError(_damaged(name, error)) from error


def _check_size(name: str, width: int, height: int) -> None:
    """The size that the header promises, before any pixel is decoded."""
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
    text = start.decode("utf-8", "ignore")
    if len(text) > len(start) / 2 and all(c.isprintable() or c.isspace() for c in text):
        return "is not an image but text, whatever its name says"
    return f"is not an image in a format that is known here: convert it to one of {', '.join(SUFFIXES)}"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Upright, whatever the mode, read from a file or not; InputError if its range is unknown."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255 instead of scaling them
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if image.mode == "F":
        raise InputError("floating-point pixels of unknown range: save it with 8 or 16 bits")
    if image.mode == "P":  # a palette may come with transparency of its own
        image = image.convert("RGBA")
    return image.convert("RGB")
