"""A video under its maps: an explanation as an animation of its frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..colours import LOOK, Look
from ..errors import InputError
from ..explained import Explained
from .flow import Flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Film(Flow):
    """The frames of a video, or slices of a volume, each under its maps, all attributions side by side.

    Maps are those after the last block. Their colours are the same in all frames, so that a frame that matters less is
    fainter; between the cells of a map, which are of several frames, they are mixed linearly.
    """

    hold = 1

    def __init__(self, explanation: Explained) -> None:
        super().__init__(explanation)
        if explanation.frames is None:
            raise InputError("a film is of a video or a volume, and this explanation is of an image: see flow")
        self.whole, self.kept = explanation, explanation.frames
        self.counted = f"{self.kept.kind}s"

    @property
    def names(self) -> Sequence[str]:
        return self.kept.names

    def at(self, step: int) -> tuple[Explained, list[int]]:
        still = self.whole.still(step)
        return still, [-1] * len(still)

    def plot(self, ax: "Axes | None" = None, look: Look = LOOK) -> "Figure":
        """The frames as a strip, first to last."""
        from ..figures import strips

        return strips.frames(self.whole, ax, look=look)
