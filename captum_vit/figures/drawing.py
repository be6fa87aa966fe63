"""Figures of an explanation, by matplotlib.

Each function returns its figure, which pyplot does not know of: save it by `savefig`, let a notebook show it, or give
`ax`, axes of yours, to be drawn in. Titles are set as they are, cut to fit. `look` says how all maps are painted; with
`Look(scale="common")` they share a scale, and otherwise each goes from its own lowest to its own highest value. Of a
video they show the frame with the strongest map; `Explained.still` takes out another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..colours import LOOK, Look, Scale, check_look, nearly_flat
from ..errors import OptionError, brief
from ..explained import Attribution, Explained
from ..geometry import View
from ..marks import Mark
from ..visualization import fitted, thinned
from ..visualization import overlay as drawn_over
from ..wording import number
from .panels import PIXELS, Bar, Layout, Panel, draw, picture_size
from .titles import Line, block_names, heading, lines, unit
from .words import Words

__all__ = ["classes", "flow", "heads", "layers", "methods", "overlay", "plot"]


@dataclass(frozen=True)
class Brush:
    """Lays maps on a copy of the photograph as small, or as large, as it will be seen."""

    photo: Image.Image
    view: View
    look: Look

    @classmethod
    def of(cls, explanation: Explained, side: float, look: Look) -> "Brush":
        """For pictures of this side in inches."""
        check_look(look)
        longest = max(picture_size(explanation.image.size, side))
        return cls(fitted(explanation.image, round(PIXELS * longest)), explanation.view, look)

    def panel(
        self,
        shown: Tensor,
        title: tuple[Line, ...],
        scale: Scale,
        bar: Bar | None = None,
        marks: Sequence[Mark] = (),
    ) -> Panel:
        """A map with its title, over its bar if it has one of its own."""
        return Panel(drawn_over(self.photo, shown, self.view, self.look, scale=scale, marks=marks), title, bar)


def plot(explanation: Explained, ax: Axes | None = None, *, look: Look = LOOK) -> Figure:
    """The figure that suits: one overlay, targets or methods side by side, or a row of targets for each method.

    Of a video, of the frame with the strongest map.
    """
    explanation = explanation.still()
    if len(explanation) == 1:
        return overlay(explanation, ax, look=look)
    if len(explanation.methods) == 1:
        return classes(explanation, ax, look=look)
    if len(explanation.targets) <= 1:
        return methods(explanation, ax, look=look)
    of_classes = [a for a in explanation if a.target is not None]
    rows = [[a for a in of_classes if a.method == m] for m in dict.fromkeys(a.method for a in of_classes)]
    others, columns = [a for a in explanation if a.target is None], len(explanation.targets)
    rows += [others[i : i + columns] for i in range(0, len(others), columns)]  # their maps are of no class
    return _figure(explanation, rows, ax, look)


def overlay(explanation: Explained, ax: Axes | None = None, *, look: Look = LOOK) -> Figure:
    """The first attribution's map on the photograph, with its colour bar; choose another by `Explained.only`."""
    explanation = explanation.still()
    return _figure(explanation, [explanation.attributions[:1]], ax, look, side=3.2)


def classes(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    look: Look = LOOK,
) -> Figure:
    """The first method's maps for all classes (or other targets) side by side."""
    explanation = explanation.still()
    of_classes = [a for a in explanation if a.target is not None] or list(explanation)
    chosen = [a for a in of_classes if a.method == of_classes[0].method]
    return _figure(explanation, [chosen], ax, look)


def methods(explanation: Explained, ax: Axes | None = None, *, look: Look = LOOK) -> Figure:
    """All methods' maps for the first class side by side; each in its own scale, as their units differ."""
    explanation = explanation.still()
    first = explanation.targets[0] if explanation.targets else None
    part = explanation.only(target=first) if first else explanation
    return _figure(explanation, [part.attributions], ax, look)


def layers(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    adds: bool = False,
    look: Look = LOOK,
) -> Figure:
    """The first attribution's map as it stands after each block; blocks are numbered as the model numbers them.

    Args:
        adds: what each block adds to the map instead, for methods whose maps are sums over blocks.
    Raises:
        OptionError: `adds` for a map that is no sum over blocks.
    """
    explanation = explanation.still()
    a = explanation.attributions[0]
    maps, what = a.flow, "" if a.facts.accumulates else ", of each block by itself"
    if adds:
        maps, what = a.flow.diff(dim=0, prepend=a.flow.new_zeros(1, *a.flow.shape[1:])), ", added by each block"
        shrinks = not a.signed and maps.min() < -1e-5 * a.flow.abs().max()  # evidence never does
        if shrinks or not a.facts.accumulates:
            raise OptionError(f"the maps of {a.method!r} are no sum over blocks: there is nothing that each adds")
    name, score = heading(a)
    scales = [look.spanning(m, maps, a.signed) if adds else explanation.scale(a, look, i) for i, m in enumerate(maps)]
    titled = list(zip(block_names(a.layers), maps, scales, strict=True))
    return _series(explanation, titled, (name, score + what), unit(a), ax, look, a.marks)


def heads(
    explanation: Explained,
    layer: int | str = -1,
    ax: Axes | None = None,
    *,
    look: Look = LOOK,
) -> Figure:
    """What each head of a layer looks at: the attention of the tokens that the score is read from.

    Args:
        layer: by position (negative too) or name.
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
    maps = kept[layer]
    titled = [(f"head {i}", map, look.spanning(map, maps, False)) for i, map in enumerate(maps)]
    above = ("Attention of the heads", f", {block_names(names)[names.index(layer)]}")
    return _series(explanation, titled, above, ("attention", " per patch"), ax, look)


def flow(
    explanation: Explained,
    ax: Axes | None = None,
    *,
    count: int | None = None,
    look: Look = LOOK,
) -> Figure:
    """A strip of pictures for each attribution, from the first block to the last, as DAAM's authors show it.

    Args:
        count: so many of the blocks at even distance, the first and the last among them.
    Raises:
        OptionError: `count` below 1.
    """
    explanation = explanation.still()
    side, rows, signs = 1.0, [], set()
    brush, said = Brush.of(explanation, side, look), _shared_by(look, "each block in its own scale")
    for a in explanation:
        names, places = block_names(a.layers), thinned(len(a.layers), count)
        panels = [(i, explanation.scale(a, look, i)) for i in places]
        rows.append([brush.panel(a.flow[i], ((names[i], ""),), scale, marks=a.marks) for i, scale in panels])
        signs |= {scale.signed for _, scale in panels}
    size = picture_size(explanation.image.size, side)
    headings = tuple(map(heading, explanation))
    bars = tuple(Bar((said, ""), signed=signed) for signed in sorted(signs))
    layout = Layout(size, max(size[0], 0.75), 7, 1, False, headings, bars, bar_lines(bars))
    layout = layout.readable(ax, len(rows), max(map(len, rows)))
    return draw(rows, layout, look, explanation.image.size, ax)


def _figure(
    explanation: Explained,
    rows: Sequence[Sequence[Attribution]],
    ax: Axes | None,
    look: Look,
    *,
    side: float = 2.2,
) -> Figure:
    """Final maps with titles and colour bars."""
    every = [a for row in rows for a in row]
    size = picture_size(explanation.image.size, side)
    scales = {id(a): explanation.scale(a, look) for a in every}
    bars = {id(a): bar_of(a, scales[id(a)], one_scale=look.scale != "own") for a in every}
    title = max(len(lines(a)) for a in every)
    layout = Layout(size, max(size[0], 1.6), 9, title, True, bar_lines=bar_lines(bars.values()))
    if len(rows) > 1:
        several = layout.beside(len(rows), max(map(len, rows))) if ax is None else 1
        rows = [[a for row in rows[i : i + several] for a in row] for i in range(0, len(rows), several)]
        layout = layout.readable(ax, len(rows), max(map(len, rows)))
    else:
        layout, across = layout.within(ax, len(every), 2.4)
        rows = [every[i : i + across] for i in range(0, len(every), across)]
    brush = Brush.of(explanation, side, look)
    texts, room = {id(a): Words.of(a, look) for a in every}, max(layout.picture[0], layout.slot * 0.9)
    layout = replace(layout, below=max(text.height(room, layout.type) for text in texts.values()))

    def panel(a: Attribution) -> Panel:
        made = brush.panel(a.map, lines(a), scales[id(a)], bars[id(a)], a.marks)
        return replace(made, below=texts[id(a)].draw)

    panels = [[panel(a) for a in row] for row in rows]
    return draw(panels, layout, look, explanation.image.size, ax)


def _series(
    explanation: Explained,
    titled: Sequence[tuple[str, Tensor, Scale]],
    above: Line,
    counted: Line,
    ax: Axes | None,
    look: Look,
    marks: Sequence[Mark] = (),
) -> Figure:
    """Many maps of one kind, each under its name, with one colour bar."""
    side, first, own = 1.3, titled[0][2], look.scale == "own"
    said = counted[0], f"{counted[1]}, {_shared_by(look, 'each in its own scale')}"
    bar = Bar(said, None if own else first, first.signed)
    size = picture_size(explanation.image.size, side)
    layout = Layout(size, max(size[0], 0.9), 8, 2 if own else 1, False, (above,), (bar,), bar_lines((bar,)))
    layout, across = layout.within(ax, len(titled), 1.6)
    brush = Brush.of(explanation, side, look)
    panels = [
        brush.panel(m, ((title, ""), ("", _range(m, scale.signed))) if own else ((title, ""),), scale, marks=marks)
        for title, m, scale in titled
    ]
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    return draw(rows, layout, look, explanation.image.size, ax)


def _shared_by(look: Look, own: str) -> str:
    """Whose scale the colours are."""
    return own if look.scale == "own" else "one scale"


def bar_of(a: Attribution, scale: Scale, *, one_scale: bool) -> Bar:
    """Of a picture that has one for itself, whether or not others share its scale."""
    counted, rest = unit(a)
    return Bar((counted, f"{rest}, one scale" if one_scale else rest), scale, scale.signed, _flat(a.map))


def _flat(values: Tensor) -> tuple[float, float] | None:
    """The least and the greatest value of a map that is nearly flat."""
    return (values.min().item(), values.max().item()) if nearly_flat(values) else None


def bar_lines(bars: Iterable[Bar]) -> int:
    """How many lines of text stand under a colour bar."""
    return 2 if any(bar.signed for bar in bars) else 1


def _range(values: Tensor, signed: bool) -> str:
    """The highest value of a map, and with two signs, or where it is nearly flat, the lowest too."""
    low, high, flat = number(values.min().item()), number(values.max().item()), nearly_flat(values)
    return f"{low} to {high}{', flat' * flat}" if signed or flat else f"max {high}"
