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
from ..names import cell, printable
from . import reading
from .bootstrap import Mean
from .results import Results
from .rows import column
from .shards import as_table, read_manifest, read_rows
from .standing import behind, headline, is_baseline, order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .plots import Bars, Curves


ACROSS = 4  # figures in a table of plain text


class Leaderboard(Results):
    """What a run says of its methods: the figures of `Results`, with its arguments, as tables, files and plots.

    Most come from `read`, of a run's folder, or from `evaluate`, which gives one. Printed, it is what `summary` gives.

    Attributes:
        about: the model and the data in words, as far as they are known.
    """

    about = ""

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
        recorded = manifest.get("recorded", {})
        board.notes = list(recorded.get("notes", []))
        data, root = settings.get("data"), recorded.get("root")
        kind = data.get("kind") if isinstance(data, dict) else None
        known = [settings.get("model"), f"{kind}:{root}" if kind and root else kind]
        board.about = printable(" on ".join(str(name) for name in known if name))
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

    def headline(self, count: int = 4) -> list[str]:
        """The figures that say most, at most so many, of all metrics; none that is defined for no item."""
        return headline(self, count)

    def summary(self, figures: Sequence[str] | None = None, *, width: int = 120) -> str:
        """The run as a newcomer reads it, as plain text.

        What was asked of which model; a table; which methods are shown to be better than maps that have never seen the
        model, and behind the best; and what each figure asks.

        Args:
            figures: which; by default four, of all metrics.
            width: in letters. Where whole intervals have no room, half of what they span stands there.
        Raises:
            RunError: no such figure.
        """
        shown = self.headline() if figures is None else list(figures)
        titles = {name: self.title(name) for name in shown}
        parts = [reading.folded(reading.heading(self, self.about), width)]
        tables = -(-len(shown) // ACROSS)  # that stand below each other, in one order
        for i in range(tables):
            some = shown[len(shown) * i // tables : len(shown) * (i + 1) // tables]
            parts.append(reading.table(self, some, titles, width, shown[0]))
        parts.append(reading.folded(reading.verdict(self, shown[:ACROSS]), width))
        parts.append(reading.questions(self, shown, titles, width))
        return "\n\n".join(filter(None, parts))

    def page(self) -> str:
        """All figures as Markdown, with what each asks and the lead of the best method over each other."""
        shown = [name for name in self.figures if name not in self.undefined()]
        titles = {name: self.title(name) for name in shown}
        parts = [reading.heading(self, self.about), reading.verdict(self, self.headline())]
        if shown:
            parts.append(self.to_markdown([*self.headline(), *(name for name in shown if name not in self.headline())]))
            asks = [[titles[name], self.figures[name].words] for name in shown if self.figures[name].words]
            parts.append(as_markdown(["figure", "what it asks"], asks) if asks else "")
        parts += [self._leads(name) for name in self.headline()]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _leads(self, figure: str) -> str:
        """By how much the best method leads, as Markdown."""
        found = behind(self, figure)
        if found is None:
            return ""
        others = [method for method in order(self, figure) if method != found.to]
        rows = [[method, str(self.difference(found.to, method, figure))] for method in others]
        return as_markdown([f"{figure}: {found.to} less", "paired, image by image"], rows)

    def __str__(self) -> str:
        return self.summary()

    def rows(self, figures: Sequence[str] | None = None) -> dict[str, dict[str, Mean]]:
        """Method -> figure -> mean, the best method by the first figure first, and after all of them the baselines."""
        shown = list(figures or self.figures)
        methods = order(self, shown[0]) if shown else self.methods
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
            names: of a figure or curve; several stand side by side, in the order of the first figure. None stands for
                the four of `summary`, and "all" for all.
            ax: for one of them, where to draw; it then gets no legend.
        Raises:
            RunError: no such figure or curve.
        """
        from .plots import panel, panels

        alone = isinstance(names, str) and names != "all"
        every = [*self.figures, *self.curves]
        shown = every if names == "all" else self.headline() or every if names is None else names
        shown = [shown] if isinstance(shown, str) else list(shown)
        by = next((name for name in shown if name in self.figures), None)
        methods = order(self, by) if by else sorted(self.methods, key=is_baseline)
        drawn = [self._panel(name, methods) for name in shown]
        return panel(drawn[0], methods, ax) if alone else panels(drawn, methods, reading.heading(self, self.about))

    def _panel(self, name: str, methods: Sequence[str]) -> "Bars | Curves":
        """What is drawn of a figure or curve, the methods in this order."""
        from .plots import Bars, Curves

        if name in self.curves:
            label = f"mean score, {name.removesuffix('_curve')}"
            return Curves(label, {method: self.curve(method, name) for method in methods})
        return Bars(self.title(name), {method: self.mean(method, name) for method in methods})


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
