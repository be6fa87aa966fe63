"""A video, or a volume, as a strip of its frames under their maps."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..colours import LOOK, Look
from ..errors import InputError
from ..explained import Explained
from ..visualization import thinned
from .drawing import Brush, bar_lines
from .panels import Bar, Layout, draw, picture_size
from .titles import heading

SHOWN = 8  # frames of a strip, where nobody says otherwise


def frames(explanation: Explained, ax: Axes | None = None, *, count: int | None = SHOWN, look: Look = LOOK) -> Figure:
    """A strip of frames for each attribution, from the first to the last, whose maps have one scale.

    Args:
        explanation: of a video or a volume.
        ax: axes to be drawn in.
        count: so many of the frames at even distance, the first and the last among them; None takes all.
        look: how maps are painted.
    Raises:
        InputError: it is of an image.
        OptionError: `count` below 1.
    """
    if explanation.frames is None:
        raise InputError("a strip of frames is of a video or a volume, and this explanation is of an image")
    kept, side = explanation.frames, 1.2
    stills = {place: explanation.still(place) for place in thinned(len(kept.images), count)}
    brushes = {place: Brush.of(still, side, look) for place, still in stills.items()}
    scales = [explanation.scale(a, look) for a in explanation]
    rows = [
        [
            brushes[place].panel(still.attributions[i].map, ((kept.names[place], ""),), scales[i], marks=a.marks)
            for place, still in stills.items()
        ]
        for i, a in enumerate(explanation)
    ]
    said = f"the maps of all {kept.kind}s in one scale" + ", for each row" * (len(rows) > 1)
    bars = tuple(Bar((said, ""), signed=signed) for signed in sorted({a.signed for a in explanation}))
    size = picture_size(explanation.image.size, side)
    headings = tuple(map(heading, explanation))
    layout = Layout(size, max(size[0], 0.75), 7, 1, False, headings, bars, bar_lines(bars))
    layout = layout.readable(ax, len(rows), len(stills))
    return draw(rows, layout, look, explanation.image.size, ax)
