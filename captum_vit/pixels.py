"""From the pixels of a file, of whatever kind, to the 8 bits of red, green and blue that models are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from .errors import InputError, OptionError

Window = tuple[float, float]  # the values that become black and white

BITS = (8, 10, 12, 14, 16)  # of cameras, scanners and microscopes, which all write 16
_ORIENTATION = 0x0112  # EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEPTH, _SAMPLE_FORMAT, _NO_DATA = 258, 339, 42113  # tags of TIFF, the last one GDAL's
_UNSIGNED, _SIGNED = 1, 2
RUNS = 3  # Z_RLE of zlib, which Python names from 3.14 on
_BAND = 2**22  # pixels that are computed at once


class Read(NamedTuple):
    """An image as it is shown to models, upright and RGB, and what was decided on the way, in words."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def to_rgb(image: Image.Image, window: Window | None = None, low: Image.Image | None = None) -> Read:
    """An image of any mode upright in 8 bits, read from a file or not; nothing but its pixels is left of it.

    Values of more than 8 bits have no black and white of their own. Whole numbers from 0 to 65535 are taken for the
    least of 8, 10, 12, 14 or 16 bits that holds them all, in greys as in colours; floating-point values that lie in
    0..1 or 0..255 for just that; all other greys are stretched from their least to their greatest value. Whatever is
    not plain 16 bits is noted.

    Args:
        image: any.
        window: the values that become black and white, for an image of greys.
        low: the lower eight bits of colours with 16, of which `image` has the upper eight.
    Raises:
        InputError: no pixels, no finite value among them, or a window for an image of colours.
        OptionError: a window that is none.
    """
    if not min(image.size):
        raise InputError(f"no pixels ({image.width}x{image.height})")
    load(image)  # of a TIFF the orientation is known only after that
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode[0] in "IF" or (image.mode == "L" and (window is not None or _form(image) == _SIGNED)):
        drawn, notes = _greys(image, None if window is None else checked_window(window))
    elif window is not None:
        raise InputError(f"colours or a palette (mode {image.mode}), and a window is for greys: read it without one")
    else:
        drawn, notes = _colours(image) if low is None else _deep_colours(image, low)
    upright = drawn if turn is None else drawn.transpose(turn)
    upright.info = {}  # Pillow may have given it a profile
    return Read(upright, notes)


def load(image: Image.Image) -> None:
    """Read the pixels of an opened file; a TIFF Pillow turns upright itself.

    A plain TIFF Pillow would map into memory, in the size that it has upright: where it lies on its side, each row
    would go on in the next one. It maps nothing of a file without a name.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def png(image: Image.Image) -> bytes:
    """The file of a picture, without loss.

    Of photographs and maps, whose rows Pillow filters, runs are all that zlib finds with profit: looking for other
    repetitions takes 4 to 5 times as long for files of the same size.
    """
    data = BytesIO()
    image.save(data, "PNG", compress_type=RUNS)
    return data.getvalue()


def checked_window(window: Sequence[float]) -> Window:
    """The window, if it is two finite numbers, the lower first.

    Raises:
        OptionError: it is not.
    """
    values = tuple(window) if isinstance(window, Sequence) and not isinstance(window, str) else ()
    fits = len(values) == 2 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    if not fits or not values[0] < values[1]:
        raise OptionError(
            f"a window is the value of black and that of white, (low, high) with low < high, got {window!r}"
        )
    return float(values[0]), float(values[1])


def _orientation(image: Image.Image) -> int:
    """As EXIF says it; 1 where it cannot be read, since broken words are no obstacle to whole pixels."""
    with suppress(Exception):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _colours(image: Image.Image) -> Read:
    """Without what is transparent: its stored colour stays."""
    drawn = image.copy()
    drawn.info = {}  # a transparent colour or a profile of the old mode would follow the pixels into the new one
    by = {"P": "RGBA", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}.get(drawn.mode)
    if by is not None:
        drawn = drawn.convert(by)
    return Read(drawn if drawn.mode == "RGB" else drawn.convert("RGB"))


def _deep_colours(image: Image.Image, low: Image.Image) -> Read:
    """Colours of 16 bits, which cameras and microscopes fill with less."""
    channels = 1 if image.mode == "LA" else 3
    upper, lower = (np.asarray(half)[..., :channels] for half in (image, low))
    greatest = 256 * int(upper.max()) + int(lower[upper == upper.max()].max())
    bits, notes = _bits(greatest)
    if bits == BITS[-1]:
        return _colours(image)
    levels = (np.arange(2**bits) * (255 / (2**bits - 1))).round().astype(np.uint8)
    drawn = Image.fromarray(levels[256 * upper.astype(np.uint16) + lower].repeat(3 // channels, 2))
    return Read(drawn, notes)


def _greys(image: Image.Image, window: Window | None) -> Read:
    values, missing = _values(image), _without_value(image)
    low, high, notes = _range(values, missing) if window is None else (*window, [])
    drawn = np.empty(values.shape, np.uint8)
    lost = 0
    for rows in _bands(values):
        band = values[rows].astype(np.float64)
        empty = np.isnan(band) | (band == missing)
        share = (band.clip(low, high) - low) / ((high - low) or 1)
        drawn[rows] = np.where(empty, 0, 255 * share).round()
        lost += np.count_nonzero(empty)
    if lost:
        notes = [*notes, f"{lost} of its {values.size} pixels hold no number and are black"]
    return Read(Image.fromarray(drawn).convert("RGB"), tuple(notes))


def _values(image: Image.Image) -> np.ndarray:
    """The stored numbers, (height, width)."""
    values = np.asarray(image)
    if image.mode == "L" and _form(image) == _SIGNED:
        return values.view(np.int8)  # Pillow has no mode for these,
    if image.mode == "I" and _form(image) == _UNSIGNED and _tag(image, _DEPTH) == (32,):
        return values.view(np.uint32)  # nor for these
    return values


def _form(image: Image.Image) -> int:
    """What the numbers of a TIFF are; 0 of another file, which says nothing of it."""
    return int(_tag(image, _SAMPLE_FORMAT, (_UNSIGNED,))[0]) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0


def _tag(image: Image.Image, number: int, default: Any = ()) -> Any:
    return getattr(image, "tag_v2", {}).get(number, default)


def _without_value(image: Image.Image) -> float:
    """The number that stands for "nothing was measured here", as GDAL writes it; NaN if there is none."""
    with suppress(Exception):
        return float(str(_tag(image, _NO_DATA)).strip("\0 "))
    return math.nan


def _range(values: np.ndarray, missing: float) -> tuple[float, float, list[str]]:
    """The values of black and white, and how they were found."""
    low, high = _ends(values, missing)
    whole = values.dtype.kind in "iu"
    otherwise = "a window of two values would say otherwise"
    if whole and low >= 0 and high < 2 ** BITS[-1]:
        bits, notes = _bits(round(high))
        return 0, 2**bits - 1, [f"{note}; {otherwise}" for note in notes]
    kind = "values" if whole else "floating-point values"
    white = next((top for top in (1, 255) if low >= 0 and high <= top), None)
    if white is not None and not whole:
        return 0, white, [f"its {kind} lie in 0..{white}: 0 is black, {white} is white; {otherwise}"]
    if low == high:
        return low, high, [f"its {kind} are all {low:.6g}, which is black; {otherwise}"]
    return low, high, [f"its {kind} go from {low:.6g}, which is black, to {high:.6g}, which is white; {otherwise}"]


def _bits(greatest: int) -> tuple[int, tuple[str, ...]]:
    """How many bits the values of an image have, of which 16 are stored, and what there is to tell of it."""
    bits = next(b for b in BITS if greatest < 2**b)
    told = f"its greatest value is {greatest}: read as {bits} bits, {2**bits - 1} is white"
    return bits, (told,) * (greatest > 0 and bits < BITS[-1])


def _ends(values: np.ndarray, missing: float) -> tuple[float, float]:
    """The least and the greatest finite value."""
    low, high = math.inf, -math.inf
    for rows in _bands(values):
        band = values[rows]
        found = band[np.isfinite(band) & (band != missing)]
        if found.size:
            low, high = min(low, float(found.min())), max(high, float(found.max()))
    if low > high:
        raise InputError("no finite value among its pixels: there is nothing to show")
    return low, high


def _bands(values: np.ndarray) -> list[slice]:
    """A large image in parts, of which copies may be made."""
    step = max(1, _BAND // values.shape[1])
    return [slice(top, top + step) for top in range(0, len(values), step)]
