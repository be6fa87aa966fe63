"""What would another draw of the same images have given?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..metrics import Figure, dataset_scores

Array = NDArray[np.float64]
Index = NDArray[np.int64]
DRAWS = 2000
AT_ONCE = 1 << 24  # numbers that are held at once, 128 MiB
KEPT = 1 << 28  # draws are kept, a byte each, up to 256 MiB


@dataclass(frozen=True)
class Mean:
    """A figure of a data set with its 95 % bootstrap interval; NaN where no row counts.

    low, high: NaN where all rows are about one image, which says nothing of others.
    count: rows that count; those for which the metric is not defined do not.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "none"
        beside = f"(n={self.count})" if np.isnan(self.low) else f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f} {beside}"


@dataclass(frozen=True)
class Estimate:
    """A figure as it is and in every draw of images, of several parts side by side.

    values: (draws + 1, parts); rows, images: (parts,), how many count.
    """

    values: Array
    rows: Index
    images: Index

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.values - other.values, self.rows, self.images)

    def mean(self, part: int = 0) -> Mean:
        """The figure of a part, with its interval."""
        if not self.rows[part]:
            return Mean(np.nan, np.nan, np.nan, 0)
        draws = self.values[1:, part]
        draws = draws[np.isfinite(draws)]  # one without any image of a class says nothing of it
        low, high = np.percentile(draws, [2.5, 97.5]) if self.images[part] > 1 else (np.nan, np.nan)
        return Mean(float(self.values[0, part]), float(low), float(high), int(self.rows[part]))


class Bootstrap:
    """Draws of as many images as there are, with replacement: the same draws for whatever is asked.

    Args:
        images: how many there are.
        seed: of the draws.
    """

    def __init__(self, images: int, seed: int = 0) -> None:
        self.images, self.seed = images, seed
        self._kept: list[NDArray[np.uint8]] = []

    def estimate(
        self,
        figure: Figure,
        values: Array,
        images: Index,
        methods: Index,
        classes: Index,
        parts: Index,
        sizes: tuple[int, int, int],
    ) -> list[Estimate]:
        """A figure of each method, in each part of the rows.

        Args:
            figure: how values become one.
            values: (rows, columns of the figure), finite.
            images, methods, classes, parts: (rows,), numbers from 0 of what a row belongs to.
            sizes: how many methods, parts and classes there are.
        """
        values = np.append(values, np.ones((len(values), 1)), 1)  # the last counts the rows
        apart = classes if figure.over == "classes" else np.zeros_like(classes)
        shape = (sizes[0], sizes[1], sizes[2] if figure.over == "classes" else 1, values.shape[1])
        place = np.ravel_multi_index((methods[:, None], parts[:, None], apart[:, None], np.arange(shape[-1])), shape)
        sums, drawn_from = self._sums(values.ravel(), place.ravel(), np.repeat(images, shape[-1]), int(np.prod(shape)))
        sums = sums.reshape(-1, *shape)
        found, rows = _score(figure, sums), sums[0, ..., -1].sum(-1).astype(int)
        of_parts = drawn_from.reshape(shape)[..., -1].sum(-1)
        return [Estimate(found[:, i], rows[i], of_parts[i]) for i in range(sizes[0])]

    def _sums(self, values: Array, columns: Index, images: Index, width: int) -> tuple[Array, Index]:
        """Sums (draws + 1, width), over all images as they are and over each draw; and of how many images each is."""
        parts: Any = sparse.csr_matrix((values, (columns, images)), (width, self.images))  # adds what falls together
        found = np.empty((DRAWS + 1, width))
        found[0] = parts @ np.ones(self.images)
        start = 1
        for times in self._draws():
            step = max(1, AT_ONCE // (self.images + width))
            for first in range(0, len(times), step):
                some = times[first : first + step].T.astype(float)
                found[start : start + some.shape[1]] = (parts @ some).T
                start += some.shape[1]
        return found, np.diff(parts.indptr)

    def _draws(self) -> Iterator[NDArray[np.uint8]]:
        """How often each image is drawn, (some draws, images) at a time; DRAWS in all."""
        if self._kept:
            yield from self._kept
            return
        random = np.random.default_rng(self.seed)
        step = max(1, AT_ONCE // max(self.images, 1))
        for start in range(0, DRAWS, step):
            chosen = (random.integers(0, self.images, self.images) for _ in range(min(step, DRAWS - start)))
            times = np.stack([np.bincount(each, minlength=self.images).astype(np.uint8) for each in chosen])
            if self.images * DRAWS <= KEPT:
                self._kept.append(times)
            yield times


def _score(figure: Figure, sums: Array) -> Array:
    """The figure of sums (draws, methods, parts, classes, columns and the count) -> (draws, methods, parts)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if figure.over == "pixels":
            scores = dataset_scores(torch.from_numpy(sums[..., 0, :4]))[figure.score].numpy()
            return np.where(sums[..., 0, 4] > 0, scores, np.nan)
        means = sums[..., 0] / sums[..., 1]  # of each class, or of all in one
        there = np.isfinite(means)
        return np.where(there, means, 0).sum(-1) / there.sum(-1)
