"""What patches say, drawn on photographs, and such pictures in rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..colours import LOOK, Look
from ..figures.panels import PIXELS, Bar, Layout, Panel, draw, picture_size
from ..figures.titles import Line
from ..geometry import View
from ..names import printable
from ..visualization import fitted, overlay, typeface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Eight hues that colour-blind people tell apart (Okabe & Ito, Wong 2011), black exchanged for a light grey.
HUES = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((213, 94, 0), (204, 121, 167), (0, 114, 178), (225, 225, 225)),
)
OTHERS = (120, 120, 120)  # of the classes beyond those
NAMED = 5  # classes whose names stand on a picture


@dataclass(frozen=True)
class Row:
    """Pictures under one heading, with a title for each, whose lines are parted by line breaks."""

    heading: str
    pictures: Sequence[Image.Image]
    titles: Sequence[str]


def coloured(
    image: Image.Image, view: View, colours: Tensor, *, alpha: float | Tensor = 1.0, smooth: bool = True
) -> Image.Image:
    """Colours (rows, cols, 3) in 0..1 on a photograph, itself in grey; NaN, and what the model never saw, has none.

    Args:
        image, view: the original, and how the model looked at it.
        colours: one for each patch.
        alpha: opacity, one number or one for each patch.
        smooth: bilinear between the patches; otherwise each patch is a rectangle.
    """
    known = ~colours.isnan().any(-1)
    weights = torch.as_tensor(alpha, dtype=torch.float64).expand(known.shape) * known
    parts = (colours.nan_to_num(0) * weights[..., None]).unbind(-1)
    opacity = np.nan_to_num(view.place(weights, image.size, smooth=smooth))
    mixed = np.nan_to_num(np.stack([view.place(part, image.size, smooth=smooth) for part in parts], -1))
    bare = np.asarray(overlay(image, torch.zeros(known.shape), view, Look(alpha=0)), np.float64)
    drawn = 255 * mixed + (1 - opacity[..., None]) * bare
    return Image.fromarray((drawn + 0.5).clip(0, 255).astype(np.uint8))


def outlined(picture: Image.Image, view: View, grid: Sequence[int], cells: Sequence[Sequence[int]]) -> Image.Image:
    """The picture of a photograph with the outlines of some patches, (row, column) each, white on black."""
    pen, wide = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 250))
    left, top, right, bottom = view.box
    across, down = (right - left) / grid[1], (bottom - top) / grid[0]
    for row, column in cells:
        box = [left + column * across, top + row * down, left + (column + 1) * across, top + (row + 1) * down]
        edges = [round(box[0]), round(box[1]), round(box[2]) - 1, round(box[3]) - 1]
        if edges[0] < edges[2] and edges[1] < edges[3]:
            pen.rectangle([edges[0] - wide, edges[1] - wide, edges[2] + wide, edges[3] + wide], None, "black", wide)
            pen.rectangle(edges, None, "white", wide)
    return picture


def labelled(
    image: Image.Image,
    view: View,
    numbers: Tensor,
    opacity: Tensor,
    order: Sequence[int],
    title: Callable[[int], str],
) -> Image.Image:
    """The class of each patch on a photograph: its colour, and the names of the commonest where most of them lie.

    A name that would lie on that of a commoner class is left out.

    Args:
        image, view: the original, and how the model looked at it.
        numbers: classes, (rows, cols).
        opacity: of each patch.
        order: the classes in the order in which they have colours of their own.
        title: the name of a class.
    """
    hues = dict(zip(order, HUES, strict=False))
    colours = torch.tensor([[hues.get(n, OTHERS) for n in row] for row in numbers.tolist()]) / 255
    drawn = coloured(image, view, colours.double(), alpha=opacity, smooth=False)
    classes, counts = numbers.flatten().unique(return_counts=True)
    commonest = classes[counts.argsort(descending=True)][:NAMED].tolist()
    left, top, right, bottom = view.box
    rows, columns = numbers.shape
    pen, font = ImageDraw.Draw(drawn), typeface(max(10, round(max(image.size) / 20)))
    taken: list[tuple[float, float, float]] = []
    for number in commonest:
        row, column = heart(numbers == number)
        place = left + (column + 0.5) * (right - left) / columns, top + (row + 0.5) * (bottom - top) / rows
        text = printable(title(number))
        half = font.getlength(text) / 2
        x = min(max(place[0], half + 2), max(image.width - half - 2, half + 2))
        y = min(max(place[1], font.size), image.height - font.size)
        if all(abs(x - other) > half + reach or abs(y - level) > font.size for other, level, reach in taken):
            pen.text((x, y), text, "white", font, "mm", stroke_width=max(1, round(font.size / 8)), stroke_fill="black")
            taken.append((x, y, half))
    return drawn


def heart(cells: Tensor) -> tuple[int, int]:
    """Of cells (rows, cols), bool, the one that lies deepest in the largest region of them, side by side."""
    left, largest = {(row, column) for row, column in cells.nonzero().tolist()}, list[tuple[int, int]]()
    while left:
        region = [left.pop()]
        for row, column in region:  # which grows
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            region += near
        largest = max(largest, region, key=lambda one: (len(one), sorted(one)[::-1]))
    middle = np.mean(largest, 0)
    return min(sorted(largest), key=lambda cell: float(((np.array(cell) - middle) ** 2).sum()))


def framed(pictures: Sequence[Image.Image], side: int) -> list[Image.Image]:
    """Pictures with longest sides of so many pixels, at the top of white ones that are all of one size."""
    shown = [fitted(picture, side) for picture in pictures]
    width, height = max(p.width for p in shown), max(p.height for p in shown)
    frames = []
    for picture in shown:
        frame = Image.new("RGB", (width, height), "white")
        frame.paste(picture, ((width - picture.width) // 2, 0))
        frames.append(frame)
    return frames


def figure(
    rows: Sequence[Row], title: Line, ax: "Axes | None" = None, bar: Bar | None = None, look: Look = LOOK
) -> "Figure":
    """Rows of pictures under one heading, with the bar of their colours; a single row is broken where it is long.

    Args:
        rows: of pictures.
        title: what stands over all.
        ax: axes to draw in; by default a figure of its own.
        bar: what the colours mean.
        look: how they are painted, for the bar.
    """
    every = [picture for row in rows for picture in row.pictures]
    side = 2.6 if len(every) <= 4 else 1.7
    frames = iter(framed(every, round(1.6 * side * PIXELS)))
    titled = [[tuple((line, "") for line in text.split("\n") if line) for text in row.titles] for row in rows]
    panels = [[Panel(next(frames), title) for title in titles] for titles in titled]
    first = panels[0][0].picture
    size = picture_size(first.size, side)
    lines = max(len(panel.title) for row in panels for panel in row)
    legends = () if bar is None else (bar,)
    headings: tuple[Line, ...] = (title,)
    if len(rows) > 1:
        headings = tuple((row.heading or f"image {i}", f": {title[0]}{title[1]}") for i, row in enumerate(rows, 1))
    layout = Layout(size, max(size[0], 1.2), 8, lines, False, headings, legends, 1)
    if len(rows) == 1:
        layout, across = layout.within(ax, len(every), 2.0)
        panels = [panels[0][i : i + across] for i in range(0, ceil(len(every) / across) * across, across)]
    else:
        layout = layout.readable(ax, len(rows), max(map(len, panels)))
    return draw(panels, layout, look, first.size, ax)
