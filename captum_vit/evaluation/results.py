"""From rows to what they say: figures with intervals, differences between methods, tables and plots."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import RunError, nearest
from ..files import write_atomically
from ..metrics import Figure, Metric, curves_of, figures_of
from .bootstrap import Array, Bootstrap, Estimate, Index, Mean
from .shards import as_table, read_manifest, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .plots import Bars, Curves

CLASSES_AT_ONCE = 64


class Leaderboard:
    """What a run says of its methods.

    Intervals come from a bootstrap over images: all questions about one image are drawn together, for they are not
    independent. A comparison of methods draws the same images for all. Of a figure over classes, a draw has the classes
    of its images: with few images a class, its interval is wide.

    Args:
        table: the rows of a run, curves among them.
        figures: what is made of the columns.
        curves: columns of curves, with their first and last level.
        seed: of the bootstrap.
    Attributes:
        errors: of the items that failed, what went wrong.
        notes: what a reader of the figures has to know of the run.
        methods: in the order of the run.
        classes: the numbers of those that are explained.
    """

    def __init__(
        self,
        table: pa.Table,
        figures: Mapping[str, Figure],
        curves: Mapping[str, tuple[float, float]] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        failed = [bool(error) for error in _column(table, "error")]
        self.errors = [str(error) for error in _column(table, "error") if error]
        missing = [name for name in ("method", "id", "target") if name not in table.column_names]
        if missing and not all(failed):
            raise RunError(f"rows have columns method, id and target; these lack {', '.join(missing)}")
        self.table = table.filter(pa.array([not bad for bad in failed], pa.bool_()))
        self.figures, self.curves, self.seed = dict(figures), dict(curves or {}), seed
        self.methods: list[str] = list(dict.fromkeys(_column(self.table, "method")))
        targets, self._class = np.unique(self._numbers("target"), return_inverse=True)
        self.classes = [int(number) for number in targets]
        self.notes: list[str] = []
        self._known: dict[str, dict[str, Estimate]] = {}

    @classmethod
    def read(cls, folder: str | Path, *, seed: int = 0) -> "Leaderboard":
        """The leaderboard of a run's folder.

        Raises:
            RunError: there is none.
        """
        manifest = read_manifest(Path(folder))
        settings = manifest["settings"]
        try:
            figures = {
                name: Figure(**{**told, "columns": tuple(told["columns"])})
                for name, told in settings["figures"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"the manifest in {str(folder)!r} does not say its figures: {error}") from error
        board = cls(read_rows(folder, without=("map", "grid")), figures, settings.get("curves"), seed=seed)
        board.notes = list(manifest.get("recorded", {}).get("notes", []))
        return board

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], *, seed: int = 0) -> "Leaderboard":
        """The leaderboard of rows that an Evaluator gave."""
        return cls(as_table(rows), figures_of(metrics), curves_of(metrics), seed=seed)

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
        if first == second:
            return (self._drawn(figure)[first] - self._drawn(figure)[first]).mean()
        pair = np.sort([self.methods.index(first), self.methods.index(second)])
        found = self._estimates(figure, pair, paired=True)
        return (found[first] - found[second]).mean()

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
        methods = self.ranking(shown[0]) if shown else self.methods
        return {method: {name: self.mean(method, name) for name in shown} for method in methods}

    @property
    def items(self) -> int:
        """How many items there are, without those that failed."""
        return len(set(self._item.tolist()))

    def undefined(self) -> list[str]:
        """Figures that no method has, for they are defined for no item: no masks, or no right prediction."""
        return [name for name in self.figures if not any(self.mean(method, name).count for method in self.methods)]

    def without_maps(self) -> list[str]:
        """Methods that have no figure although others have: none of their maps is finite."""
        undefined = self.undefined()
        shown = [name for name in self.figures if name not in undefined]
        return [m for m in self.methods if shown and not any(self.mean(m, name).count for name in shown)]

    def per_class(self, figure: str) -> dict[int, dict[str, Mean]]:
        """Class -> method -> mean over the rows that explain this class."""
        self._check(figure)
        table: dict[int, dict[str, Mean]] = {}
        for start in range(0, len(self.classes), CLASSES_AT_ONCE):
            some = range(start, min(start + CLASSES_AT_ONCE, len(self.classes)))
            found = self._estimates(figure, np.arange(len(self.methods)), classes=some)
            table |= {self.classes[n]: {m: found[m].mean(i) for m in self.methods} for i, n in enumerate(some)}
        return table

    def to_markdown(self, figures: Sequence[str] | None = None) -> str:
        """The table as Markdown; an arrow says which way is better."""
        rows = self.rows(figures)
        heads = ["method", *map(self.title, figures or self.figures)]
        return as_markdown(heads, [[method, *map(str, row.values())] for method, row in rows.items()])

    def title(self, figure: str) -> str:
        """A figure's name, whether it is meant over classes, and an arrow that says which way is better."""
        told = self.figures[figure]
        return f"{figure}{' by class' * (told.over == 'classes')} {'↑' if told.higher_is_better else '↓'}"

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
        """Levels and the mean curve of a method over its rows, NaN where none has one.

        Levels are taken as even. Curves of fewer levels, as in steps over smaller inputs, are drawn through those of
        the most.

        Raises:
            RunError: no such method or curve.
        """
        self._check(None, method)
        if name not in self.curves:
            raise RunError(f"no curve {name!r} in this run; it has {', '.join(self.curves) or 'none'}")
        chosen = self.table.filter(pa.array(self._method == self.methods.index(method)))
        given = chosen[name].drop_null().to_numpy() if name in chosen.column_names else []
        span, longest = self.curves[name], max(map(len, given), default=2)
        levels = np.linspace(*span, longest)
        kept = [np.interp(levels, np.linspace(*span, len(c)), c) for c in given if np.isfinite(c).all()]
        return levels, np.mean(kept, 0) if kept else np.full(longest, np.nan)

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
        drawn = [self._panel(name) for name in shown]
        return panel(drawn[0], self.methods, ax) if isinstance(names, str) else panels(drawn, self.methods)

    def _panel(self, name: str) -> "Bars | Curves":
        """What is drawn of a figure or curve."""
        from .plots import Bars, Curves

        if name in self.curves:
            label = f"mean score, {name.removesuffix('_curve')}"
            return Curves(label, {method: self.curve(method, name) for method in self.methods})
        means = {method: self.mean(method, name) for method in self.ranking(name)}
        return Bars(self.title(name), means)

    def _check(self, figure: str | None, *methods: str) -> None:
        asked = [("method", method, self.methods) for method in methods]
        for kind, name, known in (*asked, *([("figure", figure, [*self.figures])] if figure is not None else [])):
            if name not in known:
                raise RunError(f"no {kind} {name!r} in this run; it has {', '.join(known)}{nearest(name, known)}")

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        return Bootstrap(int(self._image.max(initial=-1)) + 1, self.seed)

    @cached_property
    def _method(self) -> Index:
        """The number of each row's method."""
        numbers = {method: i for i, method in enumerate(self.methods)}
        return np.array([numbers[method] for method in _column(self.table, "method")], int)

    @cached_property
    def _item(self) -> Index:
        """The number of the item that each row is about."""
        return _numbered(_column(self.table, "id"))

    @cached_property
    def _image(self) -> Index:
        """The number of the image that each row is about."""
        return _numbered(image_of(name) for name in _column(self.table, "id"))

    def _numbers(self, column: str) -> Array:
        """A column as numbers, NaN where there is none."""
        if column not in self.table.column_names:
            return np.full(len(self.table), np.nan)
        return np.array(self.table[column].cast(pa.float64()).to_numpy(), float)

    def _drawn(self, figure: str) -> dict[str, Estimate]:
        if figure not in self._known:
            self._known[figure] = self._estimates(figure, np.arange(len(self.methods)))
        return self._known[figure]

    def _estimates(
        self, name: str, methods: Index, *, paired: bool = False, classes: range | None = None
    ) -> dict[str, Estimate]:
        """A figure of some methods by their numbers.

        Args:
            paired: whether only items count that all of the methods have.
            classes: of each of these classes apart, by their places in `self.classes`.
        """
        figure = self.figures[name]
        values = np.stack([self._numbers(column) for column in figure.columns], 1)
        counts = np.isfinite(values).all(1) & np.isin(self._method, methods)
        if classes is not None:
            counts &= (self._class >= classes.start) & (self._class < classes.stop)
        if paired:
            has = np.zeros((len(methods), int(self._item.max(initial=-1)) + 1), bool)
            has[np.searchsorted(methods, self._method[counts]), self._item[counts]] = True
            counts &= np.all(has, axis=0)[self._item]
        of_class = self._class[counts]
        parts = np.zeros_like(of_class) if classes is None else of_class - classes.start
        one = classes is not None  # a part is a class, then, and has no classes to be meant over
        found = self._bootstrap.estimate(
            figure,
            values[counts],
            self._image[counts],
            np.searchsorted(methods, self._method[counts]),
            np.zeros_like(of_class) if one else of_class,
            parts,
            (len(methods), 1 if classes is None else len(classes), 1 if one else max(len(self.classes), 1)),
        )
        return {self.methods[number]: estimate for number, estimate in zip(methods, found, strict=True)}


def image_of(item: str) -> str:
    """The image that an item is a question about: what stands before the class in its id."""
    return item.rpartition("/")[0] or item


def as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also stand under each other as plain text."""
    rows = [[_cell(text) for text in row] for row in rows]
    heads = [_cell(text) for text in heads]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(text: str) -> str:
    """One line that does not end its cell, whatever a method is called."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def _numbered(names: Iterable[str]) -> Index:
    """Equal names have one number, from 0."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], int)


def _column(table: pa.Table, name: str) -> Iterable[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)
