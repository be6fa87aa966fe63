"""What a metric is given, and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..plugins import identity


@dataclass(frozen=True)
class Case:
    """A batch of questions (an image and a class each) with the maps that answer them, all on one device.

    images: (N, C, H, W), normalised as the model expects.
    targets: (N,), the class that each map explains.
    maps: (N, rows, cols), in patch units, not normalised.
    masks: (N, H, W), bool, the object of the target in the model's input; empty where none is known.
    valid: (N, H, W), bool, what the model saw of the photograph (the rest is padding); None for all.
    logits: (N, classes) of the unchanged images.
    model: images -> logits (N, classes).
    mean, std: of each channel, with which the images were normalised.
    method: the attribution object, with `attribute(images, target=...)`; options: what that call is given besides.
    boxes: for each image (n, 4), the target's boxes (left, top, right, bottom) as they stand in the annotation, brought
        to pixels of the model's input.
    """

    images: Tensor
    targets: Tensor
    maps: Tensor
    masks: Tensor | None = None
    valid: Tensor | None = None
    logits: Tensor | None = None
    model: Callable[[Tensor], Tensor] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    method: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[Tensor] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the model's input."""
        height, width = self.images.shape[-2:]
        return height, width

    def required(self, name: str) -> Any:
        """A field that a metric cannot do without.

        Raises:
            InputError: it is None.
        """
        value = getattr(self, name)
        if value is None:
            raise InputError(f"the metric needs the {name} of the case, which are None: pass Case({name}=...)")
        return value

    def scores(self) -> Tensor:
        """The logits, computed if they were not given.

        Raises:
            InputError: there is no model to compute them with.
        """
        if self.logits is not None:
            return self.logits
        if self.model is None:
            raise InputError("the predicted classes are needed: pass Case(logits=...) or Case(model=...)")
        with torch.no_grad():
            return self.model(self.images)


@dataclass(frozen=True)
class Figure:
    """How the values of single images become one figure of a data set.

    higher_is_better: whether a method is the better, the higher its figure.
    over: "images", the mean over them; "classes", the mean over the classes of each class's mean; "pixels", the score
        of the counts of all images' pixels together.
    columns: what it is made of; of "pixels" the four counts tp, fp, fn and tn.
    score: of "pixels", "pixel_accuracy" or "miou".
    """

    higher_is_better: bool
    columns: tuple[str, ...]
    over: Literal["images", "classes", "pixels"] = "images"
    score: str = ""


def means(**higher_is_better: bool) -> dict[str, Figure]:
    """Figures that are means over images of the column of their name."""
    return {name: Figure(better, (name,)) for name, better in higher_is_better.items()}


class Metric(ABC):
    """A group of figures that share their work: columns of one value for each image, NaN where it is undefined.

    name: of the group.
    figures: what a leaderboard makes of the columns.
    curves: columns that hold a curve for each image, with the first and the last of its evenly spaced levels.
    needs: what of a Case must be there besides images, targets and maps: "masks", "model", "method".
    """

    name: ClassVar[str]
    needs: frozenset[str] = frozenset()
    figures: Mapping[str, Figure]
    curves: Mapping[str, tuple[float, float]] = MappingProxyType({})

    @abstractmethod
    def __call__(self, case: Case) -> dict[str, Tensor]:
        """Each column's values, (N,), and each curve's, (N, levels), float64, on the device of the maps.

        Raises:
            InputError: the case lacks something that the metric needs.
        """

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the metric: what it is, and its attributes, as JSON."""
        settings = {name: repr(value) for name, value in vars(self).items() if name not in FACTS}
        return {**identity(type(self)), "settings": settings}


FACTS = ("figures", "curves", "needs")  # of a metric; they follow from its settings


def blank(values: Tensor, undefined: Tensor) -> Tensor:
    """Values (N, ...) with NaN for the images that are undefined (N,)."""
    return values.masked_fill(undefined.view(-1, *[1] * (values.dim() - 1)), torch.nan)


def finite(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps with 0 in place of those with NaN or infinite values, and which those are, (N,)."""
    bad = ~maps.isfinite().flatten(1).all(1)
    return maps.masked_fill(bad.view(-1, *[1] * (maps.dim() - 1)), 0), bad
