"""What every target can do: it makes a number for each image of what the model gave."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import TargetError


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

    def of_image(self, number: int) -> "Target":
        """The target of one image of the batch, where it has something of its own for each."""
        return self

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
