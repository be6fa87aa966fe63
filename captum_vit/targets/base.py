"""What every target can do: it makes a number for each image of what the model gave."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import TargetError
from ..geometry import View
from ..marks import Mark, Outline


@dataclass(frozen=True)
class Output:
    """What a model gave for a batch of N images.

    >>> scores = torch.tensor([[1.0, 3.0]])  # of one image and two classes
    >>> Contrast(1, 0).score(Output(raw=scores, scores=scores))
    tensor([2.])

    raw: its own output, whatever it is.  scores: what the adapter takes for its scores, (N, C) or (N, C, ...).
    headless: whether these are features, without a meaning as classes.
    """

    raw: Any
    scores: Tensor
    headless: bool = False


@dataclass(frozen=True)
class Sight:
    """How what a model gives lies on the image that somebody asks about.

    >>> from captum_vit.geometry import View
    >>> Sight(View.of((48, 32)), View.of((48, 32))).of((8, 12)).size
    (48, 32)

    input: how the model's input looks at it.  patches: the same of what its patches cover of the input, which is less
    where a remainder beside the last whole patch is left out.
    """

    input: View
    patches: View

    def of(self, grid: tuple[int, int]) -> View:
        """The view of an output of (rows, columns).

        It lies over the whole input if it has the input's size, or if the patches do: a stem may pad, and begin its
        first patch beyond the edge. Else it lies over the patches that it was made of.
        """
        whole = grid == self.input.size[::-1] or self.patches.size == self.input.size
        return self.input if whole else self.patches

    def outline(self, inside: np.ndarray) -> tuple[Mark, ...]:
        """The outline of some pixels of an output, bool (rows, columns); none where it is all or nothing."""
        if inside.all() or not inside.any():
            return ()
        left, top, right, bottom = self.of((inside.shape[0], inside.shape[1])).box
        cell = (right - left) / inside.shape[1], (bottom - top) / inside.shape[0]
        return (Outline.of(inside).moved(cell, (left, top)),)


class Target(ABC):
    """What is explained. To add one, subclass as a frozen dataclass and implement `score`.

    >>> @dataclass(frozen=True)
    ... class Probability(Target):
    ...     index: int
    ...     unit = "probability"
    ...
    ...     def score(self, output):
    ...         return output.scores.softmax(-1)[:, self.index]
    >>> AGCAM(model).attribute(images, target=Probability(281)).shape
    torch.Size([2, 1, 14, 14])

    reads_scores: whether it is made of the scores alone, so that the tokens that these are read from are known. Of
        any other target they are measured.
    own_tokens: whether it is read from tokens of its own, as the score of one place of the image: they are measured of
        it alone, and methods that give one map for all classes have one for it.
    of_features: whether it is made of the image's feature, so that a model of images and texts needs no text beside it.
    unit: what the number is, as it stands beside a picture.
    settles: whether it takes something from the images as they are given; see `settled`.
    class_axis: along which axis of the scores the classes lie that compete for it, as in a softmax; None where it is
        the score of none.
    """

    reads_scores: bool = True
    own_tokens: bool = False
    of_features: bool = False
    unit: str = "value"
    settles: bool = False
    class_axis: int | None = 1

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

    def with_texts(self, embed: "Callable[[Any], Target]") -> "Target":
        """The target with the features of the texts in it, which `embed` makes of a `Text`.

        Raises:
            TargetError: a text that the model cannot take.
        """
        return self

    @property
    def in_python(self) -> str | None:
        """How it is written in a program; None where that takes more than a line of plain values."""
        return None

    def among(self, output: Output) -> Tensor:
        """The scores that it is one of, classes along `class_axis`: those of the model, or of an output beside them."""
        return output.scores

    def of_image(self, number: int) -> "Target":
        """The target of one image of the batch, where it has something of its own for each."""
        return self

    def settled(self, output: Output, sight: Sight | None) -> "Target":
        """The target with all that it takes from the images as they are given, as the region that the model finds in
        them: what is asked of changed images is then asked of the same region.

        Args:
            output: what the model gave for them.
            sight: how that lies on the image; None where there is no single one.
        Raises:
            TargetError: these images do not have what is asked about.
        """
        return self

    def told(self, output: Output) -> tuple[Tensor, str]:
        """What its labels tell of each image, (N,), and what that is: by default the number that is explained."""
        return self.score(output), self.unit

    def marks(self, output: Output, sight: Sight) -> tuple[Mark, ...]:
        """What was asked about in the first image, as it is drawn there."""
        return ()

    def text(self, names: Mapping[int, str]) -> str:
        """How it is asked for, in one line; names of files are made of it."""
        return type(self).__name__.lower()

    def title(self, names: Mapping[int, str]) -> str:
        """What stands over its pictures."""
        return self.text(names)


def check_attached(score: Tensor, output: Output, target: Target) -> None:
    """Raise TargetError where a target gives a constant of scores that have a gradient."""
    if output.scores.requires_grad and not score.requires_grad:
        raise TargetError(
            f"the target {type(target).__name__} is cut off from the scores, as by .detach() or .numpy() in it: no "
            f"gradient can be taken"
        )
