"""Pictures in rows, with titles and colour bars, on a figure of their own or within somebody's axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from math import ceil, log, sqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from ..colours import NEARLY_FLAT, Look, Scale
from ..wording import number
from .fitting import cut, width_of
from .titles import Line

# All lengths are in inches; type in points.
GAP, BAR, PAD = 0.12, 0.09, 3.0
LINE = 1.28 / 72  # height of a line for each point of type
READABLE = 6.5
TOWER, PAGE = 3.0, 1.4  # height by width from which rows are broken, and at most then
PIXELS = 200  # of a picture, for each inch


@dataclass(frozen=True)
class Bar:
    """What the colours mean.

    scale: what the lowest and the highest stand for, None where each picture has its own.
    signed: whether there are two colours around 0; the label then has a line of its own under the numbers.
    flat: the least and the greatest value of a map that is nearly flat, which the label tells.
    """

    label: Line
    scale: Scale | None = None
    signed: bool = False
    flat: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[str, str]:
        """What stands at the lowest and at the highest colour."""
        if self.scale is None:
            return ("against", "for") if self.signed else ("lowest", "highest")
        return number(self.scale.low), number(self.scale.high)

    @property
    def told(self) -> Line:
        """What stands at the middle: the label, or of a map that is nearly flat its values."""
        if self.flat is None:
            return self.label
        low, high = map(number, self.flat)
        return (f"{low} everywhere" if low == high else f"{NEARLY_FLAT}, {low} to {high}"), ""


@dataclass(frozen=True)
class Panel:
    """A picture under the lines of its title, over its own bar."""

    picture: Image.Image
    title: tuple[Line, ...] = ()
    bar: Bar | None = None
    size: tuple[int, int] | None = None  # (width, height) of its photograph, where these differ
    below: Callable[["Canvas", tuple[float, float], float, float], None] | None = None  # draws what is below its bar


class NotebookFigure(Figure):
    """A figure that pyplot does not know of, so that nothing piles up, and that a notebook shows all the same."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


@dataclass(frozen=True)
class Layout:
    """Where things are: pictures within slots, in rows and columns.

    picture: (width, height).
    slot: width that a picture, its title and its bar may take.
    type: size of the titles in points.
    lines: of a title.
    own_bars: whether each picture has one.
    headings: of the rows, one line above each from the first on.
    legends: colour bars below all.
    bar_lines: of text under a colour bar.
    below: height of what else stands there, below each bar.
    """

    picture: tuple[float, float]
    slot: float
    type: float
    lines: int
    own_bars: bool = False
    headings: tuple[Line, ...] = ()
    legends: tuple[Bar, ...] = ()
    bar_lines: int = 1
    below: float = 0.0

    @property
    def pitch(self) -> tuple[float, float]:
        """From one slot to the next, (across, down)."""
        title = self.lines * self.type * LINE + (PAD / 72 if self.lines else 0)
        return self.slot + GAP, title + self.picture[1] + (self.bar if self.own_bars else 0) + GAP

    @property
    def bar(self) -> float:
        """Height of a colour bar with its numbers."""
        return 0.06 + BAR + PAD / 72 + self.bar_lines * self.type * LINE + self.below

    def top(self, row: int) -> float:
        """Where a row begins, heading and all."""
        return GAP + row * self.pitch[1] + min(row, len(self.headings)) * self.heading

    @property
    def heading(self) -> float:
        """Height of a row's heading."""
        return (self.type + 1) * LINE + 0.04

    def size(self, rows: int, columns: int) -> tuple[float, float]:
        """Of the whole, (width, height)."""
        return GAP + columns * self.pitch[0], self.top(rows) + self.bar * len(self.legends)

    def within(self, ax: Axes | None, count: int, proportion: float) -> tuple["Layout", int]:
        """The layout and its columns for so many panels; in axes that are given, with type that can still be read."""
        if ax is None:
            return self, self.columns(count, proportion)
        proportion = ax.bbox.width / ax.bbox.height
        columns = self.columns(count, proportion)
        layout = self.readable(ax, ceil(count / columns), columns)
        return layout, layout.columns(count, proportion)

    def readable(self, ax: Axes | None, rows: int, columns: int) -> "Layout":
        """The layout with larger type, where the axes are so small that everything in them will shrink."""
        if ax is None:
            return self
        shrunk = self.type * zoom(self.size(rows, columns), ax)
        return replace(self, type=self.type * min(max(READABLE / shrunk, 1), 2))

    def beside(self, rows: int, columns: int) -> int:
        """How many of so many rows have to stand side by side, so that the whole is no tower."""
        sizes = {n: self.size(ceil(rows / n), n * columns) for n in range(1, rows + 1)}
        fit = [n for n, (width, height) in sizes.items() if height <= (TOWER if n == 1 else PAGE) * width]
        return fit[0] if fit else rows

    def columns(self, count: int, proportion: float) -> int:
        """How many columns bring so many panels near this proportion of width to height, with few places empty."""

        def badness(columns: int) -> float:
            rows = ceil(count / columns)
            width, height = self.size(rows, columns)
            return abs(log(width / height / proportion)) + 1.5 * (rows * columns - count) / count

        return min(range(1, count + 1), key=badness)


class Canvas:
    """Somewhere to put axes and text in inches from the upper left corner: a new figure, or axes that are given."""

    def __init__(self, size: tuple[float, float], ax: Axes | None) -> None:
        self.size, self.host, self.zoom = size, ax, 1.0
        if ax is None:
            self.figure: Any = NotebookFigure(figsize=size)
            return
        self.figure, self.zoom = ax.figure, zoom(size, ax)
        ax.set_box_aspect(size[1] / size[0])
        ax.set_axis_off()

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with this upper left corner."""
        across, down = self.size
        place = (x / across, 1 - (y + height) / down, width / across, height / down)
        made: Axes = (self.host.inset_axes if self.host else self.figure.add_axes)(place, anchor="N")
        return made

    def text(self, x: float, y: float, text: str, type: float) -> None:
        """Text with this upper left corner."""
        where = self.figure.transSubfigure if self.host is None else self.host.transAxes
        (self.host or self.figure).text(
            x / self.size[0],
            1 - y / self.size[1],
            text,
            transform=where,
            va="top",
            fontsize=type * self.zoom,
            parse_math=False,
            usetex=False,
        )


def zoom(size: tuple[float, float], ax: Axes) -> float:
    """The factor that brings something of this size (in inches) into the axes, at most 1.5."""
    dpi = ax.figure.dpi
    return min(ax.bbox.width / dpi / size[0], ax.bbox.height / dpi / size[1], 1.5)


def picture_size(image: tuple[int, int], side: float) -> tuple[float, float]:
    """Of an image in inches: the area of a square of this side, the longer side at most 1.6 times as long."""
    root = sqrt(image[0] / image[1])
    width, height = side * root, side / root
    fit = min(1.0, 1.6 * side / max(width, height))
    return width * fit, height * fit


def draw(
    rows: Sequence[Sequence[Panel]], layout: Layout, look: Look, image: tuple[int, int], ax: Axes | None = None
) -> Figure:
    """The panels in their rows.

    image: (width, height) of the photograph, whose pixels are the coordinates of each panel.  ax: to draw in.
    """
    size = layout.size(len(rows), max(map(len, rows)))
    canvas = Canvas(size, ax)
    across, down = layout.pitch
    title = down - GAP - layout.picture[1] - (layout.bar if layout.own_bars else 0)
    for i, row in enumerate(rows):
        y = layout.top(i)
        if i < len(layout.headings):
            canvas.text(GAP, y, cut(layout.headings[i], size[0] - 2 * GAP, layout.type + 1), layout.type + 1)
            y += layout.heading
        for j, panel in enumerate(row):
            x = GAP + j * across + (layout.slot - layout.picture[0]) / 2
            _draw_panel(canvas, panel, layout, look, image, (x, y + title))
    width = min(size[0] - 2 * GAP, 3.2)
    for i, bar in enumerate(layout.legends):
        y = layout.top(len(rows)) + i * layout.bar
        _draw_bar(canvas, bar, look, ((size[0] - width) / 2, y, width), layout.type)
    found: Figure = canvas.figure.canvas.figure  # of a subfigure, the whole
    return found


def _draw_panel(
    canvas: Canvas, panel: Panel, layout: Layout, look: Look, image: tuple[int, int], corner: tuple[float, float]
) -> None:
    (x, y), (width, height) = corner, layout.picture
    axes = canvas.axes(x, y, width, height)
    right, bottom = panel.size or image
    axes.imshow(np.asarray(panel.picture), extent=(-0.5, right - 0.5, bottom - 0.5, -0.5))
    axes.set_axis_off()
    if panel.title:
        lines = [cut(line, layout.slot, layout.type) for line in panel.title]
        axes.set_title(
            "\n".join(lines),
            fontsize=layout.type * canvas.zoom,
            pad=PAD * canvas.zoom,
            parse_math=False,
            usetex=False,
            linespacing=1.15,
        )
    if panel.bar is not None:
        wide = max(width, layout.slot * 0.9)  # a narrow picture would leave no room for its numbers
        left = x + (width - wide) / 2
        _draw_bar(canvas, panel.bar, look, (left, y + height + 0.06, wide), layout.type)
        if panel.below is not None:
            panel.below(canvas, (left, y + height + layout.bar - layout.below), wide, layout.type)


def _draw_bar(canvas: Canvas, bar: Bar, look: Look, place: tuple[float, float, float], type: float) -> None:
    """A colour bar in the colours as they look on mid grey, below it its ends, and the label between them or under."""
    axes = canvas.axes(*place, BAR)
    scale = bar.scale or Scale.between(0, 1, bar.signed)
    low, high, size = scale.low, scale.high, (type - 1) * canvas.zoom
    colours = look.on_grey(bar.signed)
    shown = ScalarMappable(Normalize(low, high), ListedColormap(colours))
    drawn = axes.figure.colorbar(shown, cax=axes, orientation="horizontal")
    drawn.outline.set_visible(False)  # type: ignore[operator]
    ticks = [(low, bar.ends[0]), *[(0.0, "0")] * bar.signed, (high, bar.ends[1])]
    drawn.set_ticks([place for place, _ in ticks], labels=[text for _, text in ticks])
    axes.tick_params(length=0, pad=PAD * canvas.zoom, labelsize=size)
    left, *_, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    beside = 0 if bar.signed else 2 * max(width_of(end, type - 1) for end in bar.ends) + 0.1  # the label is centred
    shown_label = cut(bar.told, place[2] - beside, type - 1)
    if not shown_label.endswith("…"):  # half a word says less than none
        drawn.set_label(shown_label, fontsize=size, parse_math=False, usetex=False)
    down = PAD / 72 + (type * LINE if bar.signed else 0)
    below = ScaledTranslation(0, -down * canvas.zoom, canvas.figure.dpi_scale_trans)
    axes.xaxis.set_label_coords(0.5, 0, transform=axes.transAxes + below)
