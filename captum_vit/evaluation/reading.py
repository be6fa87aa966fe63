"""A leaderboard as a newcomer reads it: what was asked, one table, what is shown by it, and what the figures ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from ..names import printable
from .bootstrap import Mean
from .results import Results
from .standing import Standing, against_baseline, asked, behind, in_words, is_baseline, order

GAP = "  "
NAMED = 4  # methods in a sentence
ROOM = 12  # letters that a method's name has at least
APART = "baselines, which have never seen the model:"


def heading(results: Results, about: str = "") -> str:
    """Which model and data, how many methods and questions, and how often the model is right."""
    found = asked(results)
    count = sum(not is_baseline(method) for method in results.methods)
    parts = [
        *([about] if about else []),
        f"{_number(count, 'method')}, {_number(found.questions, 'question')} about {_number(found.images, 'image')}",
    ]
    if found.labelled:
        share = f"{100 * found.right / found.labelled:.1f} %"
        what = "the model predicts one of the image's classes in" if found.several else "the model is right in"
        parts.append(f"{what} {share}{'' if found.labelled == found.images else f' of {found.labelled}'}")
    return "; ".join(parts)


def verdict(results: Results, figures: Sequence[str]) -> str:
    """What the intervals show: against the better baseline by each figure, and of the first behind the best.

    A method is said to beat a baseline, or not to, by the 95 % interval of its own difference, image by image. Of
    checks, which noise passes as well, nothing of that kind is said.
    """
    return " ".join(filter(None, [_of_baselines(results, figures), _of_the_best(results, figures[:1])]))


def _of_baselines(results: Results, figures: Sequence[str]) -> str:
    if not results.methods or not figures:
        return ""
    if not any(map(is_baseline, results.methods)):
        return (
            "Without a baseline nobody knows whether a map is better than one that has never seen the model: add the "
            "methods random and gaussian."
        )
    clauses: dict[tuple[str, str], list[str]] = {}
    for figure in (name for name in figures if results.figures[name].contest):
        found = against_baseline(results, figure)
        if found:
            clauses.setdefault((f"{_who(found)} {in_words(found.to)}", _but(found)), []).append(figure)
    if not clauses:
        return ""
    return _sentence("; ".join(f"{clause} on {_listed(names)}{but}" for (clause, but), names in clauses.items()))


def _who(found: Standing) -> str:
    """How many methods are better, so that it goes on with the name of what they are held against."""
    count = found.count
    if len(found.better) == count:
        return f"all {count} methods beat" if count > 1 else f"the method {printable(found.better[0])} beats"
    if found.better:
        return f"{len(found.better)} of {count} methods beat"
    if len(found.worse) == count:
        return (
            f"all {count} methods are worse than"
            if count > 1
            else f"the method {printable(found.worse[0])} is worse than"
        )
    return "no method is shown to beat"


def _but(found: Standing) -> str:
    """Which of the methods are not among those that are better, where they are few."""
    others = [*found.open, *found.worse]
    if not found.better or not 0 < len(others) < NAMED:
        return ""
    return f" ({_few(others)} {'is' if len(others) == 1 else 'are'} not shown to)"


def _of_the_best(results: Results, figures: Sequence[str]) -> str:
    for figure in figures:
        found = behind(results, figure)
        if found and found.open:
            verb = "is" if len(found.open) == 1 else "are"
            return f"By {figure} {printable(found.to)} comes first; {_few(found.open)} {verb} not shown to be worse."
        if found:
            return f"By {figure} {printable(found.to)} beats every other method."
    return ""


def table(results: Results, figures: Sequence[str], titles: Mapping[str, str], width: int, first: str) -> str:
    """The figures as plain text, the best method by the figure `first` on top and the baselines apart.

    Intervals stand whole where `width` holds them, and else as half of what they span. A name for which there is no
    room has a line of its own.
    """
    methods = order(results, first)
    means = [[results.mean(method, figure) for figure in figures] for method in methods]
    names = [printable(method) for method in methods]
    longest = max(map(len, ["method", *names]))
    for cell in (str, _short):
        cells = [[cell(mean) for mean in row] for row in means]
        columns = [_Column.of(titles[figure], [row[i] for row in cells]) for i, figure in enumerate(figures)]
        room = width - sum(len(GAP) + column.width for column in columns)
        if longest <= room:
            break
    name = max(len(shown) for shown in ["method", *names] if len(shown) <= max(room, ROOM))
    height = max((len(column.head) for column in columns), default=1)
    heads = [[""] * (height - len(column.head)) + list(column.head) for column in columns]
    lines = [_line(name, "method" * (i == height - 1), [head[i] for head in heads], columns) for i in range(height)]
    lines.append("-" * (name + sum(len(GAP) + column.width for column in columns)))
    apart = next(filter(is_baseline, methods), None)
    for method, shown, row in zip(methods, names, cells, strict=True):
        lines += ["", APART] * (method == apart)
        lines += [shown] * (len(shown) > name)
        lines.append(_line(name, shown * (len(shown) <= name), row, columns))
    return "\n".join(lines)


@dataclass(frozen=True)
class _Column:
    """The lines of a column's head, and how wide the column is."""

    head: tuple[str, ...]
    width: int

    @classmethod
    def of(cls, title: str, cells: Sequence[str]) -> "_Column":
        """The head is broken at underscores where it is wider than what stands below it."""
        width = max(map(len, cells), default=0)
        head = (title,) if len(title) <= width else tuple(_broken(title, width))
        return cls(head, max([width, *map(len, head)]))


def _broken(title: str, width: int) -> list[str]:
    lines = [""]
    for part in title.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if len((lines[-1] + part).rstrip()) <= width or not lines[-1]:
            lines[-1] += part
        else:
            lines.append(part)
    return [line.rstrip() for line in lines]


def _line(name: int, first: str, cells: Sequence[str], columns: Sequence[_Column]) -> str:
    beside = "".join(f"{GAP}{cell:{column.width}}" for cell, column in zip(cells, columns, strict=True))
    return f"{first:{name}}{beside}".rstrip()


def _short(mean: Mean) -> str:
    """A figure and half of its interval."""
    if not mean.count or np.isnan(mean.low):
        return str(mean)
    return f"{mean.value:.3f} ±{(mean.high - mean.low) / 2:.3f}"


def questions(results: Results, figures: Sequence[str], titles: Mapping[str, str], width: int) -> str:
    """What each figure asks, a line each."""
    told = {titles[figure]: results.figures[figure].words for figure in figures if results.figures[figure].words}
    longest = max(map(len, told), default=0)
    return "\n".join(
        folded(f"{title:{longest}}{GAP}{asks}", width, " " * (longest + len(GAP))) for title, asks in told.items()
    )


def folded(text: str, width: int, indent: str = "") -> str:
    """A text in lines of at most this width."""
    return "\n".join(wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _few(methods: Sequence[str]) -> str:
    names = [printable(method) for method in methods]
    return _listed(names if len(names) <= NAMED else [*names[: NAMED - 1], f"{len(names) - NAMED + 1} others"])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
