"""A target of somebody's own package."""

from dataclasses import dataclass

from torch import Tensor

from captum_vit.targets import Output, Target


@dataclass(frozen=True)
class Entropy(Target):
    """How undecided the model is between its classes."""

    unit = "nats"

    def score(self, output: Output) -> Tensor:
        shares = output.scores.softmax(-1)
        return -(shares * shares.log()).sum(-1)  # (N,)
