"""Pictures in the 256 colours of a GIF, so that a map can still be read by its colours."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

CELLS = 128**3  # that colours are counted in, 2 x 2 x 2 each
PLACES = [(np.arange(256) >> 1 << bits).astype(np.uint32) for bits in (14, 7, 0)]  # of red, green and blue in them
AT_ONCE = 4096  # colours whose nearest are looked up, 4 MiB


def indexed(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames of one palette for all, without dither, so that what stands still in them does not flicker.

    >>> from captum_vit.explanation.indexing import indexed
    >>> [frame.mode for frame in indexed([photo])]
    ['P']

    Where there are few colours each comes out within 1 of 255. Each is looked up here, since Pillow looks up 4 x 4 x 4
    of them at once, by which maps are read wrong.

    Args:
        frames: RGB, all of one size.
    """
    counts = np.zeros(CELLS, np.int64)
    for frame in frames:
        counts += np.bincount(_cells(frame).ravel(), minlength=CELLS)
    found = np.flatnonzero(counts)
    palette = _palette(_colours(found), counts[found])
    nearest = np.zeros(CELLS, np.uint8)
    for part in np.array_split(found, 1 + len(found) // AT_ONCE):
        nearest[part] = (np.square(palette).sum(1) - 2 * _colours(part) @ palette.T).argmin(1)
    drawn = []
    for frame in frames:
        drawn.append(Image.fromarray(nearest[_cells(frame)]))
        drawn[-1].putpalette(palette.astype(np.uint8).tobytes())
    return drawn


def _palette(colours: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Up to 255 of these colours, which leaves one for "as in the frame before".

    First the one that is seen most, then again and again the one that is served worst: the square of how far it is from
    all that are there, times the cube root of its pixels. Counted one by one, the few patches with evidence would lose
    the bright colours that they are looked at for.
    """
    weights, chosen = np.cbrt(counts), [int(counts.argmax())]
    off = np.square(colours - colours[chosen]).sum(1)
    while len(chosen) < 255 and off.any():
        chosen.append(int((off * weights).argmax()))
        off = np.minimum(off, np.square(colours - colours[chosen[-1]]).sum(1))
    return colours[chosen]


def _cells(frame: Image.Image) -> np.ndarray:
    """The number of the cell that each pixel's colour lies in, (height, width)."""
    red, green, blue = (place[np.asarray(channel)] for place, channel in zip(PLACES, frame.split(), strict=True))
    return red | green | blue


def _colours(cells: np.ndarray) -> np.ndarray:
    """The colour, of whole numbers, that stands for each cell, (cells, 3); from black to white."""
    parts = np.stack([cells >> 14, cells >> 7 & 127, cells & 127], 1)
    return np.round(parts * np.float32(255 / 127)).astype(np.float32)
