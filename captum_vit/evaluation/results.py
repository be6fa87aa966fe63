"""What rows say of their methods: figures with intervals, and differences between methods."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ..errors import RunError, brief, nearest
from ..metrics import Figure
from .bootstrap import Bootstrap, Estimate, Mean
from .rows import Array, Rows, as_numbers, column, number_rows

CLASSES_AT_ONCE = 64


class Results:
    """The figures of a run's methods.

    Intervals come from a bootstrap over images: all questions about one image are drawn together, for they are not
    independent. A comparison of methods draws the same images for all. A figure that is a mean over classes is one over
    the classes that a draw's images have: with few images of each class, its interval is wide.

    Args:
        table: the rows of a run, curves among them.
        figures: what is made of the columns.
        curves: columns of curves, with their first and last level.
        seed: of the bootstrap.
    Attributes:
        errors: of the items that failed, what went wrong; where one method failed alone, with its name before it.
        item_errors: of them those of whole items, of which no method has a map.
        notes: what a reader of the figures has to know of the run.
        methods: in the order of the run, those that failed for every item among them.
        classes: the numbers of those that are explained.
    Raises:
        RunError: the table lacks a column that tells its rows apart.
    """

    def __init__(
        self,
        table: pa.Table,
        figures: Mapping[str, Figure],
        curves: Mapping[str, tuple[float, float]] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        failed = [bool(error) for error in column(table, "error")]
        told = list(zip(column(table, "method"), column(table, "error"), strict=True))
        self.errors = [f"{method}: {error}" if method else str(error) for method, error in told if error]
        self.item_errors = [str(error) for method, error in told if error and not method]
        asked = list(dict.fromkeys(method for method, _ in told if method))
        missing = [name for name in ("method", "id", "target") if name not in table.column_names]
        if missing and not all(failed):
            raise RunError(f"rows have columns method, id and target; these lack {', '.join(missing)}")
        self.table = table.filter(pa.array([not bad for bad in failed], pa.bool_()))
        self.figures, self.curves, self.seed = dict(figures), dict(curves or {}), seed
        self.notes: list[str] = []
        self._rows, self.classes = number_rows(self.table, asked)
        self.methods, self._failed = asked, {name: Counter(e for m, e in told if m == name and e) for name in asked}
        self._bootstrap = Bootstrap(self._rows.images, seed)
        self._estimates: dict[str, dict[str, Estimate]] = {}

    def mean(self, method: str, figure: str) -> Mean:
        """A method's figure over all rows for which it is defined.

        Raises:
            RunError: no such method or figure.
        """
        self._check(figure, method)
        return self._estimated(figure)[method].mean()

    def difference(self, first: str, second: str, figure: str) -> Mean:
        """The figure of `first` less that of `second`, over the items for which both are defined.

        Raises:
            RunError: no such method or figure.
        """
        self._check(figure, first, second)
        every = self._estimated(figure)
        if self._alike(figure, first, second):
            return (every[first] - every[second]).mean()
        pair = np.sort([self.methods.index(first), self.methods.index(second)])
        estimates = self._bootstrap.estimate(self.figures[figure], self._measured(figure).of_methods(pair).paired())
        found = {self.methods[number]: estimate for number, estimate in zip(pair, estimates, strict=True)}
        return (found[first] - found[second]).mean()

    def differences(self, figure: str) -> dict[str, Mean]:
        """The best method's figure less that of each other method; negative where lower is better."""
        best, *others = self.ranking(figure)
        return {other: self.difference(best, other, figure) for other in others}

    def ranking(self, figure: str) -> list[str]:
        """The methods, the best by this figure first; those that have none last."""
        self._check(figure)
        sign = -1 if self.figures[figure].higher_is_better else 1
        places = {method: sign * self._estimated(figure)[method].mean().value for method in self.methods}
        return sorted(places, key=lambda method: np.nan_to_num(places[method], nan=np.inf))

    def per_class(self, figure: str) -> dict[int, dict[str, Mean]]:
        """Class -> method -> its figure over the rows that explain this class."""
        self._check(figure)
        measured = self._measured(figure)
        table: dict[int, dict[str, Mean]] = {}
        for start in range(0, len(self.classes), CLASSES_AT_ONCE):
            some = range(start, min(start + CLASSES_AT_ONCE, len(self.classes)))
            found = self._bootstrap.estimate(self.figures[figure], measured.of_targets(some), by_class=True)
            for part, number in enumerate(some):
                means = (estimate.mean(part) for estimate in found)
                table[self.classes[number]] = dict(zip(self.methods, means, strict=True))
        return table

    @property
    def items(self) -> int:
        """How many items there are, without those that failed."""
        return len(set(self._rows.item.tolist()))

    def undefined(self) -> list[str]:
        """Figures that no method has, for they are defined for no item: no masks, or no right prediction."""
        return [name for name in self.figures if not any(self.mean(method, name).count for method in self.methods)]

    def failures(self) -> list[str]:
        """A sentence for each method that gave no map, or no finite one, of some item: of how many, and why mostly."""
        asked = Counter(column(self.table, "method"))
        found = []
        for method, reasons in self._failed.items():
            count = reasons.total()
            if count:
                [(reason, times)] = reasons.most_common(1)
                more = f", and {count - times} for another reason" if times < count else ""
                found.append(f"{method} has no map of {count} of {count + asked[method]} items: {reason}{more}")
        return found

    def curve(self, method: str, name: str) -> tuple[Array, Array]:
        """The mean of a method's curves over its rows.

        Levels are taken as even. A curve of fewer levels than the longest, as steps over a smaller input give, is
        interpolated at the levels of the longest. A row without a curve, or with a NaN in it, does not count.

        Returns:
            Levels and scores, (S,) each; the scores are NaN where no row has a curve.
        Raises:
            RunError: no such method or curve.
        """
        self._check(None, method)
        if name not in self.curves:
            raise RunError(f"no curve {brief(name)} in this run; it has {', '.join(self.curves) or 'none'}")
        chosen = self.table.filter(pa.array(self._rows.method == self.methods.index(method)))
        given = chosen[name].drop_null().to_numpy() if name in chosen.column_names else []
        span, longest = self.curves[name], max(map(len, given), default=2)
        levels = np.linspace(*span, longest)
        kept = [np.interp(levels, np.linspace(*span, len(c)), c) for c in given if np.isfinite(c).all()]
        return levels, np.mean(kept, 0) if kept else np.full(longest, np.nan)

    def _check(self, figure: str | None, *methods: str) -> None:
        """Raise RunError for a method or a figure that the run does not have."""
        asked = [("method", method, self.methods) for method in methods]
        for kind, name, known in [*asked, ("figure", figure, list(self.figures))]:
            if name is not None and name not in known:
                raise RunError(f"no {kind} {brief(name)} in this run; it has {', '.join(known)}{nearest(name, known)}")

    def _measured(self, figure: str) -> Rows:
        """The rows for which a figure is defined."""
        columns = self.figures[figure].columns
        return self._rows.measured(np.stack([as_numbers(self.table, name) for name in columns], 1))

    def _alike(self, figure: str, *methods: str) -> bool:
        """Whether a figure is defined for the same items of these methods; their estimates are then paired already."""
        rows = self._measured(figure)
        one, *others = (rows.item[rows.method == self.methods.index(method)] for method in methods)
        return all(np.array_equal(one, other) for other in others)

    def _estimated(self, figure: str) -> dict[str, Estimate]:
        """Method -> the figure over all rows, estimated once."""
        if figure not in self._estimates:
            found = self._bootstrap.estimate(self.figures[figure], self._measured(figure))
            self._estimates[figure] = dict(zip(self.methods, found, strict=True))
        return self._estimates[figure]
