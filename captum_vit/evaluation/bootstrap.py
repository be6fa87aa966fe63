"""Figures with bootstrap intervals: what would another draw of the same images have given?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..metrics import Figure, dataset_scores
from .rows import Array, Index, Rows

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
    """One method's figure as it is, and in every draw of images; in several parts, as a class each, or in one.

    values: (draws + 1, parts); the first is of all images as they are.
    rows, images: (parts,), how many count.
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

    def estimate(self, figure: Figure, rows: Rows, *, by_class: bool = False) -> list[Estimate]:
        """A figure of each method.

        Args:
            figure: how the values of single rows become one.
            rows: those that count, with the columns of the figure as finite values.
            by_class: a figure of each class apart instead of one of all rows.
        Returns:
            For each method an estimate, with a part for each class, or with one part.
        """
        apart = by_class or figure.over == "classes"
        target, targets = (rows.target, rows.targets) if apart else (np.zeros_like(rows.target), 1)
        values = np.append(rows.values, np.ones((len(rows.values), 1)), 1)  # the last counts the rows
        shape = (rows.methods, targets, values.shape[1])
        cells = np.ravel_multi_index((rows.method[:, None], target[:, None], np.arange(shape[2])), shape)
        sums, images = self._sums(values, cells, rows.image, int(np.prod(shape)))
        sums, images = sums.reshape(-1, *shape), images.reshape(shape)[..., -1]
        found = _score(figure, sums)  # (draws + 1, methods, classes)
        counts = sums[0, ..., -1].astype(int)  # (methods, classes), as images
        if not by_class:
            found = _mean_of_classes(found)
            counts, images = counts.sum(1, keepdims=True), images.sum(1, keepdims=True)
        return [Estimate(found[:, method], counts[method], images[method]) for method in range(rows.methods)]

    def _sums(self, values: Array, cells: Index, image: Index, width: int) -> tuple[Array, Index]:
        """Sums of the values in each cell, over all images and over each draw, and of how many images a cell is.

        Args:
            values, cells: (rows, columns), numbers and the cell that each is added to.
            image: (rows,).
            width: how many cells there are.
        Returns:
            (draws + 1, width) and (width,).
        """
        place = (cells.ravel(), np.repeat(image, values.shape[1]))
        of_images: Any = sparse.csr_matrix((values.ravel(), place), (width, self.images))  # adds what falls together
        found = np.empty((DRAWS + 1, width))
        found[0] = of_images @ np.ones(self.images)
        start = 1
        for times in self._draws():
            step = max(1, AT_ONCE // (self.images + width))
            for first in range(0, len(times), step):
                some = times[first : first + step].T.astype(float)
                found[start : start + some.shape[1]] = (of_images @ some).T
                start += some.shape[1]
        return found, np.diff(of_images.indptr)

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
    """The figure of sums (draws, methods, classes, columns and the count), (draws, methods, classes); NaN of no row."""
    values, counts = sums[..., :-1], sums[..., -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        if figure.over == "pixels":
            scores = dataset_scores(torch.from_numpy(values))[figure.score].numpy()
            return np.where(counts > 0, scores, np.nan)
        return values[..., 0] / counts


def _mean_of_classes(found: Array) -> Array:
    """The mean over the classes that are there, (draws, methods, classes) -> (draws, methods, 1)."""
    there = np.isfinite(found)
    with np.errstate(invalid="ignore"):
        return np.where(there, found, 0).sum(-1, keepdims=True) / there.sum(-1, keepdims=True)
