"""What the table of families says of each model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.attr import METHODS
from tests.helpers import images


@dataclass(frozen=True)
class Family:
    """A family of models by its smallest member.

    name, library, models: as the README's table has them.
    build: the model in eval mode with random weights.
    size: the images it is given, (height, width), or of videos (frames, height, width).
    layers: how many attention layers are recorded.
    other_size: another size that it takes, with `kwargs` for its forward.
    without: methods that do not apply.
    unfuse: makes a model compute its attention by explicit softmax; None where it cannot, or always does.
    explicit: it always computes its attention step by step.
    in_double: it runs in float64.
    some_patches: the score is read from some of the patches alone, which no declared readout says.
    """

    name: str
    library: str
    models: str
    build: Callable[[], nn.Module]
    layers: int
    size: tuple[int, ...] = (32, 32)
    other_size: tuple[int, ...] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    unfuse: Callable[[nn.Module], object] | None = None
    explicit: bool = False
    in_double: bool = True
    some_patches: bool = False

    def batch(self, count: int = 2, size: tuple[int, ...] | None = None) -> Tensor:
        """Random images as the model takes them, or videos (N, frames, C, H, W)."""
        size = size or self.size
        found = images(count, size)
        return found if len(size) == 2 else found.transpose(1, 2)

    def refused(self, model: nn.Module) -> list[str]:
        """The methods that do not apply to its model, in order: of features, none that compares classes."""
        of_classes = {"finercam"} if adapt(model).headless else set()
        return [name for name in METHODS if name in self.without or name in of_classes]
