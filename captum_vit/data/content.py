"""What an item is by its content: hashes of what was read."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from .base import Item

DIGITS = 32  # of a hash; 128 bits


def content(item: Item) -> str:
    """What was read of an item: a hash of its image, a hyphen, and a hash of its class and annotation.

    The image counts pixel by pixel, as it was decoded: a decoder that gives other pixels gives another item.
    """
    image, told = sha256(), sha256(repr(item.target).encode())
    image.update(_told(np.asarray(item.image)))
    for array in (item.masks, item.boxes, item.valid, item.corners):
        told.update(b"none" if array is None else _told(array))
    return f"{image.hexdigest()[:DIGITS]}-{told.hexdigest()[:DIGITS]}"


def difference(there: str, now: str) -> str:
    """What of an item is another, by two of its contents: "image", "annotation" or "image and annotation"."""
    parts = zip(("image", "annotation"), there.partition("-")[::2], now.partition("-")[::2], strict=True)
    return " and ".join(name for name, one, other in parts if one != other)


def _told(array: np.ndarray) -> bytes:
    return f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
