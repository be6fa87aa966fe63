"""Metrics of maps: where they point, how they steer the model, and whether they depend on what they should.

There is a function for each metric. A class for each group of metrics takes a whole `Case` and does their common work
once. Every result is one value for each image, NaN where it is undefined; no image changes the value of another.
"""

from ..errors import OptionError, brief, nearest
from ..plugins import named_object
from .agreement import agreement, rank_agreement, top_overlap, top_weights
from .artifacts import artifact_share, artifact_tokens, token_norms
from .base import Case, Figure, Metric, blank, curves_of, enlarge, figures_of, means
from .cascade import Randomisation, efficient_randomisation, randomisation
from .course import Course
from .curves import Curve, perturbation_curve
from .faithfulness import Faithfulness, patch_drops, saco, single_deletion
from .localization import (
    Localization,
    average_precision,
    counts,
    dataset_scores,
    dice,
    energy_inside,
    iou,
    miou,
    pixel_accuracy,
    pointing_game,
    precision,
    recall,
)
from .occluders import black, blur
from .perturbation import Perturbation, perturbation
from .regions import binarise, boxes_of, fill_boxes, normalise
from .sanity import Sanity, class_sensitivity, sparseness, stability
from .spread import flatness
from .traits import Traits, completeness_errors

METRICS: dict[str, type[Metric]] = {
    "localization": Localization,
    "perturbation": Perturbation,
    "faithfulness": Faithfulness,
    "sanity": Sanity,
    "traits": Traits,
}


def named_metric(name: str) -> Metric:
    """The metric of a name.

    Args:
        name: one of METRICS, alone or with a published protocol or a check of sanity behind a colon, as
            "perturbation:rise"; or `module:Class` of somebody's own.
    Raises:
        OptionError: there is none.
    """
    group, _, part = name.partition(":")
    if group not in METRICS and part:
        made = named_object(name)
        made = made() if isinstance(made, type) else made
        if not isinstance(made, Metric):
            raise OptionError(f"{brief(name)} is no Metric, but {type(made).__name__}")
        return made
    if group not in METRICS:
        raise OptionError(f"no metric {brief(group)}; there are {', '.join(METRICS)}{nearest(group, list(METRICS))}")
    return METRICS[group](part) if part else METRICS[group]()  # type: ignore[call-arg]


__all__ = [
    "METRICS",
    "Case",
    "Course",
    "Curve",
    "Faithfulness",
    "Figure",
    "Localization",
    "Metric",
    "Perturbation",
    "Randomisation",
    "Sanity",
    "Traits",
    "agreement",
    "artifact_share",
    "artifact_tokens",
    "average_precision",
    "binarise",
    "black",
    "blank",
    "blur",
    "boxes_of",
    "class_sensitivity",
    "completeness_errors",
    "counts",
    "curves_of",
    "dataset_scores",
    "dice",
    "efficient_randomisation",
    "energy_inside",
    "enlarge",
    "figures_of",
    "fill_boxes",
    "flatness",
    "iou",
    "means",
    "miou",
    "named_metric",
    "normalise",
    "patch_drops",
    "perturbation",
    "perturbation_curve",
    "pixel_accuracy",
    "pointing_game",
    "precision",
    "randomisation",
    "rank_agreement",
    "recall",
    "saco",
    "single_deletion",
    "sparseness",
    "stability",
    "token_norms",
    "top_overlap",
    "top_weights",
]
