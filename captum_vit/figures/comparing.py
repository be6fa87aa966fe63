"""The figure of maps side by side."""

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..colours import Look
from ..compared import Compared, Part
from .drawing import Brush, bar_of
from .panels import Bar, Layout, Panel, draw, picture_size
from .titles import Line, lines

SIDE = 2.2


def compared(comparison: Compared, ax: Axes | None = None, *, look: Look) -> Figure:
    """The last maps of all parts, each with its labels and colour bar, and the difference where there is one."""
    parts = comparison.parts
    panels = [_panel(comparison, part, look) for part in parts]
    if not comparison.undivided:
        panels.append(_difference(comparison, look))
    sizes = [picture_size(part.whole.image.size, SIDE) for part in parts]
    size = max(width for width, _ in sizes), max(height for _, height in sizes)
    titles, signed = max(len(panel.title) for panel in panels), any(p.bar and p.bar.signed for p in panels)
    layout = Layout(size, max(size[0], 2.2), 9, titles, True, bar_lines=2 if signed else 1)
    layout, across = layout.within(ax, len(panels), 2.4)
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    return draw(rows, layout, look, parts[0].whole.image.size, ax)


def _panel(comparison: Compared, part: Part, look: Look) -> Panel:
    a, scale = part.attribution, comparison.scale(part, look)
    shared = look.scale != "own" and len(comparison.alike(part)) > 1
    title: tuple[Line, ...] = ((part.heading, ""), (part.image, ""), (part.model, ""), *lines(a))
    bar = bar_of(a, scale, one_scale=shared)
    drawn = Brush.of(part.whole, SIDE, look).panel(a.map, title, scale, bar, a.marks)
    return replace(drawn, size=part.whole.image.size)


def _difference(comparison: Compared, look: Look) -> Panel:
    first, second = comparison.parts
    scale = comparison.difference_scale(look)
    title: tuple[Line, ...] = (
        (f"{second.letter} less {first.letter}", ""),
        (first.attribution.method_title, ""),
        (f"orange: more in {second.heading}", ""),
        (f"blue: more in {first.heading}", ""),
        (comparison.difference_told(), ""),
    )
    counted = Bar((f"difference of {first.attribution.facts.unit}", " per patch"), scale, signed=True)
    brush, marks = Brush.of(first.whole, SIDE, look), comparison.difference_marks
    return brush.panel(comparison.difference[-1], title, scale, counted, marks)
