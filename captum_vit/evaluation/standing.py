"""How the methods of a run stand: to the baselines, to each other, and on which model and images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .bootstrap import Mean
from .entries import BASELINES
from .results import Results
from .rows import column, image_of

IN_WORDS = {"random": "noise", "gaussian": "a bump in the middle"}  # what a baseline is


@dataclass(frozen=True)
class Standing:
    """How methods stand to one of them by a figure, each by its own paired difference with a 95 % interval.

    figure, to: the figure, and the method that the others are held against.
    better, worse: methods whose interval lies on the one or on the other side of 0.
    open: those whose interval holds 0, or that have none: nothing is shown.
    """

    figure: str
    to: str
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many methods are held against it."""
        return len(self.better) + len(self.worse) + len(self.open)

    def put(self, method: str, difference: Mean, higher_is_better: bool) -> bool:
        """Put a method where its difference says, and tell whether it has an interval."""
        low, high = difference.low, difference.high
        up, down = (self.better, self.worse) if higher_is_better else (self.worse, self.better)
        (up if low > 0 else down if high < 0 else self.open).append(method)
        return bool(np.isfinite(low))


def is_baseline(method: str) -> bool:
    """Whether its maps know nothing of the model; the method may be one of a joined run, `run: method`."""
    return method.rpartition(": ")[2] in BASELINES


def in_words(baseline: str) -> str:
    """A baseline as a newcomer reads it."""
    return f"{IN_WORDS.get(baseline.rpartition(': ')[2], 'a baseline')} ({baseline})"


def order(results: Results, figure: str) -> list[str]:
    """The methods, the best by this figure first, and after all of them the baselines."""
    return sorted(results.ranking(figure), key=is_baseline)


def headline(results: Results, count: int = 4) -> list[str]:
    """The figures that say most, of all metrics, in the order of the run; none that is defined for no item."""
    undefined = results.undefined()
    known = [name for name in results.figures if name not in undefined]
    chosen = sorted(known, key=lambda name: results.figures[name].rank)[:count]
    return [name for name in known if name in chosen]


def standing(results: Results, figure: str, to: str, methods: Sequence[str]) -> Standing | None:
    """How these methods stand to one; None where no difference has an interval, as with a single image."""
    found = Standing(figure, to)
    told = [
        found.put(method, results.difference(method, to, figure), results.figures[figure].higher_is_better)
        for method in methods
        if method != to and results.mean(method, figure).count
    ]
    return found if any(told) else None


def against_baseline(results: Results, figure: str) -> Standing | None:
    """How the methods stand to the best baseline; None where there is none, or no interval."""
    ranked = [method for method in results.ranking(figure) if results.mean(method, figure).count]
    best = next(filter(is_baseline, ranked), None)
    return standing(results, figure, best, _methods(ranked)) if best else None


def behind(results: Results, figure: str) -> Standing | None:
    """How the methods stand to the best of them; None where there are not two, or no interval."""
    ranked = _methods(results.ranking(figure))
    return standing(results, figure, ranked[0], ranked) if len(ranked) > 1 else None


@dataclass(frozen=True)
class Asked:
    """What a run asked.

    questions, images: how many items, and of how many images.
    labelled: how many of the images have classes of their own.
    right: of how many of them the model predicts one of these classes.
    several: whether an image has more than one.
    """

    questions: int
    images: int
    labelled: int
    right: int
    several: bool


def asked(results: Results) -> Asked:
    """What the rows of a run were asked about, and how often the model is right."""
    rows = zip(*(column(results.table, name) for name in ("id", "label", "prediction")), strict=True)
    labels: dict[str, set[int]] = {}
    predictions: dict[str, int] = {}
    items = set()
    for item, label, prediction in rows:
        items.add(item)
        image = image_of(item)
        predictions[image] = prediction
        labels.setdefault(image, set()).update({label} if label is not None and label >= 0 else ())
    own = {image: found for image, found in labels.items() if found}
    right = sum(predictions[image] in found for image, found in own.items())
    return Asked(len(items), len(labels), len(own), right, any(len(found) > 1 for found in own.values()))


def _methods(names: Sequence[str]) -> list[str]:
    return [name for name in names if not is_baseline(name)]
