"""The results of a run as a person reads them: tables, files and plots."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import RunError
from ..files import write_atomically
from ..metrics import Figure, Metric, curves_of, figures_of
from ..names import cell
from .bootstrap import Mean
from .results import Results
from .rows import column
from .shards import as_table, read_manifest, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .plots import Bars, Curves


class Leaderboard(Results):
    """What a run says of its methods: the figures of `Results`, with its arguments, as tables, files and plots.

    Most come from `read`, of a run's folder, or from `evaluate`, which gives one.
    """

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
        """Several runs on one leaderboard, with the figures of all.

        Args:
            boards: by the name of the run; its methods are called `run: method`.
            seed: of the bootstrap.
        """
        tables = []
        for name, board in boards.items():
            methods = pa.array([f"{name}: {method}" for method in column(board.table, "method")])
            place = board.table.schema.get_field_index("method")
            tables.append(board.table.set_column(place, "method", methods))
        figures = {name: figure for board in boards.values() for name, figure in board.figures.items()}
        curves = {name: span for board in boards.values() for name, span in board.curves.items()}
        return cls(pa.concat_tables(tables, promote_options="permissive"), figures, curves, seed=seed)

    def rows(self, figures: Sequence[str] | None = None) -> dict[str, dict[str, Mean]]:
        """Method -> figure -> mean, the best method by the first figure first."""
        shown = list(figures or self.figures)
        methods = self.ranking(shown[0]) if shown else self.methods
        return {method: {name: self.mean(method, name) for name in shown} for method in methods}

    def title(self, figure: str) -> str:
        """The name of a figure, "by class" if it is a mean over classes, and an arrow towards what is better."""
        told = self.figures[figure]
        return f"{figure}{' by class' * (told.over == 'classes')} {'↑' if told.higher_is_better else '↓'}"

    def to_markdown(self, figures: Sequence[str] | None = None) -> str:
        """The table as Markdown; an arrow says which way is better. Below it stands which methods failed, and why.

        Args:
            figures: which; by default all.
        """
        return "\n".join([self.bare_table(figures), *(f"\n{_cell(failure)}" for failure in self.failures())])

    def bare_table(self, figures: Sequence[str] | None = None) -> str:
        """The table as Markdown, without what failed."""
        rows = self.rows(figures)
        heads = ["method", *map(self.title, figures or self.figures)]
        return as_markdown(heads, [[method, *map(str, row.values())] for method, row in rows.items()])

    def to_csv(self, path: str | Path, figures: Sequence[str] | None = None) -> None:
        """Write the table as CSV: method, class (empty for all), figure, mean, low, high, count.

        A name that a spreadsheet would take for a formula stands behind an apostrophe.

        Raises:
            OutputError: the file cannot be written.
        """
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "class", "figure", "mean", "low", "high", "count"])
        rows: list[tuple[Any, ...]] = [
            (method, "", name, m) for method, row in self.rows(figures).items() for name, m in row.items()
        ]
        for name in figures or self.figures:
            for target, of_methods in self.per_class(name).items():
                rows += [(method, target, name, m) for method, m in of_methods.items()]
        writer.writerows([*map(cell, names), m.value, m.low, m.high, m.count] for *names, m in rows)
        write_atomically(Path(path), text.getvalue().encode("utf-8", "backslashreplace"))

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


def as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also stand under each other as plain text."""
    rows = [[_cell(text) for text in row] for row in rows]
    heads = [_cell(text) for text in heads]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(text: str) -> str:
    """One line that does not end its cell, whatever a method is called."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")
