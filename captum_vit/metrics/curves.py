"""The score of a class as pixels of the image are exchanged in the order of a map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..errors import InputError, OptionError, brief
from ..targets import target_indices
from .base import blank, enlarge, finite
from .occluders import Occluder, occlusion

Model = Callable[[Tensor], Tensor]
Order = Literal["MoRF", "LeRF"]
Start = Literal["image", "occluder"]
Score = Literal["softmax", "top1", "logit"]
Area = Literal["mean", "trapezoid"]
Unit = Literal["pixel", "patch"]
CHOICES = {
    name: get_args(words)
    for name, words in {"order": Order, "start": Start, "score": Score, "area": Area, "unit": Unit}.items()
}
TENTHS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, eq=False)
class Course:
    """How a perturbation curve is drawn: what is exchanged, in which order and steps, and how the rest is scored.

    order: most (MoRF) or least (LeRF) relevant first.
    start: "image" takes pixels of the image away (deletion), "occluder" puts them into the occluder (insertion).
    levels: shares in [0, 1] of the pixels to exchange, `int(share * pixels)`; by default 0, 0.1, ... 1.
    step: instead of levels, so many pixels more at each level, from none to all.
    occluder: what stands where the image does not: a number or a tensor that broadcasts to the images, both as
        normalised; "blur", as RISE blurs; or a function of the images.
    score: of the target: its softmax, its logit, or "top1": 1 where it scores highest, else 0.
    area: "mean" of the scores, or "trapezoid", the area under the curve over the width that the levels span.
    unit: "patch" exchanges whole cells of the map instead of pixels.

    Raises:
        OptionError: another word, levels that are no rising shares, or a step beside levels or below 1.
    """

    order: Order = "MoRF"
    start: Start = "image"
    levels: Sequence[float] | None = None
    step: int | None = None
    occluder: Occluder = 0.0
    score: Score = "softmax"
    area: Area = "mean"
    unit: Unit = "pixel"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {brief(getattr(self, name))}")
        levels, step = self.levels, self.step
        if step is not None:
            if levels is not None or step < 1:
                given = f"levels={brief(levels)} and step={brief(step)}"
                raise OptionError(f"expected levels, or a step of at least 1, got {given}")
        elif levels is not None:
            rising = sorted({*levels})
            if not rising or list(levels) != rising or not 0 <= rising[0] <= rising[-1] <= 1:
                raise OptionError(f"levels must be shares in [0, 1] that rise, one at least, got {brief(list(levels))}")

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last level; steps go from none of the pixels to all."""
        levels = (0.0, 1.0) if self.levels is None else self.levels
        return levels[0], levels[-1]

    def amounts(self, cells: int) -> tuple[Tensor, Tensor]:
        """How many of the cells are exchanged at each level, int64, and what share they are, float64; (S,) each."""
        if self.step is not None:
            amounts = torch.tensor([*range(0, cells, self.step), cells])
            return amounts, amounts.double() / cells
        levels = TENTHS if self.levels is None else list(self.levels)
        return torch.tensor([int(cells * level) for level in levels]), torch.tensor(levels, dtype=torch.float64)

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The score of a class of each image, (B,) float64, from logits (B, classes) and classes (B,)."""
        if self.score == "top1":
            return blank((logits.argmax(1) == classes).double(), logits.isnan().any(1))
        values = logits.double()
        values = values.softmax(1) if self.score == "softmax" else values
        return values.gather(1, classes[:, None])[:, 0]

    def area_under(self, scores: Tensor, levels: Tensor) -> Tensor:
        """One value for each image, (N,), from scores (N, S) at levels (S,)."""
        if self.area == "mean" or len(levels) == 1:
            return scores.mean(1)
        return torch.trapezoid(scores, levels, dim=1) / (levels[-1] - levels[0])


class CourseOptions(TypedDict, total=False):
    """The fields of a `Course` as keywords of a call."""

    order: Order
    start: Start
    levels: Sequence[float] | None
    step: int | None
    occluder: Occluder
    score: Score
    area: Area
    unit: Unit


@dataclass(frozen=True)
class Curve:
    """Scores of each image as it is perturbed, float64; NaN for an image whose map is not finite.

    levels: (S,), share of the pixels (or patches) that are exchanged.
    scores: (N, S), of the target at each level.
    area: (N,), mean of the scores, or the area under them.
    """

    levels: Tensor
    scores: Tensor
    area: Tensor


def perturbation_curve(
    model: Model,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    course: Course | None = None,
    *,
    batch_size: int = 64,
    **options: Unpack[CourseOptions],
) -> Curve:
    """Exchange pixels in the order of a map, level by level, and score what is left.

    Perturbed images of all levels and images fill batches of `batch_size`, so that memory does not grow with either.
    The model is called under no_grad, in the mode (train or eval) that it is in.

    Args:
        model: images (B, C, H, W) -> logits (B, classes).
        images: (N, C, H, W), normalised.
        maps: (N, rows, cols), enlarged bilinearly to the images if smaller. Equal values go in reading order.
        targets: class of each image, as captum takes it.
        course: how the curve is drawn; by default the mean softmax over eleven levels, the most relevant pixels first.
        batch_size: images that the model gets at once.
        options: fields of the course that are to be otherwise, as `order="LeRF"`; all of them are listed at `Course`.
    Raises:
        InputError, TargetError, OptionError: what was passed does not hold.
    """
    course = replace(course or Course(), **options)
    _check_images(images, maps, batch_size)
    ranks, cells, bad = _ranks(maps, (images.shape[2], images.shape[3]), course)
    amounts, levels = (each.to(images.device) for each in course.amounts(cells))
    other = occlusion(course.occluder, images)
    source, filling = (images, other) if course.start == "image" else (other, images)
    every = torch.arange(len(images) * len(amounts), device=images.device)
    found: list[Tensor] = []
    classes = None
    with torch.no_grad():
        for part in every.split(batch_size):
            n, s = part // len(amounts), part % len(amounts)
            gone = ranks[n] < amounts[s].view(-1, 1, 1)  # (B, H, W)
            logits = model(torch.where(gone[:, None], filling[n], source[n]))
            if classes is None:  # known to fit once the number of classes is
                classes = target_indices(targets, len(images), logits.shape[1]).to(logits.device)
            found.append(course.scores(logits, classes[n]))
    scores = blank(torch.cat(found).view(len(images), -1), bad)
    return Curve(levels, scores, course.area_under(scores, levels))


def _check_images(images: Tensor, maps: Tensor, batch_size: int) -> None:
    if images.dim() != 4 or maps.dim() != 3 or len(maps) != len(images) or len(images) == 0:
        raise InputError(
            f"expected images (N, C, H, W) and maps (N, rows, cols), N at least 1: got {tuple(images.shape)} and "
            f"{tuple(maps.shape)}"
        )
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}")


def _ranks(maps: Tensor, size: tuple[int, int], course: Course) -> tuple[Tensor, int, Tensor]:
    """The place of each pixel in the order, (N, H, W) from 0; how many there are; and whose map is not finite."""
    maps, bad = finite(maps.detach())
    values = (maps if course.unit == "patch" else enlarge(maps, size)).flatten(1)
    sequence = values.argsort(dim=1, descending=course.order == "MoRF", stable=True)
    places = torch.arange(values.shape[1], dtype=torch.int32, device=maps.device).expand_as(sequence)
    ranks = torch.empty_like(places).scatter_(1, sequence, places)
    if course.unit == "pixel":
        return ranks.view(-1, *size), values.shape[1], bad
    rows, columns = (torch.arange(n, device=maps.device) * g // n for n, g in zip(size, maps.shape[1:], strict=True))
    return ranks.view(maps.shape)[:, rows][:, :, columns], values.shape[1], bad
