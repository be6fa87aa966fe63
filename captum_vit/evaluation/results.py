"""From rows to what they say: means with intervals, differences between methods, tables and plots."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError
from .shards import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = ("item", "id", "method", "label", "target", "prediction", "score", "error", "map", "grid")
DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """The mean of a metric over images, with its 95 % bootstrap interval; NaN where no image counts.

    count: images that count; those for which the metric is not defined do not.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Leaderboard:
    """What a run says of its methods.

    Intervals come from a bootstrap over images: all questions about one image are drawn together, for they are not
    independent. A comparison of two methods draws the same images for both.

    Args:
        columns: the rows of a run by column, as numpy arrays or lists of one length.
        seed: of the bootstrap.
    """

    def __init__(self, columns: dict[str, Any], *, seed: int = 0) -> None:
        good = np.array([not error for error in columns.get("error", [None] * len(columns["item"]))])
        self.errors = [str(e) for e in columns.get("error", []) if e]
        self.columns = {name: _array(values)[good] for name, values in columns.items() if name != "error"}
        self.seed = seed

    @classmethod
    def read(cls, folder: str | Path, *, seed: int = 0) -> "Leaderboard":
        """The leaderboard of a run's folder.

        Raises:
            RunError: there is none.
        """
        table = read_rows(folder)
        return cls({name: table[name].to_pylist() for name in table.column_names}, seed=seed)

    @cached_property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(self.columns["method"].tolist()))

    @cached_property
    def metrics(self) -> list[str]:
        """The columns that hold a number for each row."""
        return [name for name, values in self.columns.items() if name not in OWN and values.dtype != object]

    def values(self, method: str, metric: str, target: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A metric's values and the images that they belong to; of one class if `target` is given.

        Raises:
            RunError: no such method or metric.
        """
        for kind, name, known in (("method", method, self.methods), ("metric", metric, self.metrics)):
            if name not in known:
                raise RunError(f"no {kind} {name!r} in this run; it has {', '.join(known)}")
        chosen = self.columns["method"] == method
        if target is not None:
            chosen &= self.columns["target"] == target
        return self.columns[metric][chosen].astype(float), _images(self.columns["id"][chosen])

    def mean(self, method: str, metric: str, target: int | None = None) -> Mean:
        """The mean over all rows, or those of one class."""
        return _mean(*self.values(method, metric, target), self.seed)

    def difference(self, first: str, second: str, metric: str) -> Mean:
        """The mean of `first` - `second`, paired by row."""
        (a, images), (b, _) = self.values(first, metric), self.values(second, metric)
        return _mean(a - b, images, self.seed)

    def table(self, metrics: Sequence[str] | None = None) -> dict[str, dict[str, Mean]]:
        """Method -> metric -> mean, the best method by the first metric first."""
        shown = list(metrics or self.metrics)
        rows = {method: {metric: self.mean(method, metric) for metric in shown} for method in self.methods}
        return dict(sorted(rows.items(), key=lambda row: -np.nan_to_num(row[1][shown[0]].value, nan=-np.inf)))

    def per_class(self, metric: str) -> dict[int, dict[str, Mean]]:
        """Class -> method -> mean."""
        targets = sorted(set(self.columns["target"].tolist()))
        return {t: {method: self.mean(method, metric, t) for method in self.methods} for t in targets}

    def to_markdown(self, metrics: Sequence[str] | None = None) -> str:
        """The table as Markdown."""
        rows = self.table(metrics)
        shown = list(next(iter(rows.values())))
        lines = ["| method | " + " | ".join(shown) + " |", "| --- |" + " --- |" * len(shown)]
        lines += [
            f"| {method} | " + " | ".join(str(mean) for mean in row.values()) + " |" for method, row in rows.items()
        ]
        return "\n".join(lines)

    def to_csv(self, path: str | Path, metrics: Sequence[str] | None = None) -> None:
        """The table as CSV: method, metric, mean, low, high, count."""
        import csv
        from io import StringIO

        from ..saving import write_atomically

        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "metric", "mean", "low", "high", "count"])
        for method, row in self.table(metrics).items():
            writer.writerows([method, name, m.value, m.low, m.high, m.count] for name, m in row.items())
        write_atomically(Path(path), text.getvalue().encode())

    def plot(self, metric: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """Bars with intervals of one metric, the first by default."""
        from .plots import bars

        return bars(self, metric or self.metrics[0], ax)

    def plot_curves(self, name: str, ax: "Axes | None" = None) -> "Figure":
        """The mean curve of each method, from a column that holds a curve for each row."""
        from .plots import curves

        return curves(self, name, ax)


def _mean(values: np.ndarray, images: np.ndarray, seed: int) -> Mean:
    """Mean and percentile interval of a bootstrap that draws whole images."""
    counts = np.isfinite(values)
    values, images = values[counts], images[counts]
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, 0)
    _, group = np.unique(images, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(values.mean(), low, high, len(values))


def _images(ids: Iterable[str]) -> np.ndarray:
    """The image that a question is about: what stands before the class in its id."""
    return np.array([str(name).rpartition("/")[0] or str(name) for name in ids])


def _array(values: Any) -> np.ndarray:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, (int, float)):
        return np.array([np.nan if value is None else value for value in values])
    return np.array([*values, None], dtype=object)[:-1]
