"""What stands beside a map: methods, classes, scores, blocks and numbers in words."""

import re
from collections.abc import Sequence
from math import floor, log10

from ..explained import Attribution, Label

NAMES = {"agcam": "AGCAM", "daam": "DAAM", "rollout": "attention rollout"}
OF_ATTENTION = ("rollout", "raw_attention")  # their maps are shares of attention, not evidence for a class

Line = tuple[str, str]  # a part that may be cut, and one that may not


def method_name(method: str) -> str:
    """As papers write it."""
    return NAMES.get(method, method.replace("_", " "))


def unit(a: Attribution) -> Line:
    """What the numbers of a map count."""
    return "attention" if a.method in OF_ATTENTION else "evidence", " per patch"


def lines(a: Attribution) -> tuple[Line, ...]:
    """Class with score, and method."""
    method = (method_name(a.method), "")
    if a.target is None:
        return (("for any class", ""), method) if a.method in OF_ATTENTION else (method,)
    return (a.target.title, f", score {score(a.target)}"), method


def heading(a: Attribution) -> Line:
    """The same on one line."""
    if a.target is None:
        return method_name(a.method), ""
    return f"{method_name(a.method)} for {a.target.title}", f", score {score(a.target)}"


def score(label: Label) -> str:
    """Two digits, and never 0 for what is not."""
    return "<0.01" if 0 < label.score < 0.005 else f"{label.score:.2f}"


def ends(low: float, high: float) -> tuple[str, str]:
    """Both numbers to the same digit, so that three count in the larger one."""
    largest = max(abs(low), abs(high))
    digits = 2 - floor(log10(largest)) if largest else 0
    shown = (f"{value:.{digits}f}" if 0 <= digits <= 6 else f"{value:.3g}" for value in (low, high))
    left, right = (text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text for text in shown)
    return "0" if left == "-0" else left, right


def three_digits(value: float) -> str:
    """For numbers that stand beside others like them: 1.20, 12.8."""
    return f"{value:#.3g}".rstrip(".")


def block_names(layers: Sequence[str]) -> list[str]:
    """Short names by the numbers in the layers' own ones, "block 3" of blocks.3.attn; where that is ambiguous these."""
    numbers = [".".join(re.findall(r"(?<![^.])\d+(?![^.])", name)) for name in layers]
    if all(numbers) and len(set(numbers)) == len(numbers):
        return [f"block {number}" for number in numbers]
    return list(layers)
