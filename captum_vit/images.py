"""Reading images in any form, also from files and folders that nobody has checked."""

import os
import re
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .checking import LONGEST
from .decoding import SUFFIXES, check_file, count, decode, first_of, low_bytes
from .errors import ImageLoadError, InputError, OptionError, brief
from .pixels import Read, Window, to_rgb
from .quiet import quiet

Picture = str | Path | Image.Image | np.ndarray | Tensor


class ImageNote(UserWarning):
    """What was decided about an image that leaves a choice: which page was read, what is black and what is white."""


def open_image(path: str | Path, *, page: int | None = None, window: Window | None = None) -> Image.Image:
    """The image in a file as 8-bit RGB, turned upright as its EXIF orientation says.

    >>> from captum_vit.images import open_image
    >>> open_image("photo.jpg").size
    (640, 480)

    Of a stack of computed tomography: `open_image("lung.tif", page=12, window=(-1000, 400))`.

    A transparent image loses its transparency. Where a file leaves a choice, an `ImageNote` warns of what was taken:
    of several pages the first; greys of more than 8 bits as `to_rgb` of `captum_vit.pixels` says.

    Args:
        path: of the file.
        page: which of several pages or frames, from 0; -1 is the last.
        window: the values that become black and white, for greys.
    Raises:
        ImageLoadError: there is no file, or it is a folder, empty, no image, damaged, too large to decode, without
            such a page, or of colours where a window was given.
        OptionError: a window that is none.
    """
    return _told(read_image(path, page=page, window=window), repr(str(path)))


def open_pages(path: str | Path, *, window: Window | None = None) -> list[Image.Image]:
    """All pages of a file in their order, or frames of an animation; of greys each has a range of its own, or `window`.

    Raises:
        ImageLoadError, OptionError: as `open_image`.
    """
    return [open_image(path, page=page, window=window) for page in range(count_pages(path))]


def count_pages(path: str | Path) -> int:
    """How many pages or frames the file of an image has.

    Raises:
        ImageLoadError: as `open_image`, or the pages after the first are damaged.
    """
    path = Path(path)
    check_file(path)
    pages = count(path, repr(str(path)))
    if pages is None:
        raise ImageLoadError(f"{str(path)!r} has pages that are damaged or cut off: name one by page=..., as page=0")
    return pages


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `open_image`, from what a file holds; `name` is what messages call it.

    Raises:
        ImageLoadError: no image, damaged, or too large to decode.
    """
    if not data:
        raise ImageLoadError(f"{name} is empty (0 bytes): get the file again")
    return _told(decode(BytesIO(data), name), name)


def read_image(picture: Picture, *, page: int | None = None, window: Window | None = None) -> Read:
    """A picture in any form as an upright RGB image, with notes of what was decided on the way.

    Args:
        picture: a path, a PIL image, an array or a tensor, as for `explain`.
        page, window: as for `open_image`; a page is for files.
    Raises:
        ImageLoadError, InputError, OptionError: as `open_image` and `to_image`.
    """
    if isinstance(picture, (str, Path)):
        if len(str(picture)) > LONGEST:
            raise ImageLoadError(f"no file can have the path {brief(str(picture))}")
        if re.match("[a-z][a-z0-9+.-]+:/", str(picture), re.IGNORECASE):
            raise ImageLoadError(f"{str(picture)!r} is a link, not a file: download the image first, and name the file")
        check_file(Path(picture))
        return decode(Path(picture), repr(str(picture)), page, window)
    return _of_pil(picture if isinstance(picture, Image.Image) else _of_array(picture), window)


def to_image(picture: Picture) -> Image.Image:
    """A picture in any form as an upright RGB image; an `ImageNote` warns as in `open_image`.

    Raises:
        ImageLoadError: a file that is none, or a PIL image whose file is damaged.
        InputError: an array or tensor of another shape or type, or an image without pixels.
    """
    return _told(read_image(picture), repr(str(picture)) if isinstance(picture, (str, Path)) else "the image")


def warn_of(notes: Iterable[str], name: str) -> None:
    """An `ImageNote` for each of the notes on the image of this name."""
    for note in notes:
        warnings.warn(f"{name}: {note}", ImageNote, stacklevel=4)


def _told(read: Read, name: str) -> Image.Image:
    warn_of(read.notes, name)
    return read.image


def _of_array(picture: object) -> Image.Image:
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
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)


def _of_pil(image: Image.Image, window: Window | None) -> Read:
    try:
        with quiet("PIL"):
            pages = _pages_of(image)
            read = to_rgb(image, window, low_bytes(image))
    except OptionError:
        raise
    except InputError as error:
        raise InputError(f"the image has {error}") from error
    except Exception as error:  # its file is decoded only here
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageLoadError(f"the PIL image is damaged or cut off ({reason}): get its file again") from error
    if pages == 1 or image.tell():
        return read
    return Read(read.image, (first_of(pages, "image.seek(1)"), *read.notes))


def _pages_of(image: Image.Image) -> int:
    """How many frames an open file has, of which the image is one; 1 where nobody can tell any more."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the others are damaged, or the file is closed
        return 1


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


def find_images(paths: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The files that `paths` stand for: files as given, folders as the images in them, sorted by name.

    A folder's own folders and hidden files are left out; a file that comes twice is taken once. Files are not opened.

    Args:
        paths: of files and folders.
        recursive: whether the folders in a folder are searched too, those that are hidden or links apart.
    Raises:
        ImageLoadError: a folder that cannot be read or holds no file with the suffix of an image.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for file in _images_in(path, recursive) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _images_in(folder: Path, recursive: bool) -> list[Path]:
    files: list[Path] = []
    below = False
    for inner, folders, names in os.walk(folder, onerror=_unreadable):
        images = [Path(inner, name) for name in names if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        folders[:] = [name for name in folders if name[0] != "."]
        if recursive or Path(inner) == folder:
            files += images
        elif images or files:
            below = bool(images)
            break  # whether there are any is all that is wanted of the folders below
    if not files:
        hint = "; there are some in folders below it: --recursive (recursive=True) takes these" if below else ""
        raise ImageLoadError(f"no images in the folder {str(folder)!r}: looked for {', '.join(SUFFIXES)}{hint}")
    return sorted(files)


def _unreadable(error: OSError) -> None:
    raise ImageLoadError(f"cannot read the folder {str(error.filename)!r}: {error.strerror}") from error
