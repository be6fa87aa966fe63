"""Bars and curves of methods, drawn from plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..attr import METHODS
from ..figures.panels import NotebookFigure
from .bootstrap import Array, Mean
from .entries import BASELINES

ACROSS = 3  # panels in a row
CURVE = "curve"  # what a line of the legend is marked with


@dataclass(frozen=True)
class Bars:
    """A figure of several methods, with 95 % intervals.

    label: below the axis.
    means: method -> its figure, the best method first.
    """

    label: str
    means: Mapping[str, Mean]

    def draw(self, axes: Axes, colors: Mapping[str, str]) -> None:
        """Draw a bar for each method that has the figure, the first on top."""
        shown = {method: mean for method, mean in self.means.items() if mean.count}
        places = np.arange(len(shown))[::-1]
        errors = np.array([[m.value - m.low, m.high - m.value] for m in shown.values()]).reshape(-1, 2).T.clip(min=0)
        axes.barh(
            places,
            [m.value for m in shown.values()],
            xerr=errors,
            height=0.6,
            color=[colors[method] for method in shown],
            ecolor="#222222",
            capsize=3,
        )
        axes.set_yticks(places, [_plain(method) for method in shown])
        axes.set_xlabel(self.label)


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
        for method, (levels, mean) in self.curves.items():
            marker = "." if len(levels) <= 20 else ""
            axes.plot(levels, mean, marker=marker, label=_plain(method), color=colors[method], gid=CURVE)
        axes.set_xlabel("share of the image exchanged")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.set_ylabel(self.label)


def panel(shown: Bars | Curves, methods: Sequence[str], ax: Axes | None = None) -> Figure:
    """One panel; with a legend where no `ax` is given.

    Args:
        shown: what is drawn.
        methods: all methods of the run, for their colours and the height of the panel.
        ax: where to draw; by default on a figure of its own.
    """
    axes = ax or NotebookFigure(figsize=(5.5, _height(methods)), layout="constrained").subplots()
    _draw(shown, methods, axes)
    figure: Figure = axes.get_figure(root=True)  # type: ignore[assignment]
    if ax is None:
        _add_legend(figure, [axes])
    return figure


def panels(shown: Sequence[Bars | Curves], methods: Sequence[str]) -> Figure:
    """Several panels side by side; a method has one colour throughout. The arguments are those of `panel`."""
    across = min(ACROSS, len(shown))
    rows = -(-len(shown) // across)
    figure = NotebookFigure(figsize=(4.6 * across, _height(methods) * rows), layout="constrained")
    every = list(figure.subplots(rows, across, squeeze=False).ravel())
    for axes, each in zip(every, shown, strict=False):
        _draw(each, methods, axes)
    for axes in every[len(shown) :]:
        axes.set_axis_off()
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
    return max(2.4, 0.9 + 0.3 * len(methods))


def _colors(methods: Sequence[str]) -> dict[str, str]:
    """One colour for a method of ours in any run; others get those that are left."""
    known = [*METHODS, *BASELINES]
    order = [*known, *(name for name in methods if name not in known)]
    return {method: f"C{order.index(method) % 10}" for method in methods}


def _plain(name: str) -> str:
    """A name that matplotlib takes as it stands: a dollar begins a formula, and a leading underscore hides a line."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
