"""Readers of published data sets. Each item is a question: an image, a class, and the class's mask or boxes in it.

Packages beyond the core's are imported only when a data set is opened that needs them.
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
