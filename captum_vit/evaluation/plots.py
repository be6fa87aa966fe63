"""A run's figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..attr import METHODS
from ..figures.panels import NotebookFigure
from .entries import BASELINES

if TYPE_CHECKING:
    from .results import Leaderboard

ACROSS = 3  # panels in a row
CURVE = "curve"  # what a line of the legend is marked with


def panel(board: "Leaderboard", name: str, ax: Axes | None = None) -> Figure:
    """One figure or curve; with a legend where no `ax` is given."""
    axes = ax or NotebookFigure(figsize=(5.5, _height(board)), layout="constrained").subplots()
    _draw(board, name, axes)
    figure: Figure = axes.get_figure(root=True)  # type: ignore[assignment]
    if ax is None:
        _add_legend(figure, [axes])
    return figure


def panels(board: "Leaderboard", names: Sequence[str]) -> Figure:
    """Figures and curves side by side; a method has one colour throughout."""
    across = min(ACROSS, len(names))
    rows = -(-len(names) // across)
    figure = NotebookFigure(figsize=(4.6 * across, _height(board) * rows), layout="constrained")
    every = list(figure.subplots(rows, across, squeeze=False).ravel())
    for axes, name in zip(every, names, strict=False):
        _draw(board, name, axes)
    for axes in every[len(names) :]:
        axes.set_axis_off()
    _add_legend(figure, every)
    return figure


def _draw(board: "Leaderboard", name: str, axes: Axes) -> None:
    (_curves if name in board.curves else _bars)(board, name, axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(board: "Leaderboard", name: str, axes: Axes) -> None:
    """A figure of each method with its 95 % interval, the best on top."""
    methods = [method for method in board.ranking(name) if board.mean(method, name).count]
    places = np.arange(len(methods))[::-1]
    found = [board.mean(method, name) for method in methods]
    errors = np.array([[m.value - m.low, m.high - m.value] for m in found]).reshape(-1, 2).T.clip(min=0)
    axes.barh(
        places,
        [m.value for m in found],
        xerr=errors,
        height=0.6,
        color=[_color(board, method) for method in methods],
        ecolor="#222222",
        capsize=3,
    )
    axes.set_yticks(places, [_plain(method) for method in methods])
    axes.set_xlabel(board.title(name))


def _curves(board: "Leaderboard", name: str, axes: Axes) -> None:
    """The mean curve of each method, over the share of the image that was exchanged."""
    for method in board.methods:
        levels, mean = board.curve(method, name)
        marker = "." if len(levels) <= 20 else ""
        axes.plot(levels, mean, marker=marker, label=_plain(method), color=_color(board, method), gid=CURVE)
    axes.set_xlabel("share of the image exchanged")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_ylabel(f"mean score, {name.removesuffix('_curve')}")


def _add_legend(figure: Figure, every: Sequence[Axes]) -> None:
    """Of the curves, below all panels; bars are named already."""
    known = {str(line.get_label()): line for axes in every for line in axes.lines if line.get_gid() == CURVE}
    if known:
        across = int(figure.get_size_inches()[0] // 1.9)
        figure.legend([*known.values()], [*known], loc="outside lower center", ncols=across, frameon=False)


def _height(board: "Leaderboard") -> float:
    return max(2.4, 0.9 + 0.3 * len(board.methods))


def _color(board: "Leaderboard", method: str) -> str:
    """One colour for a method of ours in any run; others get those that are left."""
    known = [*METHODS, *BASELINES]
    order = [*known, *(name for name in board.methods if name not in known)]
    return f"C{order.index(method) % 10}"


def _plain(name: str) -> str:
    """A name that matplotlib takes as it stands: a dollar begins a formula, and a leading underscore hides a line."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
