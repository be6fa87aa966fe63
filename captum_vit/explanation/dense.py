"""What is explained of detection, segmentation, depth and pose: what was asked, or what the model itself finds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..access import unwrap
from ..attr.settling import settled, sight_of
from ..errors import TargetError
from ..geometry import View
from ..models import LoadedModel
from ..targets import Mask, Output, Query, Target
from ..targets.forms import as_target
from .answering import notes_of, wanted
from .asking import Asked, Vocabulary, Wanted
from .reading import Reading

TASKS = {
    "ForObjectDetection": "detection",
    "ForSemanticSegmentation": "segmentation",
    "ForUniversalSegmentation": "segmentation",
    "ForDepthEstimation": "depth",
    "ForPoseEstimation": "pose",
}


def task_of(model: nn.Module) -> str:
    """What a dense model is for, as Hugging Face names its class; empty where that is not said.

    >>> from captum_vit.explanation.dense import task_of
    >>> task_of(model)
    ''
    """
    name = type(unwrap(model)).__name__
    return next((task for ending, task in TASKS.items() if name.endswith(ending)), "")


def is_dense(model: nn.Module, asked: Asked) -> bool:
    """Whether what is explained is read from tokens of its own: so it was asked, or the model is made for that."""
    if asked.targets:
        return any(_of_its_own(target) for target in asked.targets)
    return bool(task_of(model))


def _of_its_own(target: Any) -> bool:
    if isinstance(target, str):
        return target.strip().startswith(("mask:", "query:"))
    return isinstance(target, Target) and as_target(target).own_tokens


def wanted_of(
    reading: Reading, vocabulary: Vocabulary, asked: Asked, shares: Tensor | None, multi: bool, view: View
) -> list[Wanted]:
    """The targets of a batch of images, or of a single one whose targets are read from tokens of their own.

    Args:
        reading, vocabulary, asked, shares, multi: as for `answering.wanted`.
        view: how the model's input looks at the first image.
    """
    if reading.dense:
        return _of_dense(reading, vocabulary, asked, view)
    return wanted(reading, vocabulary, asked, shares, multi)


def _of_dense(reading: Reading, vocabulary: Vocabulary, asked: Asked, view: View) -> list[Wanted]:
    """The targets of one image, with their labels and marks.

    Args:
        reading: of the model and the image.
        vocabulary: how classes are called.
        asked: the question; of a model that is made for it, no target stands for what it finds.
        view: how the model's input looks at the image.
    Raises:
        TargetError: there is nothing of what is asked about.
    """
    output, call = reading.plain.output, reading.call
    if asked.targets:
        targets = vocabulary.parsed(asked.targets, output.scores.shape[1])
        if not all(target.own_tokens for target in targets):
            raise TargetError(
                "masks and queries are read from tokens of their own: ask for other targets by themselves"
            )
    else:
        targets = found_in(output, task_of(reading.adapter.model), asked.top_k, vocabulary.names)
    targets = settled(targets, reading.plain, view)
    every = vocabulary.several(targets, lambda _: output, output.scores)
    sight = sight_of(reading.adapter, call, view)
    if sight is None:
        return every
    return [replace(each, marks=[each.target.marks(output, sight)]) for each in every]


def found_in(output: Output, task: str, most: int, names: Mapping[int, str]) -> list[Target]:
    """What a model finds in one image: the most confident detections, the largest regions, the clearest keypoints; of
    depth, all of it.

    Args:
        output: what it gave.
        task: one of `TASKS`.
        most: how many are taken.
        names: of its classes.
    Raises:
        TargetError: it finds nothing.
    """
    if task == "detection":
        return list(_detections(output.scores[0], most, names))
    if task == "segmentation":
        return [Mask(index) for index in _regions(output.scores[0])[:most]]
    if task == "pose":
        peaks = output.scores[0].flatten(1).amax(1)
        return [Mask(index, "peak") for index in peaks.argsort(descending=True)[:most].tolist()]
    return [Mask()]


def _detections(scores: Tensor, most: int, names: Mapping[int, str]) -> Sequence[Query]:
    """Queries (queries, classes) that say a class, the most confident first."""
    background = None if names and len(names) == scores.shape[1] else -1
    shares = scores.sigmoid() if background is None else scores.softmax(-1)
    objects = shares if background is None else shares[:, :-1]
    best, classes = objects.max(1)
    says = best > 0.5 if background is None else shares.argmax(1) < objects.shape[1]
    ranked = [i for i in best.argsort(descending=True).tolist() if says[i]][:most]
    if not ranked:
        i = int(best.argmax())
        index = int(classes[i])
        raise TargetError(
            f"the model finds no object in this image; query {i} comes nearest to one, with {names.get(index, index)} "
            f"({best[i]:.1%}): ask for it by target=Query({i}, {index}, empty=True)"
        )
    return [Query(i, int(classes[i]), background=background, empty=True, classes=len(names)) for i in ranked]


def _regions(scores: Tensor) -> list[int]:
    """The classes of scores (classes, h, w) by how many pixels each has, the most first."""
    counts = torch.bincount(scores.argmax(0).flatten(), minlength=scores.shape[0])
    return [index for index in counts.argsort(descending=True, stable=True).tolist() if counts[index]]


def noted(loaded: LoadedModel, reading: Reading, shares: Tensor | None, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """What a user should know of the model and of its scores, and which layers have no part in them."""
    scores = None if shares is None else reading.scores
    return notes_of(loaded, scores, reading.scores_told) + unread_layers(reading, wanted)


def unread_layers(reading: Reading, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """A note where some attention layers have no part in the scores that were explained, as behind the last block that
    a head reads; they have no map."""
    if not reading.dense:
        return ()
    layers, read = list(reading.adapter.attention_layers()), set[str]()
    for each in wanted:
        read |= reading.read_for(each.target)
    left = [name for name in layers if name not in read]
    if not left or not read:
        return ()
    return (f"layers: nothing is read after {', '.join(left)}, so that they have no part in what was explained",)
