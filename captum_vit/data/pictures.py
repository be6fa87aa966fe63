"""Photographs with what was annotated on them: orientation, masks and boxes.

A camera may store a photograph on its side and say so in EXIF. Items are upright. Nearly all tools annotate the stored
pixels, so masks and boxes are turned with the photograph; an annotation whose size fits the upright image alone was
made on that, and stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decoding import MAX_PIXELS, known_formats
from ..errors import DataError
from ..images import decode_image, open_image
from ..pixels import load
from ..quiet import quiet
from .base import Boxes, Mask

Labels = NDArray[np.generic]
Pixel = TypeVar("Pixel", bound=np.generic)

_ORIENTATION = 0x0112  # EXIF
_TURNS = {  # how stored pixels become upright: transposed first, then mirrored in x, then in y
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image, and how its stored pixels were turned.

    Attributes:
        image: RGB, upright.
        orientation: EXIF's, 1 to 8.
    """

    image: Image.Image
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) before turning."""
        width, height = self.image.size
        return (height, width) if _TURNS[self.orientation][0] else (width, height)

    def upright(self, mask: NDArray[Pixel]) -> NDArray[Pixel]:
        """A mask of the stored pixels (H, W) turned to the upright image.

        Raises:
            DataError: it is of another size.
        """
        height, width = mask.shape[:2]
        self.check_size((width, height))
        if (width, height) == self.stored_size:
            transposed, mirror_x, mirror_y = _TURNS[self.orientation]
            turned = mask.swapaxes(0, 1) if transposed else mask
            return np.ascontiguousarray(turned[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])
        return mask

    def check_size(self, size: tuple[int, int]) -> None:
        """That a mask of this (width, height) is one of the photograph, as it is stored or upright.

        Raises:
            DataError: it is of another size.
        """
        if size not in (self.stored_size, self.image.size):
            mask, stored = ("x".join(map(str, each)) for each in (size, self.stored_size))
            raise DataError(f"the mask is {mask} and its image {stored}: they have to be of the same size")

    def labels(self, source: Path | bytes, name: str = "") -> Labels:
        """The pixels of a mask of the photograph, as `read_labels` gives them, turned upright.

        Raises:
            DataError: as `read_labels`; or the mask is of another size, which is known before it is decoded.
        """
        return self.upright(read_labels(source, name, self))

    def upright_boxes(self, boxes: Iterable[Sequence[float]], drawn_on: tuple[int, int] | None = None) -> Boxes:
        """Boxes (n, 4) on the stored pixels turned to the upright image, and clipped to it.

        A box that lies outside or has no area is left out.

        Args:
            boxes: x1, y1, x2, y2, 0-based, the right and lower side not included.
            drawn_on: (width, height) of the image that the annotation speaks of, if it says so.
        Raises:
            DataError: a coordinate is no number, or the right side lies left of the left one.
        """
        found = np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
        if not np.isfinite(found).all() or (found[:, 2:] < found[:, :2]).any():
            raise DataError(f"a box is x1 <= x2 and y1 <= y2, got {found.tolist()}")
        width, height = self.image.size
        if self.stored_size == (width, height) or drawn_on != (width, height):
            transposed, mirror_x, mirror_y = _TURNS[self.orientation]
            found = found[:, [1, 0, 3, 2]] if transposed else found
            found = np.array([width, 0, width, 0]) + found[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] if mirror_x else found
            found = np.array([0, height, 0, height]) + found[:, [0, 3, 2, 1]] * [1, -1, 1, -1] if mirror_y else found
        found = found.clip(0, [width, height, width, height])
        return found[(found[:, 2:] > found[:, :2]).all(axis=1)]


def open_photo(source: Path | bytes, name: str = "") -> Photo:
    """An image upright.

    Args:
        source: a file, or the bytes of one.
        name: what an error calls the bytes.
    Raises:
        ImageLoadError: it cannot be read.
    """
    if isinstance(source, bytes):
        image = decode_image(source, repr(name))
        header: Path | BytesIO = BytesIO(source)
    else:
        image, header = open_image(source), source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        with Image.open(header, formats=known_formats()) as stored:
            orientation = stored.getexif().get(_ORIENTATION, 1)
    return Photo(image, orientation if orientation in _TURNS else 1)


def read_labels(source: Path | bytes, name: str = "", photo: Photo | None = None) -> Labels:
    """The pixels of a mask as they are stored: indices where there is a palette, 16 bits where there are 16.

    Args:
        source: a file, or the bytes of one.
        name: what an error calls it; by default the file's path.
        photo: that it is a mask of; of another size, it is not decoded.
    Returns:
        (H, W), or (H, W, channels) of an image with colours.
    Raises:
        DataError: no file, damaged, enormous, or of another size than the photograph.
    """
    name = name or str(source)
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"no mask {name!r}: the image has none")
    try:
        opened = BytesIO(source) if isinstance(source, bytes) else source
        with quiet("PIL"), Image.open(opened, formats=known_formats()) as image:  # it remarks on sizes
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"the mask {name!r} is enormous ({image.width}x{image.height})")
            if photo is not None:
                photo.check_size(image.size)
            load(image)
            return np.asarray(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"the mask {name!r} is enormous: {error}") from error
    except Exception as error:  # decoders raise whatever the damage leads to
        raise DataError(f"the mask {name!r} is no image, damaged or cut off: {error}") from error


def marked(labels: Labels, threshold: float = 0) -> Mask:
    """Which pixels of a mask belong to the object, bool (H, W): those above a threshold.

    Of a mask with colours, one channel above it is enough; a transparent pixel never counts.
    """
    if labels.ndim == 3 and labels.shape[2] in (2, 4):
        return marked(labels[..., :-1], threshold) & marked(labels[..., -1])
    above: Mask = np.greater(labels, threshold)
    return np.logical_or.reduce(above, axis=2) if above.ndim == 3 else above
