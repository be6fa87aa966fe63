"""How a map comes about from block to block: an explanation as an animation."""

from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property
from html import escape
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, features
from torch import Tensor

from ..colours import LOOK, NEARLY_FLAT, SIGNS, Look, nearly_flat
from ..errors import OptionError
from ..explained import Attribution, Explained
from ..figures.titles import block_names
from ..files import write_atomically
from ..visualization import fitted, overlay, sheet, shortened, typeface
from .indexing import indexed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOLD = 3  # the last frame stays as long as so many others
NARROWEST = 150  # pixels for a title, however narrow the picture
AHEAD, BEHIND = (225, 225, 225), (70, 70, 70)  # the progress mark


class Flow:
    """The maps of an explanation from block to block, all its attributions side by side.

    A notebook shows it as an animation. Blocks are numbered as the model numbers them.
    """

    hold, counted = HOLD, "blocks"

    def __init__(self, explanation: Explained) -> None:
        self.explanation = explanation.still()

    @property
    def values(self) -> list[Tensor]:
        """For each attribution its map after each of its blocks, (layers, rows, cols), in patch units."""
        return [a.flow for a in self.explanation]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The blocks, one for each frame: those of the attribution that has most."""
        return max((a.layers for a in self.explanation), key=len)

    @property
    def names(self) -> Sequence[str]:
        """What each frame of the animation is called."""
        return block_names(self.layers)

    def at(self, step: int) -> tuple[Explained, list[int]]:
        """What a frame of the animation shows, and of each attribution its slice."""
        return self.explanation, [self._position(a, self.layers[step]) for a in self.explanation]

    def frames(self, max_side: int = 320, look: Look = LOOK) -> list[Image.Image]:
        """A picture for each block, first to last, RGB and all of one size.

        Args:
            max_side: longest side of each attribution's picture, in pixels.
            look: how the maps are painted. By default each block's map goes from its own lowest to its own highest
                value, the last as in `Explanation.overlay`; `Look(scale="common")` has one scale for all blocks.
        Raises:
            OptionError: a side below 16 pixels.
        """
        if max_side < 16:
            raise OptionError(f"max_side must be at least 16 pixels, got {max_side}")
        image = fitted(self.explanation.image, max_side)
        names, key = self.names, f": {SIGNS}" if any(a.signed for a in self.explanation) else ""
        across = self._columns(image.size)
        frames = []
        for number in range(len(names)):
            part, places = self.at(number)
            image = fitted(part.image, max_side)
            cells = [_cell(part, image, a, place, look) for a, place in zip(part, places, strict=True)]
            rows = [cells[i : i + across] for i in range(0, len(cells), across)]
            body = sheet(rows, side=max(max_side, max(rows[0][0][1].size)))
            frames.append(_headed(body, names[number] + key, (number, len(names)), max(12, max_side // 20)))
        return frames

    def save(
        self,
        path: str | Path,
        *,
        seconds: float = 4.0,
        fps: float | None = None,
        max_side: int = 320,
        look: Look = LOOK,
    ) -> None:
        """Write the animation, which starts again for ever, as GIF or animated WebP by the name's ending.

        Args:
            path: ending in .gif or .webp.
            seconds: for one run through, in which the last block stays three times as long as each other.
            fps: blocks, or frames of a video, a second instead.
            max_side, look: as for `frames`.
        Raises:
            OptionError: another ending, a speed that no animation has, or as `frames`.
            OutputError: the file cannot be written; there is then none, or the one that was there before.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in WRITERS:
            raise OptionError(f"an animation ends in {' or '.join(WRITERS)}, got {path.name!r}")
        durations = self._durations(seconds, fps)
        write_atomically(path, WRITERS[kind](self.frames(max_side, look), durations))

    def plot(self, ax: "Axes | None" = None, look: Look = LOOK) -> "Figure":
        """The blocks as a strip, first to last."""
        from ..figures import drawing as figures

        return figures.flow(self.explanation, ax, look=look)

    def _columns(self, size: tuple[int, int]) -> int:
        """Pictures in a row: as many as there are for a target if several methods explain several targets.

        Otherwise all side by side, as long as the frame does not get too wide.
        """
        count, first = len(self.explanation), self.explanation.attributions[0].target
        of_class = sum(a.target is not None and a.target == first for a in self.explanation)
        if len(self.explanation.targets) > 1 and of_class > 1:
            return of_class
        return max(1, min(count, round(4 * size[1] / max(size[0], NARROWEST))))

    def _position(self, attribution: Attribution, layer: str) -> int:
        """The attribution's slice to show at a layer; if it has none there, the last one before."""
        until = self.layers[: self.layers.index(layer) + 1]
        return max(sum(name in until for name in attribution.layers) - 1, 0)

    def _durations(self, seconds: float, fps: float | None) -> list[int]:
        """Of each frame in milliseconds, in the hundredths of a second that a GIF counts in."""
        count = len(self.names)
        each = seconds / (count - 1 + self.hold) if fps is None else 1 / fps if fps > 0 else 0
        if not isfinite(each) or not 0.02 <= each <= 60:  # browsers slow down what is shorter
            asked = f"seconds={seconds}" if fps is None else f"fps={fps}"
            raise OptionError(f"a frame must last 0.02 to 60 seconds; {asked} for {count} of them does not give that")
        step = 10 * round(100 * each)
        return [step] * (count - 1) + [self.hold * step]

    def _repr_html_(self) -> str:
        kind = "webp" if features.check("webp") else "gif"
        data = b64encode(WRITERS[f".{kind}"](self.frames(), self._durations(4.0, None))).decode()
        names = self.names
        alt = f"From {names[0]} to {names[-1]}: {', '.join(a.title for a in self.explanation)}"
        return f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}" style="max-width: 100%">'

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.plot().savefig(png, format="png")
        return png.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.names)} {self.counted} of {self.explanation!r})"


def _cell(part: Explained, image: Image.Image, a: Attribution, place: int, look: Look) -> tuple[str, Image.Image]:
    """Title and picture of an attribution at one of its blocks."""
    here = nearly_flat(a.flow[place]) and not a.flat
    title = "\n".join([a.heading, ", ".join(filter(None, [a.judged, f"{NEARLY_FLAT} here" * here]))])
    scale = part.scale(a, look, place)
    drawn = overlay(image, a.flow[place], part.view, look, scale=scale, marks=a.marks)
    if drawn.width >= NARROWEST:
        return title, drawn
    wide = Image.new("RGB", (NARROWEST, drawn.height), "white")
    wide.paste(drawn, ((NARROWEST - drawn.width) // 2, 0))
    return title, wide


def _headed(body: Image.Image, title: str, progress: tuple[int, int], type: int) -> Image.Image:
    """A frame with its block's name, in type of so many pixels, and how far the way has come."""
    (number, count), height = progress, 2 * type
    frame = Image.new("RGB", (body.width, body.height + height), "white")
    frame.paste(body, (0, height))
    pen, font, edge = ImageDraw.Draw(frame), typeface(type), max(4, type // 2)
    room = frame.width - 2 * edge
    pen.text((edge, height // 2 - 2), shortened(title, font, room), "black", font, anchor="lm")
    for i in range(count):
        left, right = edge + room * i / count, edge + room * (i + 1) / count - (2 if room > 5 * count else 0)
        pen.rectangle((round(left), height - 4, round(right) - 1, height - 1), fill=BEHIND if i <= number else AHEAD)
    return frame


def _gif(frames: Sequence[Image.Image], durations: list[int]) -> bytes:
    return _encoded(indexed(frames), durations, "GIF", optimize=False)


def _webp(frames: Sequence[Image.Image], durations: list[int]) -> bytes:
    if not features.check("webp"):
        raise OptionError("this Pillow writes no WebP: save as .gif")
    return _encoded(frames, durations, "WEBP", quality=85, method=4)


def _encoded(frames: Sequence[Image.Image], durations: list[int], kind: str, **options: object) -> bytes:
    data = BytesIO()
    first, *others = frames
    first.save(data, kind, save_all=True, append_images=others, duration=durations, loop=0, **options)
    return data.getvalue()


WRITERS = {".gif": _gif, ".webp": _webp}
