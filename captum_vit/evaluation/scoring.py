"""Metrics asked about a batch: what they are told of it, and the columns that they give, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..metrics import Case, Metric
from .seeing import Seen

OWN = (  # columns of any row
    *("item", "id", "stamp", "content", "method", "label", "target", "prediction", "score", "error", "map", "grid"),
)


def annotated(case: Case, batch: Sequence[Seen]) -> Case:
    """A case with what is known of a batch's objects: masks, valid pixels, boxes, and what the patches cover."""
    device = case.images.device
    return replace(
        case,
        masks=_stacked([one.mask for one in batch], device),
        valid=_stacked([one.valid for one in batch], device),
        boxes=None if batch[0].boxes is None else [torch.from_numpy(one.boxes).to(device) for one in batch],
        cover=batch[0].cover,
    )


def departures(metrics: Sequence[Metric], *, target: str, squashed: bool) -> list[str]:
    """How a run differs from what the protocols of its metrics were published with, a sentence each.

    Args:
        metrics: of the run.
        target: "label" or "predicted".
        squashed: whether the model sees the whole image, whatever its proportions.
    """
    return [
        f"{metric.title} is published with {name} {value}"
        for metric in metrics
        for name, value in metric.published.items()
        if (name == "target" and value != target) or (name == "preprocess" and not squashed)
    ]


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


def _stacked(arrays: Sequence[np.ndarray | None], device: torch.device) -> Tensor | None:
    """All in one tensor; the arrays of a batch are there or missing together."""
    there = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(there)).to(device) if there else None
