"""What was asked about, as it is drawn on the image: a box, the outline of a region, or a point."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

EDGE = 0.004  # of the longer side: how far within the edge of the image a line stays
RADIUS = 0.015  # of the longer side, of the circle around a point

Points = list[tuple[float, float]]  # (x, y) in pixels of the image, as edges count: pixel i lies between i and i + 1


@dataclass(frozen=True)
class Box:
    """A rectangle, by its edges in pixels of the image.

    >>> from captum_vit.marks import Box
    >>> Box(10, 20, 110, 70).scaled(0.5, 0.5)
    Box(left=5.0, top=10.0, right=55.0, bottom=35.0)
    """

    left: float
    top: float
    right: float
    bottom: float

    def rings(self, size: tuple[int, int]) -> list[Points]:
        """Closed lines to draw, on an image of (width, height): of a box that goes beyond it the part within."""
        corners = (self.left, self.top), (self.right, self.top), (self.right, self.bottom), (self.left, self.bottom)
        return [_within(corners, size)]

    def scaled(self, across: float, down: float) -> "Box":
        """On a copy of the image that was resized by these factors."""
        return Box(self.left * across, self.top * down, self.right * across, self.bottom * down)


@dataclass(frozen=True)
class Outline:
    """The edge of a region: closed lines, as around parts of it and around holes in them.

    >>> import numpy as np
    >>> from captum_vit.marks import Outline
    >>> Outline.of(np.array([[True, False], [True, True]])).lines
    (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (0.0, 2.0)),)
    """

    lines: tuple[tuple[tuple[float, float], ...], ...]

    @classmethod
    def of(cls, region: np.ndarray) -> "Outline":
        """Of a region, bool (rows, cols), in cells: around each part, with the part to the right of the way."""
        padded = np.pad(region.astype(bool), 1)
        after: dict[tuple[int, int], list[tuple[int, int]]] = {}
        # each edge of a cell whose neighbour there is not in the region, from corner to corner as a clock goes
        for (down, across), start, end in (
            ((-1, 0), (0, 0), (1, 0)),
            ((0, 1), (1, 0), (1, 1)),
            ((1, 0), (1, 1), (0, 1)),
            ((0, -1), (0, 1), (0, 0)),
        ):
            neighbour = np.roll(padded, (-down, -across), (0, 1))
            for row, column in np.argwhere(padded & ~neighbour).tolist():
                x, y = column - 1, row - 1
                after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
        lines = []
        while after:
            lines.append(_corners(_walked(after)))
        return cls(tuple(sorted(lines)))

    def moved(self, scale: tuple[float, float], offset: tuple[float, float]) -> "Outline":
        """With each point at (x * scale + offset)."""
        moved = (tuple((x * scale[0] + offset[0], y * scale[1] + offset[1]) for x, y in line) for line in self.lines)
        return replace(self, lines=tuple(moved))

    def rings(self, size: tuple[int, int]) -> list[Points]:
        """Closed lines to draw, on an image of (width, height)."""
        return [_within(line, size) for line in self.lines]

    def scaled(self, across: float, down: float) -> "Outline":
        """On a copy of the image that was resized by these factors."""
        return self.moved((across, down), (0.0, 0.0))


@dataclass(frozen=True)
class Point:
    """One place, in pixels of the image.

    >>> from captum_vit.marks import Point
    >>> Point(30, 40).scaled(0.5, 0.5)
    Point(x=15.0, y=20.0)
    """

    x: float
    y: float

    def rings(self, size: tuple[int, int]) -> list[Points]:
        """A small circle around it with four lines that lead to it, on an image of (width, height)."""
        radius, turns = max(2.0, RADIUS * max(size)), np.linspace(0, 2 * np.pi, 17)[:-1].tolist()

        def at(turn: float, away: float) -> tuple[float, float]:
            return self.x + away * radius * float(np.cos(turn)), self.y + away * radius * float(np.sin(turn))

        return [[at(turn, 1) for turn in turns], *([at(turn, 1), at(turn, 2.5)] for turn in turns[::4])]

    def scaled(self, across: float, down: float) -> "Point":
        """On a copy of the image that was resized by these factors."""
        return Point(self.x * across, self.y * down)


Mark = Box | Outline | Point
KINDS: dict[str, type[Mark]] = {"box": Box, "outline": Outline, "point": Point}


def _within(line: Iterable[tuple[float, float]], size: tuple[int, int]) -> Points:
    """A line with what lies on the edge of an image, or beyond it, moved inside, where all its width is seen."""
    inset, (width, height) = EDGE * max(size), size
    return [(min(max(x, inset), width - inset), min(max(y, inset), height - inset)) for x, y in line]


def to_dict(mark: Mark) -> dict[str, Any]:
    """Plain words and numbers for JSON.

    >>> from captum_vit.marks import Point, to_dict
    >>> to_dict(Point(1.0, 2.0))
    {'kind': 'point', 'x': 1.0, 'y': 2.0}
    """
    return {"kind": next(name for name, kind in KINDS.items() if type(mark) is kind), **asdict(mark)}


def from_dict(given: Mapping[str, Any]) -> Mark:
    """The mark that `to_dict` wrote."""
    numbers = {name: value for name, value in given.items() if name != "kind"}
    if given["kind"] == "outline":
        numbers = {"lines": tuple(tuple((float(x), float(y)) for x, y in line) for line in numbers["lines"])}
    return KINDS[given["kind"]](**numbers)


def _walked(after: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """One closed way along the edges that are left, which are taken out."""
    first = min(after)
    way = [first]
    while True:
        here = way[-1]
        ways = after[here]
        # where two parts touch at a corner, the sharper turn to the right keeps each part its own
        step = ways[0] if len(ways) == 1 or len(way) < 2 else min(ways, key=lambda to: _left(way[-2], here, to))
        ways.remove(step)
        if not ways:
            del after[here]
        if step == first:
            return way
        way.append(step)


def _left(before: tuple[int, int], here: tuple[int, int], to: tuple[int, int]) -> int:
    """Below 0 for a turn to the right, above for one to the left, in an image whose rows run down."""
    (ax, ay), (bx, by) = (here[0] - before[0], here[1] - before[1]), (to[0] - here[0], to[1] - here[1])
    return ay * bx - ax * by


def _corners(way: list[tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    """Without points in the middle of a straight line."""
    turns = [b for a, b, c in zip([way[-1], *way], way, [*way[1:], way[0]], strict=False) if _left(a, b, c)]
    return tuple((float(x), float(y)) for x, y in turns)
