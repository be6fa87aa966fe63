"""The score of a class as pixels of the image are exchanged in the order of a map."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..errors import InputError, OptionError
from .base import blank, enlarge, finite
from .course import Course, CourseOptions
from .exchanging import Asked, Choices, exchanged


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
    model: Asked,
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
        model: images (B, C, H, W) -> logits (B, classes). Where tokens are left out, the module itself, or a run of it
            on these images.
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
    ranks, bad = ranked(maps, (images.shape[2], images.shape[3]), course)
    amounts, levels = (each.to(images.device) for each in course.amounts(ranks[0].numel()))
    choices = Choices(len(amounts), lambda n, s: ranks[n] < amounts[s].view(-1, 1, 1))
    scores = blank(exchanged(model, images, targets, course, choices, batch_size), bad)
    return Curve(levels, scores, course.area_under(scores, levels))


def _check_images(images: Tensor, maps: Tensor, batch_size: int) -> None:
    if images.dim() != 4 or maps.dim() != 3 or len(maps) != len(images) or len(images) == 0:
        raise InputError(
            f"expected images (N, C, H, W) and maps (N, rows, cols), N at least 1: got {tuple(images.shape)} and "
            f"{tuple(maps.shape)}"
        )
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}")


def ranked(maps: Tensor, size: tuple[int, int], course: Course) -> tuple[Tensor, Tensor]:
    """The place of each pixel, or of each cell of the map, in the order, (N, rows, cols) from 0; whose map is bad."""
    maps, bad = finite(maps.detach())
    maps = maps if course.unit == "patch" else enlarge(maps, size)
    sequence = maps.flatten(1).argsort(dim=1, descending=course.order == "MoRF", stable=True)
    places = torch.arange(sequence.shape[1], dtype=torch.int32, device=maps.device).expand_as(sequence)
    return torch.empty_like(places).scatter_(1, sequence, places).view_as(maps), bad
