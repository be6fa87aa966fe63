"""The words of a text below its map, in the colours of their shares."""

from dataclasses import dataclass
from typing import Any

from matplotlib.patches import Rectangle

from ..colours import Look
from ..explained import Attribution
from .fitting import width_of
from .panels import LINE, Canvas

GAP = 0.12  # around a word
HIGH = 1.5  # of a line of words, by the type's own


@dataclass(frozen=True)
class Word:
    """A word, and its colour, (red, green, blue) in 0..1."""

    text: str
    colour: tuple[float, float, float]

    @property
    def ink(self) -> str:
        """Black or white, whichever is read better on its colour, by the rules of WCAG."""
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in self.colour)
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return "black" if (light + 0.05) ** 2 > 0.05 * 1.05 else "white"


@dataclass(frozen=True)
class Words:
    """A text, to be drawn in lines; of another target than a text it has no words."""

    words: tuple[Word, ...] = ()

    @classmethod
    def of(cls, attribution: Attribution, look: Look) -> "Words":
        """The text of an attribution, in the colours that its maps would have."""
        sentence = attribution.sentence
        if sentence is None:
            return cls()
        scale = sentence.scale(look, attribution.signed)
        colours = look.on_grey(scale.signed)[scale.levels(sentence.shares.numpy())].tolist()
        return cls(tuple(Word(w.text, (c[0], c[1], c[2])) for w, c in zip(sentence.words, colours, strict=True)))

    def lines(self, room: float, type: float) -> list[list[Word]]:
        """Those that stand on each line, where it has so many inches."""
        found: list[list[Word]] = []
        left = 0.0
        for word in self.words:
            wide = width_of(word.text, type) + GAP
            if not found or wide > left:
                found.append([])
                left = room
            found[-1].append(word)
            left -= wide
        return found

    def height(self, room: float, type: float) -> float:
        """In inches."""
        return len(self.lines(room, type)) * HIGH * type * LINE

    def draw(self, canvas: Canvas, corner: tuple[float, float], room: float, type: float) -> None:
        """Each word on its colour, from the upper left corner on."""
        for i, line in enumerate(self.lines(room, type)):
            x, y = corner[0], corner[1] + (i + 0.25) * HIGH * type * LINE
            for word in line:
                wide = width_of(word.text, type) + GAP
                axes = canvas.axes(x, y, wide - 0.03, 1.15 * type * LINE)
                axes.set_axis_off()
                axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor=word.colour))
                where: dict[str, Any] = {"ha": "center", "va": "center_baseline", "transform": axes.transAxes}
                axes.text(
                    *(0.5, 0.5, word.text),
                    fontsize=type * canvas.zoom,
                    color=word.ink,
                    parse_math=False,
                    usetex=False,
                    **where,
                )
                x += wide
