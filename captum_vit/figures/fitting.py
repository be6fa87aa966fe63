"""How wide text is, and what of it fits."""

from ..visualization import shortened, typeface
from .titles import Line

STUMP = 8  # letters
WIDER = 1.06  # than its outline says may type be that is fitted to few pixels


def cut(line: Line, room: float, type: float) -> str:
    """A line that fits in `room` inches, by shortening its first part.

    Where only a few letters of that would be left, the second part goes instead.
    """
    name, rest = line
    whole = " ".join(name.split())
    for kept in (rest, ""):
        left = (room - width_of(kept, type)) / WIDER
        shown = shortened(whole, typeface(100), int(left * 72 * 100 / type)) if whole else ""
        if shown == whole or len(shown) > STUMP:
            return shown + kept
    return shown


def width_of(text: str, type: float) -> float:
    """In inches."""
    return WIDER * typeface(100).getlength(text) * type / 100 / 72
