"""Readers of published data sets: one row a question, an image and a class, with its mask or boxes.

Nothing here needs a package beyond the core's until a data set is opened that does.
"""

from .base import IndexedReader, Item, Reader, Row
from .opening import KINDS, READERS, open_data
from .pictures import Photo, marked, open_photo, read_labels

__all__ = [
    "KINDS",
    "READERS",
    "IndexedReader",
    "Item",
    "Photo",
    "Reader",
    "Row",
    "marked",
    "open_data",
    "open_photo",
    "read_labels",
]
