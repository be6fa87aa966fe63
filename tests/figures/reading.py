"""What a person reads on a figure."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def every(figure: Figure) -> list[Axes]:
    return [child for ax in figure.axes for child in (ax, *ax.child_axes)]


def pictures(figure: Figure) -> list[Axes]:
    return [ax for ax in every(figure) if ax.images]


def bars(figure: Figure) -> list[tuple[str, str, str]]:
    """Of each colour bar the label and what stands at its ends."""
    found = [ax for ax in every(figure) if ax.collections and not ax.images]
    return [(ax.get_xlabel(), *(text.get_text() for text in ax.get_xticklabels())) for ax in found]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in pictures(figure)]


def headings(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]
