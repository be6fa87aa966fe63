"""From rows to what they say: figures with intervals, differences between methods, tables and plots."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..errors import RunError
from ..metrics import Figure, Metric, dataset_scores
from ..models import nearest
from ..saving import write_atomically
from .bootstrap import Array, resampled_sums
from .shards import as_table, read_manifest, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """A figure of a data set with its 95 % bootstrap interval; NaN where no row counts.

    count: rows that count; those for which the metric is not defined do not.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.count else "none"


class Leaderboard:
    """What a run says of its methods.

    Intervals come from a bootstrap over images: all questions about one image are drawn together, for they are not
    independent. A comparison of methods draws the same images for all.

    Args:
        table: the rows of a run, curves among them.
        figures: what is made of the columns.
        curves: columns of curves, with their first and last level.
        seed: of the bootstrap.
    Attributes:
        errors: of the items that failed, what went wrong.
        methods: in the order of the run.
        classes: the numbers of those that are explained.
    """

    def __init__(
        self, table: pa.Table, figures: Mapping[str, Figure], curves: Mapping[str, tuple[float, float]] | None = None,
        *, seed: int = 0,
    ) -> None:  # fmt: skip
        failed = [bool(error) for error in _column(table, "error")]
        self.errors = [str(error) for error in _column(table, "error") if error]
        self.table = table.filter(pa.array([not bad for bad in failed]))
        self.figures, self.curves, self.seed = dict(figures), dict(curves or {}), seed
        self.methods: list[str] = list(dict.fromkeys(_column(self.table, "method")))
        targets, self._class = np.unique(self._numbers("target"), return_inverse=True)
        self.classes = [int(number) for number in targets]

    @classmethod
    def read(cls, folder: str | Path, *, seed: int = 0) -> "Leaderboard":
        """The leaderboard of a run's folder.

        Raises:
            RunError: there is none.
        """
        settings = read_manifest(Path(folder))["settings"]
        figures = {
            name: Figure(**{**told, "columns": tuple(told["columns"])}) for name, told in settings["figures"].items()
        }
        return cls(read_rows(folder, without=("map", "grid")), figures, settings["curves"], seed=seed)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], *, seed: int = 0) -> "Leaderboard":
        """The leaderboard of rows that an Evaluator gave."""
        figures = {name: figure for metric in metrics for name, figure in metric.figures.items()}
        return cls(as_table(rows), figures, {k: v for metric in metrics for k, v in metric.curves.items()}, seed=seed)

    @classmethod
    def join(cls, boards: "Mapping[str, Leaderboard]", *, seed: int = 0) -> "Leaderboard":
        """Several runs on one leaderboard, where a method is called `run: method`; it has the figures of all."""
        tables = []
        for name, board in boards.items():
            methods = pa.array([f"{name}: {method}" for method in _column(board.table, "method")])
            place = board.table.schema.get_field_index("method")
            tables.append(board.table.set_column(place, "method", methods))
        figures = {name: figure for board in boards.values() for name, figure in board.figures.items()}
        curves = {name: span for board in boards.values() for name, span in board.curves.items()}
        return cls(pa.concat_tables(tables, promote_options="permissive"), figures, curves, seed=seed)

    def mean(self, method: str, figure: str) -> Mean:
        """A method's figure.

        Raises:
            RunError: no such method or figure.
        """
        self._check(figure, method)
        return self._drawn(figure)[method].mean()

    def difference(self, first: str, second: str, figure: str) -> Mean:
        """What `first` has more than `second`, paired: over the rows for which both are defined."""
        self._check(figure, first, second)
        one, other = self._estimates(figure, (first, second), paired=True).values()
        return (one - other).mean()

    def differences(self, figure: str) -> dict[str, Mean]:
        """What the best method has more than each of the others; negative where lower is better."""
        best, *others = self.ranking(figure)
        return {other: self.difference(best, other, figure) for other in others}

    def ranking(self, figure: str) -> list[str]:
        """The methods, the best by this figure first; those that have none last."""
        self._check(figure)
        sign = -1 if self.figures[figure].higher_is_better else 1
        places = {method: sign * self._drawn(figure)[method].mean().value for method in self.methods}
        return sorted(places, key=lambda method: np.nan_to_num(places[method], nan=np.inf))

    def rows(self, figures: Sequence[str] | None = None) -> dict[str, dict[str, Mean]]:
        """Method -> figure -> mean, the best method by the first figure first."""
        shown = list(figures or self.figures)
        return {method: {name: self.mean(method, name) for name in shown} for method in self.ranking(shown[0])}

    def undefined(self) -> list[str]:
        """Figures that no method has, for they are defined for no item: no masks, or no right prediction."""
        return [name for name in self.figures if not any(self.mean(method, name).count for method in self.methods)]

    def per_class(self, figure: str) -> dict[int, dict[str, Mean]]:
        """Class -> method -> mean over the rows that explain this class."""
        self._check(figure)
        found = self._estimates(figure, self.methods, per_class=True)
        return {number: {m: found[m].mean(i) for m in self.methods} for i, number in enumerate(self.classes)}

    def to_markdown(self, figures: Sequence[str] | None = None) -> str:
        """The table as Markdown; an arrow says which way is better."""
        rows = self.rows(figures)
        heads = ["method", *map(self.title, figures or self.figures)]
        return as_markdown(heads, [[method, *map(str, row.values())] for method, row in rows.items()])

    def title(self, figure: str) -> str:
        """A figure's name with an arrow that says which way is better."""
        return f"{figure} {'↑' if self.figures[figure].higher_is_better else '↓'}"

    def to_csv(self, path: str | Path, figures: Sequence[str] | None = None) -> None:
        """The table as CSV: method, class (empty for all), figure, mean, low, high, count."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "class", "figure", "mean", "low", "high", "count"])
        for method, row in self.rows(figures).items():
            writer.writerows([method, "", name, m.value, m.low, m.high, m.count] for name, m in row.items())
        for name in figures or self.figures:
            for target, of_methods in self.per_class(name).items():
                writer.writerows([k, target, name, m.value, m.low, m.high, m.count] for k, m in of_methods.items())
        write_atomically(Path(path), text.getvalue().encode())

    def curve(self, method: str, name: str) -> tuple[Array, Array]:
        """Levels and the mean curve of a method over its rows.

        Raises:
            RunError: no such method or curve.
        """
        self._check(None, method)
        if name not in self.curves:
            raise RunError(f"no curve {name!r} in this run; it has {', '.join(self.curves) or 'none'}")
        chosen = self.table.filter(pa.array(self._method == method))[name].combine_chunks().drop_null()
        values = chosen.flatten().to_numpy().reshape(len(chosen), -1).astype(float)
        kept = values[np.isfinite(values).all(1)]
        return np.linspace(*self.curves[name], values.shape[1]), kept.mean(0) if len(kept) else values.sum(0) * np.nan

    def plot(self, names: str | Sequence[str] | None = None, ax: "Axes | None" = None) -> "Drawing":
        """Bars with intervals of a figure, or the methods' mean curves.

        Args:
            names: of a figure or curve; several stand side by side, and None stands for all.
            ax: for one of them, where to draw; it then gets no legend.
        Raises:
            RunError: no such figure or curve.
        """
        from .plots import panel, panels

        shown = [*self.figures, *self.curves] if names is None else [names] if isinstance(names, str) else list(names)
        for name in shown:
            if name not in self.curves:
                self._check(name)
        return panel(self, shown[0], ax) if isinstance(names, str) else panels(self, shown)

    def _check(self, figure: str | None, *methods: str) -> None:
        asked = [("method", method, self.methods) for method in methods]
        for kind, name, known in (*asked, *([("figure", figure, [*self.figures])] if figure is not None else [])):
            if name not in known:
                raise RunError(f"no {kind} {name!r} in this run; it has {', '.join(known)}{nearest(name, known)}")

    @cached_property
    def _method(self) -> np.ndarray:
        return np.array(_column(self.table, "method"), dtype=object)

    @cached_property
    def _image(self) -> np.ndarray:
        """The number of the image that each row is about."""
        return np.unique([image_of(name) for name in _column(self.table, "id")], return_inverse=True)[1]

    def _numbers(self, column: str) -> Array:
        """A column as numbers, NaN where there is none."""
        if column not in self.table.column_names:
            return np.full(len(self.table), np.nan)
        return np.array(self.table[column].cast(pa.float64()).to_numpy(), float)

    def _drawn(self, figure: str) -> "dict[str, Estimate]":
        if figure not in self._known:
            self._known[figure] = self._estimates(figure, self.methods)
        return self._known[figure]

    @cached_property
    def _known(self) -> "dict[str, dict[str, Estimate]]":
        return {}

    def _estimates(
        self, name: str, methods: Sequence[str], *, paired: bool = False, per_class: bool = False
    ) -> "dict[str, Estimate]":
        """A figure of each method; `paired` counts only rows that are defined for all, `per_class` splits it."""
        figure = self.figures[name]
        values = np.stack([self._numbers(column) for column in figure.columns], 1)
        counts = np.isfinite(values).all(1) & np.isin(self._method, methods)
        if paired:
            counts &= self._shared(counts, methods)
        values = np.append(values[counts], np.ones((counts.sum(), 1)), 1)  # the last counts the rows
        classes = self._class[counts]
        one, many = np.zeros_like(classes), len(self.classes)
        apart = figure.over == "classes" and not per_class
        shape = (len(methods), many if per_class else 1, many if apart else 1, values.shape[1])
        place = (
            np.array([methods.index(method) for method in self._method[counts]], int)[:, None],
            (classes if per_class else one)[:, None], (classes if apart else one)[:, None], np.arange(shape[-1]),
        )  # fmt: skip
        sums = resampled_sums(
            values.ravel(), np.ravel_multi_index(place, shape).ravel(), np.repeat(self._image[counts], shape[-1]),
            (int(np.prod(shape)), self._image.max(initial=0) + 1), draws=DRAWS, seed=self.seed,
        ).reshape(-1, *shape)  # fmt: skip
        found, rows = _score(figure, sums), sums[0, ..., -1].sum(-1)
        return {method: Estimate(found[:, i], rows[i]) for i, method in enumerate(methods)}

    def _shared(self, counts: np.ndarray, methods: Sequence[str]) -> np.ndarray:
        """Which rows are about an item that counts for all of the methods."""
        ids = np.array(_column(self.table, "id"), dtype=object)
        every = [set(ids[counts & (self._method == method)]) for method in methods]
        return np.isin(ids, list(set.intersection(*every)))


@dataclass(frozen=True)
class Estimate:
    """A figure as it is and in every draw of images.

    values: (draws + 1, parts); rows: (parts,), how many count.
    """

    values: Array
    rows: Array

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.values - other.values, self.rows)

    def mean(self, part: int = 0) -> Mean:
        """The figure of a part, with its interval."""
        draws = self.values[1:, part]
        draws = draws[np.isfinite(draws)]  # one without any image of a class says nothing of it
        if not self.rows[part] or not len(draws):
            return Mean(np.nan, np.nan, np.nan, 0)
        low, high = np.percentile(draws, [2.5, 97.5])
        return Mean(float(self.values[0, part]), float(low), float(high), int(self.rows[part]))


def image_of(item: str) -> str:
    """The image that an item is a question about: what stands before the class in its id."""
    return item.rpartition("/")[0] or item


def as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also stand under each other as plain text."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _score(figure: Figure, sums: Array) -> Array:
    """The figure of sums (draws, methods, parts, classes, columns and the count) -> (draws, methods, parts)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if figure.over == "pixels":
            scores = dataset_scores(torch.from_numpy(sums[..., 0, :4]))[figure.score].numpy()
            return np.where(sums[..., 0, 4] > 0, scores, np.nan)
        means = sums[..., 0] / sums[..., 1]  # of each class, or of all in one
        there = np.isfinite(means)
        return np.where(there, means, 0).sum(-1) / there.sum(-1)


def _column(table: pa.Table, name: str) -> Iterable[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)
