"""A run's figures."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..panels import NotebookFigure

if TYPE_CHECKING:
    from .results import Leaderboard

ACROSS = 3  # panels in a row


def bars(board: "Leaderboard", name: str, ax: Axes | None = None) -> Figure:
    """A figure of each method with its 95 % interval, the best on top."""
    methods = [method for method in board.ranking(name) if board.mean(method, name).count]
    axes = ax or NotebookFigure(figsize=(5.5, 0.8 + 0.35 * len(methods)), layout="constrained").subplots()
    places = np.arange(len(methods))[::-1]
    found = [board.mean(method, name) for method in methods]
    errors = np.array([[m.value - m.low, m.high - m.value] for m in found]).reshape(-1, 2).T.clip(min=0)
    axes.barh(
        places, [m.value for m in found], xerr=errors, height=0.6, color=[_color(board, method) for method in methods],
        ecolor="#222222", capsize=3,
    )  # fmt: skip
    axes.set_yticks(places, methods)
    axes.set_xlabel(board.title(name))
    _bare(axes)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def curves(board: "Leaderboard", name: str, ax: Axes | None = None, *, legend: bool = True) -> Figure:
    """The mean curve of each method, over the share of the image that was exchanged."""
    axes = ax or NotebookFigure(figsize=(5.5, 3.6), layout="constrained").subplots()
    for method in board.methods:
        levels, mean = board.curve(method, name)
        marker = "." if len(levels) <= 20 else ""
        axes.plot(levels, mean, marker=marker, label=method, color=_color(board, method))
    axes.set_xlabel("share of the image exchanged")
    axes.set_ylabel(f"mean score, {name.removesuffix('_curve')}")
    if legend:
        axes.legend(frameon=False, fontsize="small")
    _bare(axes)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def everything(board: "Leaderboard") -> Figure:
    """All figures and curves, side by side; a method has one colour throughout."""
    names = [*board.figures, *board.curves]
    rows = -(-len(names) // ACROSS)
    height = max(2.2, 0.9 + 0.3 * len(board.methods))
    across = min(ACROSS, len(names))
    figure = NotebookFigure(figsize=(4.6 * across, height * rows), layout="constrained")
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        if name in board.curves:
            curves(board, name, panel, legend=False)
        else:
            bars(board, name, panel)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    if board.curves:
        lines, methods = panels[len(board.figures)].get_legend_handles_labels()
        figure.legend(lines, methods, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _color(board: "Leaderboard", method: str) -> str:
    return f"C{board.methods.index(method) % 10}"


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
