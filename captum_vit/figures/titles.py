"""What stands beside a map: methods, classes, scores, blocks and numbers in words."""

import re
from collections.abc import Sequence

from ..explained import Attribution

Line = tuple[str, str]  # a part that may be cut, and one that may not


def unit(a: Attribution) -> Line:
    """What the numbers of a map count."""
    return a.facts.unit, " per patch, below 0 against" if a.signed else " per patch"


def lines(a: Attribution) -> tuple[Line, ...]:
    """Target, method, and the score: of a class beside its name, of another target on a line of its own.

    Last, where the map was judged or is nearly flat, that.
    """
    method, judged = (a.method_title, ""), ((a.judged, ""),) if a.judged else ()
    if a.target is None:
        return (method, *judged) if a.facts.class_specific else (("for any class", ""), method, *judged)
    if a.target.index is None:
        return (a.target.title, ""), method, (a.target.measured, ""), *judged
    return (a.target.title, f", {a.target.measured}"), method, *judged


def heading(a: Attribution) -> Line:
    """The caption on one line, of which method and target may be cut."""
    return a.title, a.caption.removeprefix(a.title)


def block_names(layers: Sequence[str]) -> list[str]:
    """Short names of layers: "block 3" for blocks.3.attn; the full names where short ones would be ambiguous."""
    numbers = [".".join(re.findall(r"(?<![^.])\d+(?![^.])", name)) for name in layers]
    if all(numbers) and len(set(numbers)) == len(numbers):
        return [f"block {number}" for number in numbers]
    return list(layers)
