"""What is explained: a number for each image, made of the model's output.

>>> from captum_vit import AGCAM
>>> from captum_vit.targets import Contrast
>>> AGCAM(model).attribute(images, target=Contrast(281, 285)).shape  # why class 281 rather than 285
torch.Size([2, 1, 14, 14])
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .classes import class_index
from .errors import OptionError, TargetError

__all__ = ["Classes", "Contrast", "Embedding", "FeatureImportance", "Function", "Output", "Target", "as_target"]


@dataclass(frozen=True)
class Output:
    """What a model gave for a batch of N images.

    raw: its own output, whatever it is.  scores: what the adapter takes for its scores, (N, C) or (N, C, ...).
    headless: whether these are features, without a meaning as classes.
    """

    raw: Any
    scores: Tensor
    headless: bool = False


class Target(ABC):
    """What is explained. To add one, subclass as a frozen dataclass and implement `score`.

    reads_scores: whether it is made of the scores alone, so that the tokens that these are read from are known. Of
        any other target they are measured.
    unit: what the number is, as it stands beside a picture.
    """

    reads_scores: bool = True
    unit: str = "value"

    @abstractmethod
    def score(self, output: Output) -> Tensor:
        """The number that is explained of each image, (N,).

        Raises:
            TargetError: the output has no such number.
        """

    @property
    def by_name(self) -> bool:
        """Whether it names classes, whose numbers `named` finds."""
        return False

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Target":
        """The target with numbers for the names of classes in it.

        Raises:
            TargetError: a name that is none of the model's.
        """
        return self

    def text(self, names: Mapping[int, str]) -> str:
        """How it is asked for, in one line; names of files are made of it."""
        return type(self).__name__.lower()

    def title(self, names: Mapping[int, str]) -> str:
        """What stands over its pictures."""
        return self.text(names)


@dataclass(frozen=True, eq=False)
class Classes(Target):
    """The score of a class, in any of Captum's forms.

    index: a class by number (negative ones count from the end) or name, for all images; a list or an integer tensor
        (N,) with one for each; where the scores have more dimensions, a tuple with an index for each, or a list of
        tuples. None stands for the only score of a model that gives one.
    """

    index: Any = None
    unit = "score"

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

    def text(self, names: Mapping[int, str]) -> str:
        """The name of the class, or its number."""
        known = names.get(self.index, "") if isinstance(self.index, int) else ""
        return known.split(",")[0].strip() or str(self.index)


@dataclass(frozen=True, eq=False)
class Contrast(Target):
    """Why the one rather than the other: the score of `a` less the score of `b`.

    >>> Contrast("tabby", "Egyptian cat")
    Contrast(a='tabby', b='Egyptian cat')

    a, b: classes by number or name, or any targets. Of two classes of a softmax, the difference of their logits is the
        logarithm of how many times more likely the one is.
    Source: Jacovi et al. 2021, "Contrastive Explanations for Model Interpretability" (arXiv:2103.01378).
    """

    a: Any
    b: Any
    unit = "logit difference"

    @property
    def reads_scores(self) -> bool:  # type: ignore[override]
        """Whether both do."""
        return self._parts[0].reads_scores and self._parts[1].reads_scores

    @property
    def by_name(self) -> bool:
        """Whether one of both does."""
        return any(part.by_name for part in self._parts)

    @property
    def _parts(self) -> tuple[Target, Target]:
        return as_target(self.a), as_target(self.b)

    def score(self, output: Output) -> Tensor:
        """y_a - y_b, (N,)."""
        a, b = self._parts
        return a.score(output) - b.score(output)

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Target":
        """With numbers for names."""
        a, b = (part.named(names, classes, model) for part in self._parts)
        return Contrast(a, b)

    def text(self, names: Mapping[int, str]) -> str:
        """As the command line takes it: "tabby/Egyptian cat"."""
        return "/".join(part.text(names) for part in self._parts)

    def title(self, names: Mapping[int, str]) -> str:
        """In words."""
        return " rather than ".join(part.title(names) for part in self._parts)


@dataclass(frozen=True, eq=False)
class Embedding(Target):
    """The cosine of the model's feature with an embedding, as of a text or of another image.

    vector: (D,) for all images, or one for each, (N, D).
    Raises:
        TargetError: it is no tensor of floating-point numbers, or (in `score`) of another width than the features.
    """

    vector: Tensor
    unit = "cosine"

    def __post_init__(self) -> None:
        if (
            not isinstance(self.vector, Tensor)
            or not self.vector.is_floating_point()
            or self.vector.dim() not in (1, 2)
        ):
            got = self.vector.dtype if isinstance(self.vector, Tensor) else type(self.vector).__name__
            raise TargetError(f"an embedding is a floating-point tensor (D,) or (N, D), got {got}")

    def score(self, output: Output) -> Tensor:
        """cos(f, vector), (N,)."""
        features = output.scores
        count, width = len(features), features[0].numel()
        fits = features.dim() == 2 and self.vector.shape in ((width,), (1, width), (count, width))
        if not fits or width == 1:  # the cosine with a single number is but its sign
            wanted = f"({width},) or one an image, ({count}, {width})" if width > 1 else "for an output of more numbers"
            raise TargetError(f"an embedding to compare with must be {wanted}: got {tuple(self.vector.shape)}")
        vector = ops.widen(self.vector.detach().to(features.device))
        return F.cosine_similarity(ops.widen(features), vector.reshape(-1, width), dim=1)


@dataclass(frozen=True, eq=False)
class FeatureImportance(Target):
    """What stands for the class where there is none: the importance w of each dimension of the feature f.

    The explained score is <f, w>. With a memory bank, w comes from the nearest neighbours' vote (see
    ops.importance_by_neighbours); without one, w = f_hat * f_hat with f_hat = f / |f|.

    Args:
        bank: features of known images, (M, D); scaled to unit length here.
        labels: their labels, (M,), integers >= 0; any clustering will do.
        k: neighbours that vote.
        temperature: votes weigh exp(cosine similarity / temperature).
    Source: DAAM's self-supervised protocol (arXiv:2503.14640).
    """

    bank: Tensor | None = None
    labels: Tensor | None = None
    k: int = 20
    temperature: float = 0.07
    unit = "weighted feature"

    def __post_init__(self) -> None:
        if (self.bank is None) != (self.labels is None):
            raise OptionError("a memory bank needs both its features (M, D) and its labels (M,)")
        if self.bank is not None and self.labels is not None:
            if self.bank.dim() != 2 or self.labels.shape != self.bank.shape[:1] or not len(self.bank):
                shapes = f"{tuple(self.bank.shape)} and {tuple(self.labels.shape)}"
                raise OptionError(f"expected bank (M, D) and labels (M,) with M >= 1, got {shapes}")
            if self.labels.is_floating_point() or self.labels.dtype == torch.bool or bool((self.labels < 0).any()):
                raise OptionError("labels of the memory bank must be integers >= 0")
        if self.k < 1 or self.temperature <= 0:
            raise OptionError(f"expected k >= 1 and temperature > 0, got {self.k} and {self.temperature}")

    def score(self, output: Output) -> Tensor:
        """<f, w> for features (N, D), (N,); w is a constant."""
        features = output.scores
        if features.dim() != 2:
            raise TargetError(f"FeatureImportance explains features (N, D), got {tuple(features.shape)}")
        return (ops.widen(features) * self.weights(features.detach())).sum(1)

    def weights(self, features: Tensor) -> Tensor:
        """w for features (N, D), (N, D)."""
        if self.bank is None or self.labels is None:
            return F.normalize(ops.widen(features), dim=1).square()
        bank, labels = self._bank_for(features)
        return ops.importance_by_neighbours(features, bank, labels, self.k, self.temperature)[0]

    def predict(self, features: Tensor) -> Tensor:
        """The label that the neighbours vote for, (N,)."""
        bank, labels = self._bank_for(features)
        return ops.importance_by_neighbours(features, bank, labels, self.k, self.temperature)[1]

    def _bank_for(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.bank is None or self.labels is None:
            raise OptionError("without a memory bank there is no label to predict")
        if self.bank.shape[1] != features.shape[1]:
            raise OptionError(f"the memory bank has {self.bank.shape[1]} dimensions, the features {features.shape[1]}")
        return self.bank.to(features.device), self.labels.to(features.device)

    def text(self, names: Mapping[int, str]) -> str:
        """In one word."""
        return "feature"


@dataclass(frozen=True, eq=False)
class Function(Target):
    """Any number made of the model's own output: `function(output) -> (N,)`.

    A function as target is taken for one of these: `target=lambda output: output.logits[:, 3] ** 2`.
    """

    function: Callable[[Any], Tensor]
    reads_scores = False

    def score(self, output: Output) -> Tensor:
        """What the function gives, (N,)."""
        found = self.function(output.raw)
        if not isinstance(found, Tensor) or found.shape != output.scores.shape[:1]:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(f"a target's function gives one number an image, ({len(output.scores)},), got {got}")
        return found

    def text(self, names: Mapping[int, str]) -> str:
        """The function's name."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return "function" if name == "<lambda>" else name


@dataclass(frozen=True, eq=False)
class Joined(Target):
    """Several targets of the same images, whose outputs lie one after another in one batch: (K*N, C) -> (K*N,)."""

    targets: Sequence[Target]

    def score(self, output: Output) -> Tensor:
        """The number of each target for each image."""
        count = len(output.scores) // len(self.targets)
        classes = [target.index for target in self.targets if type(target) is Classes]
        if len(classes) == len(self.targets) and all(type(c) is int for c in classes):  # one gather instead of many
            return Classes([c for c in classes for _ in range(count)]).score(output)
        parts = output.scores.split(count)
        return torch.cat([t.score(replace(output, scores=part)) for t, part in zip(self.targets, parts, strict=True)])


def as_target(target: Any) -> Target:
    """The target that is meant: one of these classes, a class in Captum's forms, or a function.

    Raises:
        TargetError: a floating-point tensor, which may be one-hot labels or an embedding, or nothing of these.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Tensor) and target.is_floating_point():
        raise TargetError(
            f"a floating-point target {tuple(target.shape)} may be one-hot labels or an embedding, and the two mean "
            f"different maps: pass the numbers of the classes, as labels.argmax(-1), or "
            f"captum_vit.targets.Embedding(vector)"
        )
    if callable(target):
        return Function(target)
    return Classes(target)


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
    return TargetError(f"the scores are (N, {sizes}): a target is {what}, got {target!r}")


def _indices(target: Any, count: int, classes: int) -> Tensor:
    """Indices of one dimension, (count,)."""
    kinds = (int, list, Tensor)
    if isinstance(target, bool) or not isinstance(target, kinds):
        raise TargetError(f"target must be an int, a list of ints or an integer tensor, got {type(target).__name__}")
    try:
        index = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target must hold integers only, got {target!r}") from error
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TargetError(f"target must hold integers, got {index.dtype}")
    single = index.numel() == 1 and not isinstance(target, list)
    if index.dim() > 1 or not (single or index.numel() == count):
        raise TargetError(f"target must be one class or one an image: {count} images, got shape {tuple(index.shape)}")
    if bool(((index < -classes) | (index >= classes)).any()):
        raise TargetError(f"target out of range: the model gives {classes} scores, 0 to {classes - 1}, got {target!r}")
    return (index.long() % classes).flatten().expand(count)


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
    raise TargetError(
        f"target is needed: the model gives {count} scores an image; the predicted class is model(images).argmax(-1)"
    )
