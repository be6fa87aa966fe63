"""The score of a class, in any of Captum's forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..classes import class_index
from ..errors import TargetError, brief
from .base import Output, Target


@dataclass(frozen=True, eq=False)
class Classes(Target):
    """The score of a class, in any of Captum's forms.

    >>> AGCAM(model).attribute(images, target=Classes([281, 285])).shape  # the same as target=[281, 285]
    torch.Size([2, 1, 14, 14])

    index: a class by number (negative ones count from the end) or name, for all images; a list, or an integer tensor or
        array (N,), with one for each; where the scores have more dimensions, a tuple with an index for each, or a list
        of tuples. None stands for the only score of a model that gives one.
    """

    index: Any = None
    unit = "score"

    def __post_init__(self) -> None:
        # the caller may change a list or a tensor, and a run keeps what it found by the target
        object.__setattr__(self, "index", self.index.clone() if isinstance(self.index, Tensor) else plain(self.index))

    def score(self, output: Output) -> Tensor:
        """The chosen score of each image, (N,)."""
        scores = output.scores
        if self.index is None:
            return _only_score(output)
        shape = scores.shape[1:]
        places = class_places(self.index, len(scores), tuple(shape)).to(scores.device)  # (N, dimensions)
        strides = torch.tensor([shape[d + 1 :].numel() for d in range(len(shape))], device=scores.device)
        flat = (places * strides).sum(1)
        return scores.flatten(1).gather(1, flat[:, None])[:, 0]

    @property
    def by_name(self) -> bool:
        """Whether it holds a name."""
        parts = self.index if isinstance(self.index, list) else [self.index]
        return any(isinstance(part, str) for part in parts)

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Target":
        """With numbers for names."""
        if isinstance(self.index, str):
            return Classes(class_index(self.index, names, classes, model))
        if self.by_name:
            return Classes([class_index(i, names, classes, model) if isinstance(i, str) else i for i in self.index])
        return self

    def of_image(self, number: int) -> "Target":
        """The class of one image."""
        if isinstance(self.index, list) or (isinstance(self.index, Tensor) and self.index.numel() > 1):
            return Classes(self.index[number] if isinstance(self.index, list) else int(self.index[number]))
        return self

    def text(self, names: Mapping[int, str]) -> str:
        """The name of the class, or its number."""
        known = names.get(self.index, "") if isinstance(self.index, int) else ""
        return known.split(",")[0].strip() or str(self.index)


def plain(target: Any) -> Any:
    """A target with Python's integers for those of numpy, and a tensor for an array of them."""
    if isinstance(target, np.generic):
        return target.item()
    if isinstance(target, np.ndarray):
        if target.dtype.kind not in "iufb":
            return target.tolist()  # of names
        return torch.from_numpy(target.copy()) if target.ndim else target.item()
    if isinstance(target, (list, tuple)):
        return type(target)(plain(each) for each in target) if type(target) in (list, tuple) else target
    if (
        isinstance(target, Tensor)
        and not target.dim()
        and not target.is_floating_point()
        and target.dtype != torch.bool
    ):
        return int(target)
    return int(target) if isinstance(target, Integral) and not isinstance(target, bool) else target


def check_integers(numbers: Tensor) -> None:
    """Raise TargetError, with both of what may be meant, where the classes of a target are no whole numbers."""
    shape = tuple(numbers.shape)
    if numbers.is_floating_point() or numbers.is_complex():
        raise TargetError(
            f"a floating-point target {shape} may be one-hot labels or an embedding, and the two mean different maps: "
            f"pass the numbers of the classes, as labels.argmax(-1), or captum_vit.targets.Embedding(vector)"
        )
    if numbers.dtype == torch.bool:
        raise TargetError(
            f"target must hold integers, got torch.bool {shape}, which may be one-hot labels or the classes 0 and 1: "
            f"pass the numbers of the classes, as labels.int().argmax(-1), or labels.long()"
        )


def class_places(target: Any, count: int, shape: tuple[int, ...]) -> Tensor:
    """A class in any of Captum's forms as indices >= 0 into scores of `shape`, (count, dimensions)."""
    if isinstance(target, list) and any(isinstance(each, (tuple, list)) for each in target):
        rows = [tuple(each) if isinstance(each, (tuple, list)) else (each,) for each in target]
        if any(len(row) != len(shape) for row in rows):
            raise _dimensions(shape, target)
        if len(rows) != count:
            raise TargetError(f"target must be one class or one an image: {count} images, got shape ({len(rows)},)")
        return torch.stack([_indices([row[d] for row in rows], count, size) for d, size in enumerate(shape)], 1)
    if isinstance(target, tuple):  # one for all images, with an index for each dimension
        if len(target) != len(shape):
            raise _dimensions(shape, target)
        return torch.stack([_indices(each, count, size) for each, size in zip(target, shape, strict=True)], 1)
    if len(shape) != 1:
        raise _dimensions(shape, target)
    return _indices(target, count, shape[0])[:, None]


def target_indices(target: Any, count: int, classes: int) -> Tensor:
    """A class in any of Captum's forms as (count,) indices >= 0 into scores (count, classes)."""
    return class_places(target, count, (classes,))[:, 0]


def _dimensions(shape: tuple[int, ...], target: Any) -> TargetError:
    sizes = ", ".join(map(str, shape))
    what = "one class an image" if len(shape) == 1 else f"a tuple of {len(shape)} indices"
    return TargetError(f"the scores are (N, {sizes}): a target is {what}, got {brief(target)}")


def _indices(target: Any, count: int, classes: int) -> Tensor:
    """Indices of one dimension, (count,)."""
    target = plain(target)
    if isinstance(target, bool) or not isinstance(target, (int, list, Tensor)):
        got = f"{type(target).__name__} {brief(target)}"
        raise TargetError(f"target must be an int, a list of ints or an integer tensor, got {got}")
    try:
        index = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target must hold integers only, got {brief(target)}") from error
    if not index.numel():
        raise TargetError(f"target must be one class or one an image: {count} images, got {brief(target)}")
    check_integers(index)
    single = index.numel() == 1 and not isinstance(target, list)
    if index.dim() > 1 or not (single or index.numel() == count):
        labels = "; of one-hot labels pass labels.argmax(-1)" if index.shape[1:] == (classes,) else ""
        shape = f"{tuple(index.shape)}{labels}"
        raise TargetError(f"target must be one class or one an image: {count} images, got shape {shape}")
    index = index.long()  # of uint8, a negative bound would wrap
    if bool(((index < -classes) | (index >= classes)).any()):
        raise TargetError(
            f"target out of range: the model gives {classes} scores, 0 to {classes - 1}, got {brief(target)}"
        )
    return (index % classes).flatten().expand(count)


def _only_score(output: Output) -> Tensor:
    """The score of each image where there is but one."""
    scores = output.scores
    count = cast(int, scores[0].numel())
    if count == 1:
        return scores.flatten(1)[:, 0]
    if output.headless:
        raise TargetError(
            f"the model has no classification head, its {count} scores are features: pass FeatureImportance(...), an "
            f"Embedding(...) to compare with, as of a text, both of captum_vit.targets, or the number of a single "
            f"feature"
        )
    if scores.dim() > 2:
        raise TargetError(
            f"target is needed: the model gives scores {tuple(scores.shape)}. Of pixels ask for Mask(class, pixels), "
            f"of a detector for Query(number, class), both of captum_vit.targets, or for a tuple of indices"
        )
    raise TargetError(
        f"target is needed: the model gives {count} scores an image; the predicted class is model(images).argmax(-1)"
    )
