"""How the score falls as the pixels that a map calls important are taken away, or rises as they are put in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..attr.base import target_indices
from ..errors import InputError, OptionError
from .base import Case, Metric, blank, enlarge, finite, means
from .occluders import Occluder, black, occlusion

Model = Callable[[Tensor], Tensor]
TENTHS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Curve:
    """Scores of each image as it is perturbed.

    levels: (S,), share of the pixels (or patches) that are exchanged.
    scores: (N, S), of the target at each level.
    area: (N,), mean of the scores, or the area under them. All float64; NaN for an image whose map is not finite.
    """

    levels: Tensor
    scores: Tensor
    area: Tensor


def perturbation_curve(
    model: Model,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    *,
    order: Literal["MoRF", "LeRF"] = "MoRF",
    start: Literal["image", "occluder"] = "image",
    levels: Sequence[float] | None = None,
    step: int | None = None,
    occluder: Occluder = 0.0,
    score: Literal["softmax", "top1", "logit"] = "softmax",
    area: Literal["mean", "trapezoid"] = "mean",
    unit: Literal["pixel", "patch"] = "pixel",
    batch_size: int = 64,
) -> Curve:
    """Exchange pixels in the order of a map, level by level, and score what is left.

    Perturbed images of all levels and images fill batches of `batch_size`, so that memory does not grow with either.
    The model is called under no_grad, in the mode (train or eval) that it is in.

    Args:
        model: images (B, C, H, W) -> logits (B, classes).
        images: (N, C, H, W), normalised.
        maps: (N, rows, cols), enlarged bilinearly to the images if smaller. Equal values go in reading order.
        targets: class of each image, as captum takes it.
        order: most (MoRF) or least (LeRF) relevant first.
        start: "image" takes pixels of the image away (deletion), "occluder" puts them into the occluder (insertion).
        levels: shares in [0, 1] of the pixels to exchange, `int(share * pixels)`; by default 0, 0.1, ... 1.
        step: instead of levels, so many pixels more at each level, from none to all.
        occluder: what stands where the image does not: a number or a tensor that broadcasts to the images, both as
            normalised; "blur", as RISE blurs; or a function of the images.
        score: of the target: its softmax, its logit, or "top1": 1 where it scores highest, else 0.
        area: "mean" of the scores, or "trapezoid", the area under the curve over the width that the levels span.
        unit: "patch" exchanges whole cells of the map instead of pixels.
        batch_size: images that the model gets at once.
    Raises:
        InputError, TargetError, OptionError: what was passed does not hold.
    """
    _check_options(order=order, start=start, score=score, area=area, unit=unit)
    count, _, *size = _check_images(images, maps, batch_size)
    ranks, cells, bad = _ranks(maps, (size[0], size[1]), order, unit)
    exchanged, shares = (amounts.to(images.device) for amounts in _amounts(levels, step, cells))
    other = occlusion(occluder, images)
    source, filling = (images, other) if start == "image" else (other, images)
    every = torch.arange(count * len(exchanged), device=images.device)
    found: list[Tensor] = []
    classes = None
    with torch.no_grad():
        for part in every.split(batch_size):
            n, s = part // len(exchanged), part % len(exchanged)
            gone = ranks[n] < exchanged[s].view(-1, 1, 1)  # (B, H, W)
            logits = model(torch.where(gone[:, None], filling[n], source[n]))
            if classes is None:  # known to fit once the number of classes is
                classes = target_indices(targets, count, logits.shape[1]).to(logits.device)
            found.append(_score(logits, classes[n], score))
    scores = blank(torch.cat(found).view(count, -1), bad)
    return Curve(shares, scores, _area(shares, scores, area))


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "agcam": {
        "morf": {"order": "MoRF", "levels": TENTHS},
        "lerf": {"order": "LeRF", "levels": TENTHS},
    },
    "chefer": {
        "positive": {"order": "MoRF", "levels": TENTHS[1:10], "occluder": "black", "score": "top1"},
        "negative": {"order": "LeRF", "levels": TENTHS[1:10], "occluder": "black", "score": "top1"},
    },
    "rise": {
        "deletion": {"step": 224, "area": "trapezoid"},
        "insertion": {"step": 224, "area": "trapezoid", "start": "occluder", "occluder": "blur"},
    },
}
"""The curves of each published protocol, by name: options of `perturbation_curve`, "black" being `black(mean, std)`."""

PUBLISHED = {
    "agcam": {"target": "label", "preprocess": "squash"},
    "chefer": {"preprocess": "squash"},
    "rise": {"target": "predicted"},
}
"""What each protocol asks of a run: the class that is explained, and whether the model sees the whole image."""

BETTER = {
    "agcam": {"morf": False, "lerf": True, "abpc": True},
    "chefer": {"positive": False, "negative": True},
    "rise": {"deletion": False, "insertion": True},
}
"""Of each figure of a protocol, whether higher is better."""


def perturbation(
    model: Model,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    preset: str = "agcam",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    unit: Literal["pixel", "patch"] = "pixel",
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """The figures of a published protocol, (N,) each, and under `<name>_curve` the curves that they come from,
    (N, levels); all float64.

    Args:
        model, images, maps, targets, unit, batch_size: as in `perturbation_curve`.
        preset: "agcam" (Leem & Seo 2024): the map explains the label, as `targets`; mean softmax over 11 levels
            towards mid-grey, "morf", "lerf", and "abpc", lerf less morf.
            "chefer" (Chefer et al. 2021): `targets` are the labels, whatever the map explains; mean top-1 accuracy over
            the levels 0.1 to 0.9 towards black, "positive" (MoRF) and "negative" (LeRF). Needs mean and std.
            "rise" (Petsiuk et al. 2018): the map explains the predicted class, as `targets`; area under the softmax in
            steps of 224 pixels, "deletion" towards mid-grey and "insertion" into the blurred image.
        mean, std: of each channel, with which the images were normalised.
    """
    if preset not in PRESETS:
        raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    out = {}
    for name, curve in PRESETS[preset].items():
        options = dict(curve)
        if options.get("occluder") == "black":
            if mean is None or std is None:
                raise InputError(f"the protocol {preset!r} sets pixels to 0 before normalisation: pass mean and std")
            options["occluder"] = black(mean, std).to(images)
        drawn = perturbation_curve(model, images, maps, targets, unit=unit, batch_size=batch_size, **options)
        out[name], out[f"{name}_curve"] = drawn.area, drawn.scores
    if preset == "agcam":
        out["abpc"] = out["lerf"] - out["morf"]
    return out


class Perturbation(Metric):
    """The figures of `perturbation`.

    Args:
        preset, unit, batch_size: as in `perturbation`.
    """

    name = "perturbation"
    needs = frozenset({"model"})

    def __init__(
        self,
        preset: str = "agcam",
        *,
        unit: Literal["pixel", "patch"] = "pixel",
        batch_size: int = 64,
    ) -> None:
        if preset not in PRESETS:
            raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        self.preset, self.batch_size = preset, batch_size
        self.unit: Literal["pixel", "patch"] = unit
        self.figures = means(**BETTER[preset])
        self.published = PUBLISHED[preset]
        self.curves = {f"{name}_curve": _span(curve) for name, curve in PRESETS[preset].items()}

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if self.unit == "patch" and case.cover not in (None, case.size):
            raise InputError(f"unit='patch' needs inputs of whole patches; of {case.size} they cover {case.cover}")
        maps = case.maps if self.unit == "patch" else case.enlarged()
        targets = case.labels if self.preset == "chefer" and case.labels is not None else case.targets
        found = perturbation(
            case.required("model"),
            case.images,
            maps,
            targets.clamp(min=0),
            self.preset,
            mean=case.mean,
            std=case.std,
            unit=self.unit,
            batch_size=self.batch_size,
        )
        return {name: blank(values, targets < 0) for name, values in found.items()}


def _span(curve: Mapping[str, Any]) -> tuple[float, float]:
    """The first and the last level of a protocol's curve; one in steps goes from none to all."""
    levels = curve.get("levels", (0.0, 1.0))
    return levels[0], levels[-1]


def _check_options(**chosen: str) -> None:
    allowed = {
        "order": ("MoRF", "LeRF"),
        "start": ("image", "occluder"),
        "score": ("softmax", "top1", "logit"),
        "area": ("mean", "trapezoid"),
        "unit": ("pixel", "patch"),
    }
    for name, value in chosen.items():
        if value not in allowed[name]:
            raise OptionError(f"{name} must be one of {', '.join(allowed[name])}, got {value!r}")


def _check_images(images: Tensor, maps: Tensor, batch_size: int) -> tuple[int, ...]:
    if images.dim() != 4 or maps.dim() != 3 or len(maps) != len(images) or len(images) == 0:
        raise InputError(
            f"expected images (N, C, H, W) and maps (N, rows, cols), N at least 1: got {tuple(images.shape)} and "
            f"{tuple(maps.shape)}"
        )
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}")
    return tuple(images.shape)


def _ranks(maps: Tensor, size: tuple[int, int], order: str, unit: str) -> tuple[Tensor, int, Tensor]:
    """The place of each pixel in the order, (N, H, W) from 0; how many there are; and whose map is not finite."""
    maps, bad = finite(maps.detach())
    values = (maps if unit == "patch" else enlarge(maps, size)).flatten(1)
    sequence = values.argsort(dim=1, descending=order == "MoRF", stable=True)
    places = torch.arange(values.shape[1], dtype=torch.int32, device=maps.device).expand_as(sequence)
    ranks = torch.empty_like(places).scatter_(1, sequence, places)
    if unit == "pixel":
        return ranks.view(-1, *size), values.shape[1], bad
    rows, columns = (torch.arange(n, device=maps.device) * g // n for n, g in zip(size, maps.shape[1:], strict=True))
    return ranks.view(maps.shape)[:, rows][:, :, columns], values.shape[1], bad


def _amounts(levels: Sequence[float] | None, step: int | None, cells: int) -> tuple[Tensor, Tensor]:
    """How many of the cells are exchanged at each level, and what share they are."""
    if step is not None:
        if levels is not None or step < 1:
            raise OptionError(f"expected levels, or a step of at least 1, got levels={levels!r} and step={step}")
        amounts = torch.tensor([*range(0, cells, step), cells])
        return amounts, amounts.double() / cells
    levels = TENTHS if levels is None else list(levels)
    if not levels or list(levels) != sorted({*levels}) or not 0 <= levels[0] <= levels[-1] <= 1:
        raise OptionError(f"levels must be shares in [0, 1] that rise, one at least, got {levels!r}")
    return torch.tensor([int(cells * level) for level in levels]), torch.tensor(levels, dtype=torch.float64)


def _score(logits: Tensor, classes: Tensor, score: str) -> Tensor:
    if score == "top1":
        return blank((logits.argmax(1) == classes).double(), logits.isnan().any(1))
    values = logits.double()
    values = values.softmax(1) if score == "softmax" else values
    return values.gather(1, classes[:, None])[:, 0]


def _area(levels: Tensor, scores: Tensor, area: str) -> Tensor:
    if area == "mean" or len(levels) == 1:
        return scores.mean(1)
    return torch.trapezoid(scores, levels, dim=1) / (levels[-1] - levels[0])
