"""A run's figures."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import RunError
from ..panels import NotebookFigure

if TYPE_CHECKING:
    from .results import Leaderboard


def bars(board: "Leaderboard", metric: str, ax: Axes | None = None) -> Figure:
    """The mean of each method with its 95 % interval, the best on top."""
    rows = [(method, row[metric]) for method, row in board.table([metric]).items()]
    axes = ax or NotebookFigure(figsize=(5.5, 0.8 + 0.35 * len(rows)), layout="constrained").subplots()
    places = np.arange(len(rows))[::-1]
    means = np.array([mean.value for _, mean in rows])
    errors = np.array([[m.value - m.low, m.high - m.value] for _, m in rows]).T
    axes.barh(places, means, xerr=errors, height=0.6, color="#7a6ea5", ecolor="#222222", capsize=3)
    axes.set_yticks(places, [method for method, _ in rows])
    axes.set_xlabel(f"{metric}, mean and 95 % interval")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def curves(board: "Leaderboard", name: str, ax: Axes | None = None) -> Figure:
    """The mean of a curve for each method, over the share of the image that was changed.

    Raises:
        RunError: the run holds no such curves.
    """
    if name not in board.columns or board.columns[name].dtype != object:
        known = [n for n, values in board.columns.items() if n.endswith("_curve") and values.dtype == object]
        raise RunError(f"no curves {name!r} in this run; it has {', '.join(known) or 'none'}")
    axes = ax or NotebookFigure(figsize=(5.5, 3.6), layout="constrained").subplots()
    for method in board.methods:
        drawn = [curve for curve in board.columns[name][board.columns["method"] == method] if curve is not None]
        mean = np.nanmean(np.array(drawn, float), 0)
        axes.plot(np.linspace(0, 1, len(mean)), mean, marker=".", label=method)
    axes.set_xlabel("share of the levels")
    axes.set_ylabel(name)
    axes.legend(frameon=False)
    return axes.get_figure(root=True)  # type: ignore[return-value]
