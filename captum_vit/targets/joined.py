"""Several targets in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import TargetError
from .base import Output, Target, check_attached
from .classes import Classes


@dataclass(frozen=True, eq=False)
class Joined(Target):
    """Several targets of the same images, whose outputs lie one after another in one batch: (K*N, C) -> (K*N,)."""

    targets: Sequence[Target]

    def __post_init__(self) -> None:
        if not all(target.reads_scores for target in self.targets):
            raise TargetError("only targets that are made of the scores alone can be asked together")

    def score(self, output: Output) -> Tensor:
        """The number of each target for each image."""
        count = len(output.scores) // len(self.targets)
        classes = [target.index for target in self.targets if type(target) is Classes]
        if len(classes) == len(self.targets) and all(type(c) is int for c in classes):  # one gather instead of many
            return Classes([c for c in classes for _ in range(count)]).score(output)
        parts = output.scores.split(count)
        found = [t.score(replace(output, scores=part)) for t, part in zip(self.targets, parts, strict=True)]
        for target, score in zip(self.targets, found, strict=True):
            check_attached(score, output, target)
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Several(Target):
    """Several targets of each image of a batch, (N, K): they share what is computed for them."""

    targets: Sequence[Target]

    def score(self, output: Output) -> Tensor:
        """The number of each target for each image, (N, K)."""
        return torch.stack([target.score(output) for target in self.targets], 1)

    def of_image(self, number: int) -> Target:
        """Those of one image."""
        own = [target.of_image(number) for target in self.targets]
        alike = all(one is target for one, target in zip(own, self.targets, strict=True))
        return self if alike else Several(own)
