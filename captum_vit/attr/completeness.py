"""How much of a score a conserving map sums to, and where the rest is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Completeness:
    """Where the score of one image lies, as conserving gradients share it out.

    >>> from captum_vit.attr.completeness import Completeness
    >>> print(Completeness(score=4.0, map=3.0, prefix=0.5, biases=0.5, softmax=0.0))
    score 4: map 3 (75 %), prefix tokens 0.5 (12 %), biases 0.5 (12 %), softmax 0 (0 %), error 0

    score: what is explained.  map: the sum of the map.  prefix: what tokens besides the patches hold.
    biases: what constants hold that are added on the way, as biases and later positions.
    softmax: what a softmax keeps that has its derivative: of attention in AttnLRP, or of a target's probability.
    """

    score: float
    map: float
    prefix: float
    biases: float
    softmax: float

    @property
    def error(self) -> float:
        """What none of these holds."""
        return self.score - self.map - self.prefix - self.biases - self.softmax

    def __str__(self) -> str:
        parts = {"map": self.map, "prefix tokens": self.prefix, "biases": self.biases, "softmax": self.softmax}
        whole = self.score or float("nan")
        told = (f"{name} {part:.3g} ({100 * part / whole:.0f} %)" for name, part in parts.items())
        return f"score {self.score:.3g}: {', '.join(told)}, error {self.error:.2g}"
