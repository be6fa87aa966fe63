"""Figures of an explanation, by matplotlib.

Each function returns its figure, which pyplot does not know of: save it by `savefig`, let a notebook show it, or give
`ax`, axes of yours, to be drawn in. Titles are set as they are, cut to fit. `cmap` names a colour map for all maps; by
default maps with two signs are drawn in two colours around 0, and others from dark to bright (see `visualization`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..errors import OptionError, brief
from ..explained import Attribution, Explained
from ..geometry import View
from ..visualization import ALPHA, displayed, fitted, span_of, thinned
from ..visualization import overlay as drawn_over
from .panels import PIXELS, Bar, Layout, Look, Panel, draw, picture_size
from .titles import Line, block_names, heading, lines, three_digits, unit

__all__ = ["classes", "flow", "heads", "layers", "methods", "overlay", "plot"]

FINE = Look(None, ALPHA)


@dataclass(frozen=True)
class Brush:
    """Lays maps on a copy of the photograph as small, or as large, as it will be seen."""

    photo: Image.Image
    view: View
    look: Look

    @classmethod
    def of(cls, explanation: Explained, side: float, look: Look) -> "Brush":
        """For pictures of this side in inches."""
        longest = max(picture_size(explanation.image.size, side))
        return cls(fitted(explanation.image, round(PIXELS * longest)), explanation.view, look)

    def panel(self, shown: Tensor, title: tuple[Line, ...], bar: Bar, own: bool = False) -> Panel:
        """A map with its title, in the colours of `bar`; `own` puts the bar under it."""
        alpha, cmap = self.look.alpha, self.look.cmap
        drawn = drawn_over(self.photo, shown, self.view, alpha=alpha, cmap=cmap, span=bar.span, signed=bar.signed)
        return Panel(drawn, title, bar if own else None)


def plot(explanation: Explained, ax: Axes | None = None) -> Figure:
    """The figure that suits: one overlay, targets or methods side by side, or a row of targets for each method."""
    if len(explanation) == 1:
        return overlay(explanation, ax)
    if len(explanation.methods) == 1:
        return classes(explanation, ax)
    if len(explanation.targets) <= 1:
        return methods(explanation, ax)
    of_classes = [a for a in explanation if a.target is not None]
    rows = [[a for a in of_classes if a.method == m] for m in dict.fromkeys(a.method for a in of_classes)]
    others, columns = [a for a in explanation if a.target is None], len(explanation.targets)
    rows += [others[i : i + columns] for i in range(0, len(others), columns)]  # their maps are of no class
    return _figure(explanation, rows, ax, FINE)


def overlay(explanation: Explained, ax: Axes | None = None, *, cmap: str | None = None, alpha: float = ALPHA) -> Figure:
    """The first attribution's map on the photograph, with its colour bar; choose another by `Explained.only`."""
    return _figure(explanation, [explanation.attributions[:1]], ax, Look(cmap, alpha), side=3.2)


def classes(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    shared: bool = False,
    cmap: str | None = None,
    alpha: float = ALPHA,
) -> Figure:
    """The first method's maps for all classes (or other targets) side by side.

    Args:
        shared: all in one scale of colours; otherwise each from its own lowest to its highest value, which its colour
            bar names.
    """
    of_classes = [a for a in explanation if a.target is not None] or list(explanation)
    chosen = [a for a in of_classes if a.method == of_classes[0].method]
    return _figure(explanation, [chosen], ax, Look(cmap, alpha), shared=shared)


def methods(explanation: Explained, ax: Axes | None = None, *, cmap: str | None = None, alpha: float = ALPHA) -> Figure:
    """All methods' maps for the first class side by side; each in its own scale, as their units differ."""
    first = explanation.targets[0] if explanation.targets else None
    part = explanation.only(target=first) if first else explanation
    return _figure(explanation, [part.attributions], ax, Look(cmap, alpha))


def layers(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    adds: bool = False,
    shared: bool = False,
    cmap: str | None = None,
    alpha: float = ALPHA,
) -> Figure:
    """The first attribution's map as it stands after each block; blocks are numbered as the model numbers them.

    Args:
        adds: what each block adds to the map instead, for methods whose maps are sums over blocks.
        shared: all in one scale of colours; otherwise each in its own, its highest value in its title.
    Raises:
        OptionError: `adds` for a map that is no sum over blocks.
    """
    a = explanation.attributions[0]
    maps, what = a.flow, "after each block" if a.facts.accumulates else "of each block by itself"
    if adds:
        maps, what = a.flow.diff(dim=0, prepend=a.flow.new_zeros(1, *a.flow.shape[1:])), "added by each block"
        shrinks = not a.signed and maps.min() < -1e-5 * a.flow.abs().max()  # evidence never does
        if shrinks or not a.facts.accumulates:
            raise OptionError(f"the maps of {a.method!r} are no sum over blocks: there is nothing that each adds")
    name, score = heading(a)
    titled = list(zip(block_names(a.layers), maps, strict=True))
    bar = _bar(unit(a), maps if shared else None, a.signed)
    return _series(explanation, titled, (name, f"{score}, {what}"), bar, ax, Look(cmap, alpha))


def heads(
    explanation: Explained,
    layer: int | str = -1,
    ax: Axes | None = None,
    *,
    shared: bool = False,
    cmap: str | None = None,
    alpha: float = ALPHA,
) -> Figure:
    """What each head of a layer looks at: the attention of the tokens that the score is read from.

    Args:
        layer: by position (negative too) or name.
        shared: as for `layers`.
    Raises:
        OptionError: the attention was not kept, or no such layer.
    """
    if explanation.attention is None:
        raise OptionError("this explanation kept no attention: pass attention=True to explain()")
    kept = explanation.attention.heads
    names = list(kept)
    if isinstance(layer, int) and -len(names) <= layer < len(names):
        layer = names[layer]
    if not isinstance(layer, str) or layer not in kept:
        raise OptionError(f"no layer {brief(layer)}; there are 0 to {len(names) - 1}: {', '.join(names)}")
    titled = [(f"head {i}", map) for i, map in enumerate(kept[layer])]
    above = ("Attention of the heads", f", {block_names(names)[names.index(layer)]}")
    bar = _bar(("attention", " per patch"), kept[layer] if shared else None, False)
    return _series(explanation, titled, above, bar, ax, Look(cmap, alpha))


def flow(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    count: int | None = None,
    cmap: str | None = None,
    alpha: float = ALPHA,
) -> Figure:
    """A strip of pictures for each attribution, from the first block to the last, as DAAM's authors show it.

    Args:
        count: so many of the blocks at even distance, the first and the last among them.
    Raises:
        OptionError: `count` below 1.
    """
    look, side, rows = Look(cmap, alpha), 1.0, []
    brush, said = Brush.of(explanation, side, look), ("within each block", ", faint values raised")
    for a in explanation:
        picked, names = thinned(len(a.layers), count), block_names(a.layers)
        maps, span = displayed(a.flow, signed=a.signed)
        rows.append([brush.panel(maps[i], ((names[i], ""),), Bar(said, span, a.signed)) for i in picked])
    size = picture_size(explanation.image.size, side)
    headings = tuple(map(heading, explanation))
    bars = tuple(Bar(said, signed=signed) for signed in sorted({a.signed for a in explanation}))
    layout = Layout(size, max(size[0], 0.75), 7, 1, False, headings, bars, _bar_lines(bars))
    layout = layout.readable(ax, len(rows), max(map(len, rows)))
    return draw(rows, layout, look, explanation.image.size, ax)


def _figure(
    explanation: Explained,
    rows: Sequence[Sequence[Attribution]],
    ax: Axes | None,
    look: Look,
    *,
    side: float = 2.2,
    shared: bool = False,
) -> Figure:
    """Final maps with titles and colour bars."""
    every = [a for row in rows for a in row]
    size = picture_size(explanation.image.size, side)
    first = max(every, key=lambda a: a.signed)  # one map with two signs gives all of a scale two colours
    one = _bar(unit(first), [a.map for a in every], first.signed) if shared else None
    bars = {id(a): one or Bar(unit(a), span_of([a.map], a.signed), a.signed) for a in every}
    title, legends = max(len(lines(a)) for a in every), (one,) if one else ()
    layout = Layout(size, max(size[0], 1.6), 9, title, not shared, (), legends, _bar_lines(bars.values()))
    if len(rows) > 1:
        several = layout.beside(len(rows), max(map(len, rows))) if ax is None else 1
        rows = [[a for row in rows[i : i + several] for a in row] for i in range(0, len(rows), several)]
        layout = layout.readable(ax, len(rows), max(map(len, rows)))
    else:
        layout, across = layout.within(ax, len(every), 2.4)
        rows = [every[i : i + across] for i in range(0, len(every), across)]
    brush = Brush.of(explanation, side, look)
    panels = [[brush.panel(a.map, lines(a), bars[id(a)], own=not shared) for a in row] for row in rows]
    return draw(panels, layout, look, explanation.image.size, ax)


def _series(
    explanation: Explained,
    titled: Sequence[tuple[str, Tensor]],
    above: Line,
    bar: Bar,
    ax: Axes | None,
    look: Look,
) -> Figure:
    """Many maps of one kind, each under its name, with one colour bar."""
    side, shared = 1.3, bar.span is not None
    size = picture_size(explanation.image.size, side)
    layout = Layout(size, max(size[0], 0.9), 8, 1 if shared else 2, False, (above,), (bar,), _bar_lines((bar,)))
    layout, across = layout.within(ax, len(titled), 1.6)
    brush = Brush.of(explanation, side, look)
    panels = [
        brush.panel(m, ((title, ""),) if shared else ((title, ""), ("", _range(m, bar.signed))), bar)
        for title, m in titled
    ]
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    return draw(rows, layout, look, explanation.image.size, ax)


def _bar(counted: Line, shared: Iterable[Tensor] | None, signed: bool) -> Bar:
    """The one colour bar of several maps, in one scale if these are given."""
    label = (counted[0], f"{counted[1]}, {'each in its own scale' if shared is None else 'one scale'}")
    return Bar(label, None if shared is None else span_of(shared, signed), signed)


def _bar_lines(bars: Iterable[Bar]) -> int:
    return 2 if any(bar.signed for bar in bars) else 1


def _range(values: Tensor, signed: bool) -> str:
    """The highest value of a map, and with two signs the lowest too."""
    high = three_digits(values.max().item())
    return f"{three_digits(values.min().item())} to {high}" if signed else f"max {high}"
