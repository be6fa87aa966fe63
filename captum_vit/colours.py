"""How values become colours: what pictures, figures, animations, pages and the pipeline all read."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .checking import check_flag, check_number
from .errors import OptionError, brief

Values = Tensor | np.ndarray
Own = Literal["own", "common"]

CMAP = "plasma"  # even steps
SIGNED_CMAP = "blue-orange"  # of this library: bright on both sides of a dark grey, see `palette`
SIGNS = "orange for, blue against"
NEARLY_FLAT = "nearly flat"
FLAT = 0.25  # of the greatest value: a map whose values differ by no more is nearly flat
ROUNDING = 1e-6  # of the greatest value, that a map without a sign may fall below 0
STEEPNESS = 2.5  # of the curve that boosts faint values: DAAM's sigmoid(5 x) is (1 + tanh(2.5 x)) / 2

# At even steps of OKLab from blue over dark grey to orange; both ends have a lightness of 0.79.
_BLUE = ((78, 202, 255), (75, 159, 197), (68, 119, 142), (58, 80, 91))
_ORANGE = ((92, 73, 52), (143, 103, 56), (198, 134, 53), (255, 166, 38))
_BLUE_ORANGE = (*_BLUE, (44, 44, 44), *_ORANGE)


@dataclass(frozen=True)
class Look:
    """How maps are painted, the same in pictures, figures, animations, pages and the pipeline.

    >>> explanation.overlay(Look(boost_faint=True, threshold=0.3)).size
    (640, 480)

    Shares are of the way from the lowest to the highest colour; with two signs, of the way from 0 to either end.

    scale: what the colours span. "own": each map from its own lowest to its own highest value. "common": one scale for
        all maps that a method gives of an image, targets and blocks. Or (low, high), values of the lowest and the
        highest colour, as to compare several images. With two signs, both sides of 0 reach as far as the longer one.
    boost_faint: whether the curve tanh(2.5 x) / tanh(2.5) lifts faint values; of a map whose lowest value is 0 it is
        the sigmoid of DAAM's published pictures.
    cmap: name of a matplotlib colour map; None takes plasma, or for two signs `palette`'s "blue-orange".
    alpha: opacity of the strongest colour, 0 to 1.
    fade: whether the opacity follows the value, so that the photograph stays readable where a map says little;
        otherwise it is `alpha` everywhere.
    threshold: share, 0 to 1, below which the photograph stays bare.
    contour: share, 0 to 1, at which a line is drawn; None draws none.

    Raises:
        OptionError: a value that is none of these.
    """

    scale: Own | tuple[float, float] = "own"
    boost_faint: bool = False
    cmap: str | None = None
    alpha: float = 0.8
    fade: bool = True
    threshold: float = 0.0
    contour: float | None = None

    def __post_init__(self) -> None:
        for name in ("boost_faint", "fade"):
            check_flag(name, getattr(self, name))
        for name in ("alpha", "threshold", "contour"):
            if getattr(self, name) is not None or name != "contour":
                check_number(name, getattr(self, name), 0, 1)
        if not isinstance(self.cmap, str | None):
            raise OptionError(f"a colour map is a name of matplotlib's, as {CMAP!r}, got {brief(self.cmap)}")
        if self.cmap is not None:
            palette(self.cmap)
        if not isinstance(self.scale, str):
            object.__setattr__(self, "scale", _ends(self.scale))
        elif self.scale not in get_args(Own):
            raise OptionError(f'scale must be "own", "common" or (low, high), got {brief(self.scale)}')

    def spanning(self, own: Values, every: Iterable[Values], signed: bool | None = None) -> "Scale":
        """The scale of a map `own` that stands among `every` map of its kind."""
        if isinstance(self.scale, tuple):
            return Scale.between(*self.scale, two_signs(own) if signed is None else signed)
        return Scale.of([own] if self.scale == "own" else every, signed)

    def table(self, signed: bool) -> np.ndarray:
        """Colour and opacity of each level, uint8 (256, 4): from the lowest to the highest, of two signs 0 at 128."""
        places, levels = _places(signed), np.arange(256.0)
        if self.boost_faint:
            places = np.tanh(STEEPNESS * places) / np.tanh(STEEPNESS)
            levels = 128 + 127 * places if signed else 255 * places
        opacity = np.abs(places) if self.fade else np.ones(256)
        opacity = np.where(strengths(signed) >= 255 * self.threshold, 255 * self.alpha * opacity, 0)
        colours = palette(self.cmap or (SIGNED_CMAP if signed else CMAP))[levels.round().astype(np.uint8)]
        return np.concatenate([colours, opacity.round().astype(np.uint8)[:, None]], 1)

    def on_grey(self, signed: bool) -> np.ndarray:
        """The colours of `table` as they look on mid grey, (256, 3) in 0..1."""
        table = self.table(signed) / 255
        return table[:, :3] * table[:, 3:] + (1 - table[:, 3:]) / 2

    def inside(self, signed: bool) -> np.ndarray | None:
        """Of each level whether it lies within the contour, bool (256,); None without one."""
        return None if self.contour is None else strengths(signed) >= 255 * self.contour


@dataclass(frozen=True)
class Scale:
    """What the lowest and the highest colour stand for, linear between; with two signs as far below 0 as above."""

    low: float
    high: float
    signed: bool = False

    @classmethod
    def of(cls, maps: Iterable[Values], signed: bool | None = None) -> "Scale":
        """From the least to the greatest value of maps that share a scale.

        It spans at least a quarter of the greatest value: what varies less is nearly flat, and stays in the lower
        colours. `signed` says whether values below 0 are evidence against; None lets the values decide.
        """
        ends = [_least_and_greatest(each) for each in maps]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        if signed is None:
            signed = -low > ROUNDING * abs(high)
        if not signed and -ROUNDING * abs(high) <= low < 0:
            low = 0.0
        widest = max(high - low, FLAT * max(abs(low), abs(high)))
        return cls.between(low, low + widest if widest > high - low else high, signed)

    @classmethod
    def between(cls, low: float, high: float, signed: bool = False) -> "Scale":
        """From one value to another; with two signs as far below 0 as above. Nothing but 0 spans 1."""
        largest = max(abs(low), abs(high)) or 1.0
        return cls(-largest, largest, True) if signed else cls(low, high if high > low else low + largest)

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Values as uint8, from 0, the lowest colour or less, to 255; of two signs 128 stands for 0."""
        shares = (values - self.low) / (self.high - self.low)
        return (255 * shares.clip(0, 1) + 0.5).astype(np.uint8)


LOOK = Look()


def check_look(value: object) -> None:
    """Raise OptionError unless a value says how maps are painted."""
    if not isinstance(value, Look):
        raise OptionError(f"look must be a captum_vit.Look, as Look(alpha=0.5), got {brief(value)}")


def two_signs(values: Values) -> bool:
    """Whether there is evidence against in a map: a value below 0, by more than rounding."""
    low, high = _least_and_greatest(values)
    return -low > ROUNDING * abs(high)


def nearly_flat(values: Values) -> bool:
    """Whether a map's values differ by no more than a quarter of the greatest: it marks everything nearly alike."""
    low, high = _least_and_greatest(values)
    return high - low <= FLAT * max(abs(low), abs(high))


def strengths(signed: bool) -> np.ndarray:
    """Of each level its share of the way to the end of the colours, uint8 (256,), 255 at the end."""
    return (255 * np.abs(_places(signed))).round().astype(np.uint8)


@cache
def palette(cmap: str) -> np.ndarray:
    """The 256 colours of a colour map, uint8 (256, 3).

    Beside matplotlib's there is "blue-orange" for maps with two signs. It is dark grey in the middle, so that it
    differs from the pale part that the model never saw; both arms are even steps of OKLab to one brightness, in hues
    that colour-blind people tell apart.

    Raises:
        OptionError: there is no such map.
    """
    if cmap == SIGNED_CMAP:
        stops = np.linspace(-1, 1, len(_BLUE_ORANGE))
        found = [np.interp(_places(True), stops, channel) for channel in zip(*_BLUE_ORANGE, strict=True)]
        return np.stack(found, 1).round().astype("u1")
    from matplotlib import colormaps  # slow to import, and not every command draws

    if cmap not in colormaps:
        raise OptionError(
            f"matplotlib has no colour map {brief(cmap)}; perceptually even ones: plasma, viridis, cividis"
        )
    return colormaps[cmap](np.linspace(0, 1, 256), bytes=True)[:, :3]


def _places(signed: bool) -> np.ndarray:
    """Of each level its place among the colours: 0 to 1, of two signs -1 to 1 with 0 at level 128."""
    return ((np.arange(256) - 128) / 127).clip(-1, 1) if signed else np.arange(256) / 255


def _least_and_greatest(values: Values) -> tuple[float, float]:
    low, high = torch.as_tensor(values).aminmax()
    return float(low), float(high)


def _ends(given: object) -> tuple[float, float]:
    """The values of the lowest and the highest colour, checked."""
    try:
        low, high = (float(end) for end in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise OptionError(f'scale must be "own", "common" or (low, high), got {brief(given)}') from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise OptionError(f"scale must go from a lower to a higher finite value, got ({low:g}, {high:g})")
    return low, high
