"""ImageNet-Segmentation, the file gtsegs_ijcv.mat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..decoding import MAX_PIXELS
from ..errors import DataError
from .base import IndexedReader, Item, Row, imported, wrong_layout

_HOLDS = "the file gtsegs_ijcv.mat, a MATLAB 7.3 file with value/img and value/gt in it"


class ImageNetSegmentation(IndexedReader):
    """ImageNet-Segmentation (Guillaumin et al. 2014, IJCV), read as the evaluation of Chefer et al. 2021 reads it.

    One row an image, its number from 00000 the id. The file does not number ImageNet's classes: target is None, and
    the predicted class is what that evaluation explains. The mask is where the first segmentation is not 0. The file
    is opened for each item, so that no handle crosses from one process into another.

    Args:
        root: the file.
    """

    kind = "imagenet-segmentation"

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)

    def list_rows(self) -> list[Row]:
        h5py = imported("h5py", "h5py")
        if not self.path.is_file():
            raise wrong_layout(self.kind, self.root, "no file", _HOLDS)
        try:
            with h5py.File(self.path, "r") as file:
                images, masks = len(file["value/img"]), len(file["value/gt"])
        except (OSError, KeyError, TypeError) as error:
            raise DataError(f"{self.root!r} is not {_HOLDS}: {error}") from error
        if images != masks:
            raise DataError(f"{self.root!r} has {images} images and {masks} masks: get the file again")
        return [Row(f"{number:05d}", source=number) for number in range(images)]

    def files(self, row: Row) -> list[Path]:
        return [self.path]

    def read(self, row: Row) -> Item:
        with imported("h5py", "h5py").File(self.path, "r") as file:
            pixels = _read(file[file["value/img"][row.source, 0]])
            mask = _read(file[file[file["value/gt"][row.source, 0]][0, 0]]) != 0
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        if mask.shape != (image.height, image.width):
            raise DataError(f"the mask of {row.id!r} is {mask.shape[::-1]} and its image {image.size}")
        return Item(row.id, image, None, np.ascontiguousarray(mask))


def _read(stored: Any) -> np.ndarray:
    """An array turned as images are: MATLAB writes (3, W, H), or (W, H) of a grey one."""
    if stored.ndim not in (2, 3) or stored.size > 3 * MAX_PIXELS or stored.dtype.kind not in "biuf":
        raise DataError(f"an array of shape {stored.shape} of {stored.dtype} is no image or mask")
    return np.asarray(stored).T
