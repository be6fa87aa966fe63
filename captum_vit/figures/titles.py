"""What stands beside a map: methods, classes, scores, blocks and numbers in words."""

import re
from collections.abc import Sequence
from math import floor, log10

from ..explained import Attribution, Label

Line = tuple[str, str]  # a part that may be cut, and one that may not


def unit(a: Attribution) -> Line:
    """What the numbers of a map count."""
    return a.facts.unit, " per patch, below 0 against" if a.signed else " per patch"


def lines(a: Attribution) -> tuple[Line, ...]:
    """Target, method, and the score: of a class beside its name, of another target on a line of its own.

    Last, where the map was judged, what has to be warned of.
    """
    method, warned = (a.method_title, ""), ((a.warning, ""),) if a.warning else ()
    if a.target is None:
        return (method, *warned) if a.facts.class_specific else (("for any class", ""), method, *warned)
    if a.target.index is None:
        return (a.target.title, ""), method, (score(a.target), ""), *warned
    return (a.target.title, f", {score(a.target)}"), method, *warned


def heading(a: Attribution) -> Line:
    """Method, target and score on one line, and what has to be warned of."""
    warned = f", {a.warning}" if a.warning else ""
    if a.target is None:
        return a.method_title, warned
    return f"{a.method_title} for {a.target.title}", f", {score(a.target)}{warned}"


def score(label: Label) -> str:
    """A class's score in two digits, "<0.01" for what would look like 0; another target's number with its unit."""
    if label.index is None:
        return label.measured
    return f"{label.unit} {'<0.01' if 0 < label.score < 0.005 else f'{label.score:.2f}'}"


def ends(low: float, high: float) -> tuple[str, str]:
    """Two numbers rounded to the same digit, the larger one to three significant digits."""
    largest = max(abs(low), abs(high))
    digits = 2 - floor(log10(largest)) if largest else 0
    shown = (f"{value:.{digits}f}" if 0 <= digits <= 6 else f"{value:.3g}" for value in (low, high))
    left, right = (text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text for text in shown)
    return "0" if left == "-0" else left, right


def three_digits(value: float) -> str:
    """Three significant digits, zeros included, so that numbers in a row look alike: 1.20, 12.8."""
    return f"{value:#.3g}".rstrip(".")


def block_names(layers: Sequence[str]) -> list[str]:
    """Short names of layers: "block 3" for blocks.3.attn; the full names where short ones would be ambiguous."""
    numbers = [".".join(re.findall(r"(?<![^.])\d+(?![^.])", name)) for name in layers]
    if all(numbers) and len(set(numbers)) == len(numbers):
        return [f"block {number}" for number in numbers]
    return list(layers)
