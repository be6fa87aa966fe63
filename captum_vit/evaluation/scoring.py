"""From maps to columns: every metric asked about one batch, and its answer checked."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import OptionError
from ..metrics import Case, Metric

OWN = ("item", "id", "method", "label", "target", "prediction", "score", "error", "map", "grid")  # columns of any row


def columns_of(metrics: Sequence[Metric], case: Case) -> dict[str, Tensor]:
    """The columns of the metrics, (N,) or for a curve (N, levels) each; a metric of masks is left out without any.

    Raises:
        OptionError: a metric gives a column that the rows have already, or not what it says it gives.
        InputError: the case lacks something else that a metric needs.
    """
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        if "masks" in metric.needs and case.masks is None:
            continue
        found = metric(case)
        taken = [name for name in found if name in columns or name in OWN]
        if taken:
            raise OptionError(f"{metric.name} gives a column {taken[0]!r}, which the rows have already")
        _check_columns(metric, found, len(case.images))
        columns |= found
    return columns


def _check_columns(metric: Metric, found: Mapping[str, Tensor], count: int) -> None:
    """That a metric gives what its figures and curves are made of."""
    wanted = {*(column for figure in metric.figures.values() for column in figure.columns), *metric.curves}
    missing = sorted(wanted - found.keys())
    if missing:
        raise OptionError(f"{metric.title} has figures of {', '.join(missing)}, and does not give them")
    for name, values in found.items():
        if values.shape[:1] != (count,) or values.dim() != (2 if name in metric.curves else 1):
            raise OptionError(f"{metric.title} gives {name} of shape {tuple(values.shape)} for {count} images")
