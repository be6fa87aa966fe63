"""What a metric is given, and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError


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
    boxes: for each image (n, 4), the target's boxes (left, top, right, bottom) in pixels of the model's input.
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


class Metric(ABC):
    """A group of figures that share their work: one value for each image and figure, NaN where it is undefined.

    name: of the group.
    higher_is_better: of each figure; a column that is missing here (a sum over pixels) is no score.
    needs: what of a Case must be there besides images, targets and maps: "masks", "model", "method".
    """

    name: ClassVar[str]
    needs: frozenset[str]
    higher_is_better: dict[str, bool]

    @abstractmethod
    def __call__(self, case: Case) -> dict[str, Tensor]:
        """Each figure's values, (N,) float64, on the device of the maps.

        Raises:
            InputError: the case lacks something that the metric needs.
        """


def blank(values: Tensor, undefined: Tensor) -> Tensor:
    """Values (N, ...) with NaN for the images that are undefined (N,)."""
    return values.masked_fill(undefined.view(-1, *[1] * (values.dim() - 1)), torch.nan)


def finite(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps with 0 in place of those with NaN or infinite values, and which those are, (N,)."""
    bad = ~maps.isfinite().flatten(1).all(1)
    return maps.masked_fill(bad.view(-1, *[1] * (maps.dim() - 1)), 0), bad
