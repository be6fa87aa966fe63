"""Bars and curves of methods, drawn from plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..attr import METHODS
from ..figures.panels import NotebookFigure
from .bootstrap import Array, Mean
from .reading import folded
from .standing import is_baseline

ACROSS = 4  # panels in a row
APART = 0.5  # of a bar's place, between methods and baselines
BASE, GREY = "#a8a8a8", 7  # a baseline's colour, and the one of matplotlib's ten that is like it
LINE, LETTERS = 0.4, 9  # inches of a heading, and letters in an inch of it
CURVE = "curve"  # what a line of the legend is marked with


@dataclass(frozen=True)
class Bars:
    """A figure of several methods, with 95 % intervals.

    label: above the bars.
    means: method -> its figure, in the order in which they stand from the top; baselines come last, and apart.
    """

    label: str
    means: Mapping[str, Mean]

    def draw(self, axes: Axes, colors: Mapping[str, str]) -> None:
        """Draw a bar for each method, the first on top; one that lacks the figure has its place, and no bar."""
        shown = {method: mean for method, mean in self.means.items() if mean.count}
        places = {method: -i - APART * is_baseline(method) for i, method in enumerate(self.means)}
        errors = np.array([[m.value - m.low, m.high - m.value] for m in shown.values()]).reshape(-1, 2).T.clip(min=0)
        axes.barh(
            [places[method] for method in shown],
            [m.value for m in shown.values()],
            xerr=errors,
            height=0.6,
            color=[colors[method] for method in shown],
            ecolor="#222222",
            capsize=2,
        )
        axes.set_yticks([*places.values()], [_plain(method) for method in places])
        axes.set_ylim(min(places.values(), default=0) - 0.6, 0.6)
        axes.margins(x=0.02)
        axes.set_title(self.label, fontsize="medium")


@dataclass(frozen=True)
class Curves:
    """The mean curve of several methods, over the share of the image that was exchanged.

    label: beside the axis.
    curves: method -> levels and scores, (S,) each.
    """

    label: str
    curves: Mapping[str, tuple[Array, Array]]

    def draw(self, axes: Axes, colors: Mapping[str, str]) -> None:
        """Draw a line for each method, with a point for each level where there are few."""
        styles = cycle(("--", ":"))
        for method, (levels, mean) in self.curves.items():
            marker = "." if len(levels) <= 20 else ""
            style = next(styles) if is_baseline(method) else "-"
            axes.plot(levels, mean, style, marker=marker, label=_plain(method), color=colors[method], gid=CURVE)
        axes.set_xlabel("share of the image exchanged")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.set_ylabel(self.label)


def panel(shown: Bars | Curves, methods: Sequence[str], ax: Axes | None = None) -> Figure:
    """One panel; with a legend where no `ax` is given.

    Args:
        shown: what is drawn.
        methods: all methods of the run, in the order in which they stand, for their colours and the panel's height.
        ax: where to draw; by default on a figure of its own.
    """
    axes = ax or NotebookFigure(figsize=(5.5, _height(methods)), layout="constrained").subplots()
    _draw(shown, methods, axes)
    figure: Figure = axes.get_figure(root=True)  # type: ignore[assignment]
    if ax is None:
        _add_legend(figure, [axes])
    return figure


def panels(shown: Sequence[Bars | Curves], methods: Sequence[str], heading: str = "") -> Figure:
    """Several panels side by side, under a heading; a method has one colour and one place throughout.

    The other arguments are those of `panel`. Bars side by side have the methods' names at the first of them only.
    """
    across = min(ACROSS, len(shown))
    rows = -(-len(shown) // across)
    figure = NotebookFigure(figsize=(1.6 + 3.2 * across, _height(methods) * rows + LINE), layout="constrained")
    every = list(figure.subplots(rows, across, squeeze=False).ravel())
    for place, (axes, each) in enumerate(zip(every, shown, strict=False)):
        _draw(each, methods, axes)
        if isinstance(each, Bars) and place % across and isinstance(shown[place - 1], Bars):
            axes.tick_params(labelleft=False)
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    if heading:
        letters = int(figure.get_size_inches()[0] * LETTERS)
        figure.suptitle(_plain(folded(heading, letters)), fontsize="medium")
    _add_legend(figure, every)
    return figure


def _draw(shown: Bars | Curves, methods: Sequence[str], axes: Axes) -> None:
    shown.draw(axes, _colors(methods))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _add_legend(figure: Figure, every: Sequence[Axes]) -> None:
    """Of the curves, below all panels; bars are named already."""
    known = {str(line.get_label()): line for axes in every for line in axes.lines if line.get_gid() == CURVE}
    if known:
        across = int(figure.get_size_inches()[0] // 1.9)
        figure.legend([*known.values()], [*known], loc="outside lower center", ncols=across, frameon=False)


def _height(methods: Sequence[str]) -> float:
    return max(2.4, 0.9 + 0.22 * len(methods))


def _colors(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, grey for a baseline.

    One of ours has its own in any run, unless another one of the run has it already and some are left.
    """
    colors = [f"C{i}" for i in range(10) if i != GREY]
    order = [*METHODS, *(name for name in methods if name not in METHODS)]
    found: dict[str, str] = {}
    for name in sorted(methods, key=order.index):
        turns = [colors[(order.index(name) + i) % len(colors)] for i in range(len(colors))]
        free = [color for color in turns if color not in found.values()]
        found[name] = BASE if is_baseline(name) else (free or turns)[0]
    return found


def _plain(name: str) -> str:
    """A name that matplotlib takes as it stands: a dollar begins a formula, and a leading underscore hides a line."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
