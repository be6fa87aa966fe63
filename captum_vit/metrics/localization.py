"""How well a map finds the object: overlap, ranking, pointing and energy, one value for each image.

All functions take maps (N, H, W) and masks (N, H, W), bool, of the model's input, and return (N,) in float64. A pixel
that is not `valid` never counts. The result is NaN for an image whose map has a NaN or infinite value, and for one
whose mask has no valid pixel; other images of the batch are not affected.

torchmetrics is imported by the first call that needs it: its import takes seconds.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError, OptionError, brief
from .base import Case, Figure, Metric, blank, finite, graded, means
from .regions import Threshold, binarise, boxes_of, fill_boxes, normalise

EPS = 1e-5  # of the AGCAM program
FIRST = ("average_precision", "iou", "pointing_game", "energy_inside", "miou")  # the figures that say most
DATASET_SCORES = ("pixel_accuracy", "miou")
WORDS = {
    "average_precision": "Ordered by the map, do the pixels of the object come first?",
    "energy_inside": "Which share of the map's sum lies on the object?",
    "pointing_game": "Does the map's highest pixel hit the object, or nearly?",
    "iou": "Cut at half its height, how well does the map cover the object and nothing else?",
    "dice": "The same as iou, with the overlap counted twice.",
    "precision": "Cut at half its height, which share of the map's region is object?",
    "recall": "Cut at half its height, which share of the object is in the map's region?",
    "pixel_accuracy": "Cut at half its height, which share of all pixels is told right?",
    "miou": "The mean of iou for the object and for the background.",
}
CHEFER_COUNTS = ("chefer_tp", "chefer_fp", "chefer_fn", "chefer_tn")


def counts(maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5) -> Tensor:
    """How many pixels of each image are true positive, false positive, false negative and true negative.

    Args:
        maps: (N, H, W); a pixel is positive where the min-max normalised map is above the threshold. Or bool, True for
            positive pixels.
        masks, valid: (N, H, W), bool.
        threshold: a number in [0, 1), or "mean" for the mean of each normalised map.
    Returns:
        (N, 4), float64: tp, fp, fn, tn.
    Raises:
        InputError: the shapes differ.
        OptionError: another threshold.
    """
    undefined = _undefined(maps, masks, valid)
    region = maps if maps.dtype == torch.bool else binarise(maps, threshold, valid)
    seen = torch.ones_like(masks) if valid is None else valid
    groups = (region & masks, region & ~masks, ~region & masks, ~region & ~masks)
    found = torch.stack([(group & seen).sum((1, 2)) for group in groups], 1)
    return blank(found.double(), undefined)


def _overlap(name: str, found: Tensor, eps: float) -> Tensor:
    """A score of counts (..., 4)."""
    tp, fp, fn, tn = found.unbind(-1)
    if name == "miou":
        return _miou(tp, fp, fn, tn, eps)
    share = {
        "pixel_accuracy": (tp + tn, tp + fp + fn + tn),
        "iou": (tp, tp + fp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[name]
    return _ratio(*share, eps)


def _ratio(part: Tensor, whole: Tensor, eps: float) -> Tensor:
    if eps:
        return (part + eps) / (whole + eps)
    return torch.where(whole == 0, 0.0, part / whole)  # NaN stays NaN


def _miou(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor, eps: float) -> Tensor:
    """Mean of both classes; a background that neither the mask nor the map has is left out."""
    inside, outside = _ratio(tp, tp + fp + fn, eps), _ratio(tn, tn + fp + fn, eps)
    return torch.where(tn + fp + fn == 0, inside, (inside + outside) / 2)


def pixel_accuracy(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """`(tp + tn + eps) / (all + eps)`; the arguments are those of `counts`."""
    return _overlap("pixel_accuracy", counts(maps, masks, valid, threshold=threshold), eps)


def iou(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """`(tp + eps) / (tp + fp + fn + eps)`; the arguments are those of `counts`."""
    return _overlap("iou", counts(maps, masks, valid, threshold=threshold), eps)


def dice(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """`(2 tp + eps) / (2 tp + fp + fn + eps)`; the arguments are those of `counts`."""
    return _overlap("dice", counts(maps, masks, valid, threshold=threshold), eps)


def precision(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """`(tp + eps) / (tp + fp + eps)`; 0 where nothing is positive and eps is 0. The arguments are those of `counts`."""
    return _overlap("precision", counts(maps, masks, valid, threshold=threshold), eps)


def recall(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """`(tp + eps) / (tp + fn + eps)`; the arguments are those of `counts`."""
    return _overlap("recall", counts(maps, masks, valid, threshold=threshold), eps)


def miou(
    maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, threshold: Threshold = 0.5, eps: float = 0.0
) -> Tensor:
    """Mean IoU of object and background; of the object alone where neither mask nor map has any background."""
    return _overlap("miou", counts(maps, masks, valid, threshold=threshold), eps)


def dataset_scores(found: Tensor) -> dict[str, Tensor]:
    """Pixel accuracy and two-class mIoU of counts that were summed over a data set, as in Chefer's protocol.

    Args:
        found: (..., 4), float: tp, fp, fn, tn.
    Returns:
        (...,) each.
    """
    return {name: _overlap(name, found, 0.0) for name in DATASET_SCORES}


def average_precision(maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, two_class: bool = False) -> Tensor:
    """Average precision of the map's values as scores that a pixel belongs to the object.

    Args:
        maps: (N, H, W), float.
        masks, valid: (N, H, W), bool.
        two_class: score every pixel twice, as in Chefer's protocol: as object by the min-max normalised map R, and as
            background by 1 - R.
    """
    from torchmetrics.functional.classification import multilabel_average_precision

    undefined = _undefined(maps, masks, valid)
    scores = normalise(finite(maps)[0], valid).flatten(1)  # outside [0, 1] torchmetrics would take a sigmoid
    truth = masks.long() if valid is None else masks.long().masked_fill(~valid, -1)
    truth = truth.flatten(1)
    if two_class:
        scores = torch.cat([1 - scores, scores], 1)
        truth = torch.cat([torch.where(truth < 0, -1, 1 - truth), truth], 1)
    truth = truth.masked_fill(undefined[:, None], 1)  # a mask that torchmetrics has nothing to say against
    if len(maps) == 1:  # torchmetrics asks for two labels at least
        scores, truth = scores.expand(2, -1), truth.expand(2, -1)
    found = multilabel_average_precision(
        scores.T, truth.T, len(scores), average=None, ignore_index=-1, validate_args=False
    )
    return blank(found.double()[: len(maps)], undefined)


def pointing_game(maps: Tensor, masks: Tensor, valid: Tensor | None = None, *, tolerance: float = 15) -> Tensor:
    """1 where a pixel of the object lies within `tolerance` pixels of the map's maximum, else 0.

    Where a map has several equal maxima, it is the share of them that hit, which is what one drawn at random would
    score on average: a constant map gains nothing.

    The published figure is the mean over the classes of each class's mean.
    """
    undefined = _undefined(maps, masks, valid)
    if tolerance < 0:
        raise OptionError(f"tolerance must be a number of pixels, at least 0, got {tolerance}")
    maps = finite(maps.double())[0]
    if valid is not None:
        maps, masks = maps.masked_fill(~valid, -torch.inf), masks & valid
    peaks = maps == maps.amax((1, 2), keepdim=True)
    hits = (peaks & _within(masks, tolerance)).sum((1, 2))
    return blank(hits.double() / peaks.sum((1, 2)), undefined)


def _within(masks: Tensor, reach: float) -> Tensor:
    """Pixels no farther than `reach` from a pixel of the mask: dilation by a disc, row by row of the disc."""
    height, width = masks.shape[1:]
    sums = torch.nn.functional.pad(masks.int().cumsum(2), (1, 0))  # (N, H, W + 1)
    columns = torch.arange(width, device=masks.device)
    near = torch.zeros_like(masks)
    for shift in range(-min(int(reach), height - 1), min(int(reach), height - 1) + 1):
        half = int((reach**2 - shift**2) ** 0.5)
        row = sums[..., (columns + half + 1).clamp(max=width)] > sums[..., (columns - half).clamp(min=0)]
        to, source = slice(max(0, -shift), height - max(0, shift)), slice(max(0, shift), height - max(0, -shift))
        near[:, to] |= row[:, source]
    return near


def energy_inside(maps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    """The map's mass inside the object over its whole mass; negative values count as 0, and no mass at all gives 0."""
    undefined = _undefined(maps, masks, valid)
    mass = finite(maps.double())[0].clamp(min=0)
    if valid is not None:
        mass = mass * valid
    return blank(_ratio((mass * masks).sum((1, 2)), mass.sum((1, 2)), 0.0), undefined)


def _undefined(maps: Tensor, masks: Tensor, valid: Tensor | None) -> Tensor:
    """Images without a result, (N,); checks the shapes."""
    for name, given in (("masks", masks), ("valid", valid)):
        if given is not None and (given.shape != maps.shape or given.dtype != torch.bool or maps.dim() != 3):
            raise InputError(
                f"expected maps and {name} of one shape (N, H, W), {name} of bool: got maps {tuple(maps.shape)}, "
                f"{name} {tuple(given.shape)} of {given.dtype}"
            )
    object_ = masks if valid is None else masks & valid
    return ~object_.flatten(1).any(1) | ~maps.isfinite().flatten(1).all(1)


class Localization(Metric):
    """How well maps find the object: the scores that the functions here define, of maps enlarged to the model's input.

    Presets are published protocols; they fix the other options, and their columns begin with their name:
        "agcam": AGCAM's (Leem & Seo 2024): positive above the threshold, then the rectangles around both the map's
            regions and the object (`Case.boxes`, else around the mask's regions), filled with their last row and
            column; eps of 1e-5. An image whose prediction is not its target is skipped, as published: NaN.
        "chefer": Chefer et al. 2021, segmentation: positive above the map's mean. The columns are tp, fp, fn and tn,
            whose `dataset_scores` over a whole data set are published, and average_precision, of both classes. The map
            should explain the predicted class.

    Args:
        preset: None for all scores as the functions define them; the pointing game's figure is then, as published, the
            mean over the classes of each class's mean.
        threshold: a number in [0, 1), or "mean".
        tolerance: of the pointing game, in pixels; by default the published 15 of 224, as a share of the input.
    """

    name = "localization"
    needs = frozenset({"masks"})
    overlaps = ("iou", "dice", "precision", "recall", "pixel_accuracy", "miou")

    def __init__(
        self,
        preset: Literal["agcam", "chefer"] | None = None,
        *,
        threshold: Threshold = 0.5,
        tolerance: float | None = None,
    ) -> None:
        if preset not in (None, "agcam", "chefer"):
            raise OptionError(f"preset must be 'agcam', 'chefer' or None, got {brief(preset)}")
        self.preset, self.tolerance = preset, tolerance
        self.threshold: Threshold = "mean" if preset == "chefer" else threshold
        self.figures = {
            None: {
                **means(average_precision=True, energy_inside=True),
                "pointing_game": Figure(True, ("pointing_game",), "classes"),
                **means(**dict.fromkeys(self.overlaps, True)),
            },
            "agcam": means(**{f"agcam_{name}": True for name in self.overlaps if name != "miou"}),
            "chefer": {
                **{f"chefer_{name}": Figure(True, CHEFER_COUNTS, "pixels", name) for name in DATASET_SCORES},
                **means(chefer_average_precision=True),
            },
        }[preset]
        self.published = {
            None: {},
            "agcam": {"preprocess": "squash"},
            "chefer": {"target": "predicted", "preprocess": "squash"},
        }[preset]
        begins = "" if preset is None else f"{preset}_"
        words = {f"{begins}{name}": asked for name, asked in WORDS.items()}
        figures = {name: replace(figure, words=words[name]) for name, figure in self.figures.items()}
        self.figures = graded(figures, *(f"{begins}{name}" for name in FIRST))

    def __call__(self, case: Case) -> dict[str, Tensor]:
        maps, valid = case.enlarged(), case.valid
        if self.preset == "agcam":
            return self._boxed(case, maps)
        masks = case.required("masks")
        found = counts(maps, masks, valid, threshold=self.threshold)
        if self.preset == "chefer":
            precision = average_precision(maps, masks, valid, two_class=True)
            return dict(zip(CHEFER_COUNTS, found.unbind(1), strict=True)) | {"chefer_average_precision": precision}
        out = {name: _overlap(name, found, 0.0) for name in self.overlaps}
        out["average_precision"] = average_precision(maps, masks, valid)
        tolerance = 15 / 224 * min(case.size) if self.tolerance is None else self.tolerance
        out["pointing_game"] = pointing_game(maps, masks, valid, tolerance=tolerance)
        out["energy_inside"] = energy_inside(maps, masks, valid)
        return out

    def _boxed(self, case: Case, maps: Tensor) -> dict[str, Tensor]:
        undefined = ~maps.isfinite().flatten(1).all(1) | (case.scores().argmax(1) != case.targets)
        region = fill_boxes(boxes_of(binarise(maps, self.threshold, case.valid)), case.size, inclusive=True)
        boxes = boxes_of(case.required("masks")) if case.boxes is None else case.boxes
        truth = fill_boxes(boxes, case.size, inclusive=True)
        found = blank(counts(region, truth, case.valid), undefined)
        return {f"agcam_{name}": _overlap(name, found, EPS) for name in self.overlaps if name != "miou"}
