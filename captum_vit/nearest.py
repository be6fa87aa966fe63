"""The known names that somebody may have meant."""

from difflib import get_close_matches


def nearest(name: str, known: list[str]) -> str:
    """A hint with the known names most like `name`, or nothing."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""
