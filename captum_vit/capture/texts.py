"""What the text side of a model is called with."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .inputs import Inputs
from .untouched import own_forward


@dataclass(frozen=True)
class Texts(Inputs):
    """The ids of a text, (1, T), where a call of a ViT has images, with the mask beside them if there is one.

    argument: the name by which the ids go to the model.
    """

    argument: str = "input_ids"

    def run(self, model: nn.Module) -> Any:
        """The model's output."""
        with own_forward(model):
            return model(**{self.argument: self.images}, **self.kwargs)
