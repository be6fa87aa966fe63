"""What fixes a training run of the hard sample."""

from __future__ import annotations

from dataclasses import dataclass

from ..train import Recipe as SampleRecipe

POLISHED = 4  # times as steady at the end


@dataclass(frozen=True)
class Recipe(SampleRecipe):
    """What fixes a training run, as in `captum_vit.sample.train`.

    Attributes:
        whole: share of the steps in which no token is left out.
        fewest: the fewest tokens that are kept in the others.
        seen, unseen: the share of an object's pixels from which on it has to be named, and up to which not; between
            them the answer does not count.
        twins: the share of a step's scenes that are another one of it without a thing.
        steady, steadiest: weight of the squared difference that this makes to scores whose answer stays: in the first
            fifth of the run, in which objects are learned, and what it grows to until the end.
        polish: scenes after those, in which the rates of the last fifth come again, twins lose nothing but their
            negatives, and scores are held `POLISHED` times as steady.
        bfloat16: whether the model computes under autocast.
    """

    scenes: int = 400_000
    warm_up: float = 0.02
    whole: float = 0.35
    fewest: int = 16
    seen: float = 0.4
    unseen: float = 0.1
    twins: float = 0.25
    steady: float = 0.1
    steadiest: float = 2.0
    polish: int = 48_000
    bfloat16: bool = True

    @property
    def doubled(self) -> int:
        """How many of a step's scenes are twins."""
        return int(self.twins * self.batch)

    @property
    def steps(self) -> int:
        """All of the run."""
        return self.scenes // self.batch + self.polish // self.batch

    def progress(self, step: int) -> float:
        """Which share of the run before it is polished a step stands for; beyond that the last fifth comes again."""
        proper = self.scenes // self.batch
        return step / proper if step <= proper else 0.8 + 0.2 * (step - proper) / (self.steps - proper)

    def polishes(self, step: int) -> bool:
        """Whether a step is of the end."""
        return step > self.scenes // self.batch

    def steadiness(self, step: int) -> float:
        """The weight of steadiness at a step."""
        if self.polishes(step):
            return POLISHED * self.steadiest
        progress = self.progress(step)
        return self.steady + (self.steadiest - self.steady) * max(0.0, (progress - 0.2) / 0.8)
