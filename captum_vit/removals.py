"""What a score is without any part of a picture, estimated from removals that were measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import InputError

MOST_REGIONS = 8  # each way
FEWEST = 10  # brush strokes that are held out: of fewer no error is told
LINEAR, CURVED = (1e-6, 1e-2, 1.0, 5.0), (1e-4, 1e-2, 1e-1)  # how far measured scores need not be met
REACHES = (0.25, 0.5, 1.0)  # of the distance between nothing and everything removed
HIGHEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Surrogate:
    """How a score is estimated, and by how much that was wrong of brush strokes that it had not seen.

    Of a removal that takes the share x_r of each region r away, x^(m) being the measured ones,
    `value = base + sum_r coefficients_r x_r + sum_m weights_m exp(-|x - x^(m)|^2 / (2 reach^2))`.

    coefficients: one for each region.
    weights: one for each measured removal.
    reach: how far from a measured removal it still corrects the sum.
    error: the median of what it was wrong by, in the unit of the score: 0.01 of a class is one point.
    error_90: what nine of ten strokes were wrong by at most, in the same unit.
    spread: the same of the values, which are log-odds of a class: see `Removals.between`.
    """

    coefficients: tuple[float, ...]
    weights: tuple[float, ...]
    reach: float
    error: float
    error_90: float
    spread: float


@dataclass(frozen=True, eq=False)
class Removals:
    """Scores of an image without some of its patches: measured ones, and from them those of any others.

    >>> found = explain("photo.jpg", "sample", removals=True)
    >>> removals = next(iter(found.removals.values()))
    >>> left = torch.zeros(found.grid, dtype=torch.bool)
    >>> left[:, : found.grid[1] // 2] = True  # the left half
    >>> score, (low, high) = removals.score_without(left), removals.between(left)
    >>> 0 <= low <= score <= high <= 1, removals.estimate.error <= removals.estimate.error_90
    (True, True)

    A score that was measured is told as it was. Any other is estimated: the picture is cut into at most 8 x 8 regions
    of whole patches, and a sum over the regions, bent towards the measured removals, is fitted to these. How it is
    fitted is chosen, and how wrong it is told, by leaving each brush stroke out in turn. That holds of strokes as a
    brush makes them, up to six tenths of the picture; of scattered patches it may be worse.

    removed: which patches were taken away, bool (M, rows, cols), nothing first.
    values: what was measured of each, (M,) float64: of a class the log-odds of its score, else the number itself.
    odds: whether these are log-odds.
    unit: what the score is, as of a Label.
    painted: whether patches were painted over in the picture's mean colour, where the model takes no part of them.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or fewer than 10 strokes.
    """

    removed: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    odds: bool
    unit: str = "score"
    painted: bool = False

    def __post_init__(self) -> None:
        kinds = self.removed.dtype, self.removed.dim(), self.values.shape
        if kinds != (torch.bool, 3, self.removed.shape[:1]) or not self.removed.numel() or self.removed[0].any():
            found = f"{self.removed.dtype} {tuple(self.removed.shape)} and {tuple(self.values.shape)}"
            raise InputError(f"expected removals bool (M, rows, cols), nothing first, and M values, got {found}")
        if not (self.values.abs() <= HIGHEST).all():
            raise InputError("the scores without some patches are not finite")
        if int(self._strokes.sum()) < FEWEST:
            rows, cols = self.grid
            raise InputError(
                f"expected at least {FEWEST} removals beside single regions, got {int(self._strokes.sum())}: "
                f"{rows}x{cols} patches may be too few to take some away"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        return self.removed.shape[1], self.removed.shape[2]

    @property
    def regions(self) -> tuple[int, int]:
        """Regions as (rows, columns): the patch in row i lies in region row `i * regions // rows`."""
        return regions_of(self.grid)

    @property
    def base(self) -> float:
        """The score of the whole picture."""
        return self._score(float(self.values[0]))

    def score_without(self, patches: Tensor) -> float:
        """The score without these patches, bool (rows, cols): as it was measured, otherwise estimated."""
        return self._score(self._value(patches))

    def between(self, patches: Tensor) -> tuple[float, float]:
        """From where to where the score lies in about nine of ten cases; of a measured one both are the score."""
        value, spread = self._value(patches), 0.0 if self.measured(patches) else self.estimate.spread
        return self._score(value - spread), self._score(value + spread)

    def measured(self, patches: Tensor) -> bool:
        """Whether the score without these patches was measured."""
        return self._place(patches) is not None

    @cached_property
    def estimate(self) -> Surrogate:
        """How the others are estimated."""
        return _fitted(self._shares, self.values.double(), self._strokes, self._scored)

    def to_dict(self) -> dict[str, Any]:
        """All of it in words, numbers and lists of them, as a page needs it and as it is saved.

        A removal is a word of hexadecimal digits, each of four patches in reading order, the first of them 8.
        """
        known = self.estimate
        return {
            "grid": list(self.grid),
            "regions": list(self.regions),
            "removed": [packed(each) for each in self.removed],
            "values": self.values.tolist(),
            "odds": self.odds,
            "unit": self.unit,
            "painted": self.painted,
            "coefficients": list(known.coefficients),
            "weights": list(known.weights),
            "reach": known.reach,
            "error": known.error,
            "error_90": known.error_90,
            "spread": known.spread,
        }

    def _value(self, patches: Tensor) -> float:
        place = self._place(patches)
        if place is not None:
            return float(self.values[place])
        known, shares = self.estimate, shares_of(patches[None])
        near = (-(self._shares - shares).square().sum(1) / (2 * known.reach**2)).exp()
        total = shares[0] @ torch.tensor(known.coefficients, dtype=torch.float64)
        return float(self.values[0] + total + near @ torch.tensor(known.weights, dtype=torch.float64))

    def _place(self, patches: Tensor) -> int | None:
        if patches.dtype != torch.bool or tuple(patches.shape) != self.grid:
            raise InputError(
                f"which patches are removed is bool {self.grid}, got {patches.dtype} {tuple(patches.shape)}"
            )
        found = (self.removed == patches).flatten(1).all(1).nonzero()
        return int(found[0]) if len(found) else None

    def _score(self, value: float) -> float:
        return float(self._scored(torch.tensor(value, dtype=torch.float64)))

    def _scored(self, values: Tensor) -> Tensor:
        return values.sigmoid() if self.odds else values

    @cached_property
    def _shares(self) -> Tensor:
        return shares_of(self.removed)

    @property
    def _strokes(self) -> Tensor:
        """Which of the removals are none of nothing, everything and single regions."""
        taken = self._shares > 0
        whole = (self._shares == taken).all(1) & (taken.sum(1) == 1)
        return ~whole & taken.any(1) & ~self.removed.flatten(1).all(1)


def regions_of(grid: tuple[int, int]) -> tuple[int, int]:
    """Regions, as (rows, columns), that patches are grouped into: at most 8 each way, of one size or nearly so."""
    rows, cols = (math.ceil(cells / math.ceil(cells / MOST_REGIONS)) for cells in grid)
    return rows, cols


def shares_of(removed: Tensor) -> Tensor:
    """What share of each region is taken away, (M, regions) float64, of bool (M, rows, cols)."""
    every = regions(tuple(removed.shape[1:])).flatten(1).double()
    return removed.flatten(1).double() @ every.mT / every.sum(1)


def regions(grid: tuple[int, ...]) -> Tensor:
    """The patches of each region, bool (regions, rows, cols), in reading order."""
    rows, cols = grid
    down, across = regions_of((rows, cols))
    place = (torch.arange(rows) * down // rows)[:, None] * across + torch.arange(cols) * across // cols
    return place == torch.arange(down * across).view(-1, 1, 1)


def packed(removed: Tensor) -> str:
    """A removal, bool (rows, cols), as hexadecimal digits."""
    bits = "".join("1" if each else "0" for each in removed.flatten().tolist())
    bits += "0" * (-len(bits) % 4)
    return f"{int(bits, 2):0{len(bits) // 4}x}"


def unpacked(word: str, grid: tuple[int, int]) -> Tensor:
    """The removal that `packed` wrote.

    Raises:
        ValueError: it is none of this grid.
    """
    count = grid[0] * grid[1]
    if len(word) != math.ceil(count / 4) or not set(word) <= set("0123456789abcdef"):
        raise ValueError(f"expected {math.ceil(count / 4)} hexadecimal digits")
    bits = f"{int(word, 16):0{4 * len(word)}b}"
    if "1" in bits[count:]:
        raise ValueError(f"more than {count} patches")
    return torch.tensor([bit == "1" for bit in bits[:count]]).view(grid)


def _fitted(shares: Tensor, values: Tensor, strokes: Tensor, scored: Callable[[Tensor], Tensor]) -> Surrogate:
    """The best of a few surrogates by what each says of strokes that it has not seen."""
    known, lines = values - values[0], shares @ shares.mT
    squares = (lines.diag()[:, None] + lines.diag() - 2 * lines).clamp(min=0)
    plain = [(1.0, 0.0, 1.0, slack) for slack in LINEAR]
    reaches = [reach * shares.shape[1] ** 0.5 for reach in REACHES]
    bent = [(line, 1.0, reach, slack) for line in (1.0, 0.1) for reach in reaches for slack in CURVED]
    best: tuple[float, Surrogate] | None = None
    for line, bend, reach, slack in plain + bent:
        kernel = line * lines + bend * (-squares / (2 * reach**2)).exp()
        inverse = torch.linalg.inv(kernel + slack * torch.eye(len(kernel), dtype=kernel.dtype))
        parts = inverse @ known
        off = (parts / inverse.diag())[strokes]  # of each from what the others say of it, as ridge regression has it
        wrong = (scored(values[strokes] - off) - scored(values[strokes])).abs()
        if best is None or float(wrong.mean()) < best[0]:
            told = float(wrong.median()), _most(wrong), _most(off.abs())
            coefficients, weights = line * parts @ shares, bend * parts
            best = float(wrong.mean()), Surrogate(tuple(coefficients.tolist()), tuple(weights.tolist()), reach, *told)
    assert best is not None
    return best[1]


def _most(wrong: Tensor) -> float:
    """What nine of ten further ones are wrong by at most, as far as so many can tell."""
    place = min(math.ceil(0.9 * (len(wrong) + 1)), len(wrong)) - 1
    return float(wrong.sort().values[place])
