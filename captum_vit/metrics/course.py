"""How a perturbation curve is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor

from ..errors import OptionError, brief
from .base import blank
from .occluders import Occluder

Order = Literal["MoRF", "LeRF"]
Start = Literal["image", "occluder"]
Score = Literal["softmax", "top1", "logit"]
Area = Literal["mean", "trapezoid"]
Unit = Literal["pixel", "patch"]
CHOICES = {
    name: get_args(words)
    for name, words in {"order": Order, "start": Start, "score": Score, "area": Area, "unit": Unit}.items()
}
TENTHS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, eq=False)
class Course:
    """How a perturbation curve is drawn: what is exchanged, in which order and steps, and how the rest is scored.

    order: most (MoRF) or least (LeRF) relevant first.
    start: "image" takes pixels of the image away (deletion), "occluder" puts them into the occluder (insertion).
    levels: shares in [0, 1] of the pixels to exchange, `int(share * pixels)`; by default 0, 0.1, ... 1.
    step: instead of levels, so many pixels more at each level, from none to all.
    occluder: what stands where the image does not: a number or a tensor that broadcasts to the images, both as
        normalised; "mean" of the image's pixels; "blur", as RISE blurs; or a function of the images. "tokens" is none
        of these: whole patches are left out, and the model's blocks are given the tokens of the others alone.
    score: of the target: its softmax, its logit, or "top1": 1 where it scores highest, else 0.
    area: "mean" of the scores, or "trapezoid", the area under the curve over the width that the levels span.
    unit: "patch" exchanges whole cells of the map instead of pixels, as where tokens are left out.

    Raises:
        OptionError: another word, levels that are no rising shares, a step beside levels or below 1, or tokens left out
            pixel by pixel.
    """

    order: Order = "MoRF"
    start: Start = "image"
    levels: Sequence[float] | None = None
    step: int | None = None
    occluder: Occluder = 0.0
    score: Score = "softmax"
    area: Area = "mean"
    unit: Unit = "pixel"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {brief(getattr(self, name))}")
        if self.on_tokens and self.unit != "patch":
            raise OptionError("occluder='tokens' leaves out whole patches: pass unit='patch' with it")
        levels, step = self.levels, self.step
        if step is not None:
            if levels is not None or step < 1:
                given = f"levels={brief(levels)} and step={brief(step)}"
                raise OptionError(f"expected levels, or a step of at least 1, got {given}")
        elif levels is not None:
            rising = sorted({*levels})
            if not rising or list(levels) != rising or not 0 <= rising[0] <= rising[-1] <= 1:
                raise OptionError(f"levels must be shares in [0, 1] that rise, one at least, got {brief(list(levels))}")

    @property
    def on_tokens(self) -> bool:
        """Whether the model is given the tokens of some patches alone, instead of another image."""
        return isinstance(self.occluder, str) and self.occluder == "tokens"

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last level; steps go from none of the pixels to all."""
        levels = (0.0, 1.0) if self.levels is None else self.levels
        return levels[0], levels[-1]

    def amounts(self, cells: int) -> tuple[Tensor, Tensor]:
        """How many of the cells are exchanged at each level, int64, and what share they are, float64; (S,) each."""
        if self.step is not None:
            amounts = torch.tensor([*range(0, cells, self.step), cells])
            return amounts, amounts.double() / cells
        levels = TENTHS if self.levels is None else list(self.levels)
        return torch.tensor([int(cells * level) for level in levels]), torch.tensor(levels, dtype=torch.float64)

    def values(self, logits: Tensor) -> Tensor:
        """The score of every class, (B, classes) float64, from logits (B, classes)."""
        if self.score == "top1":
            hits = torch.zeros_like(logits, dtype=torch.float64).scatter_(1, logits.argmax(1, keepdim=True), 1)
            return blank(hits, logits.isnan().any(1))
        return logits.double().softmax(1) if self.score == "softmax" else logits.double()

    def scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The score of a class of each image, (B,) float64, from logits (B, classes) and classes (B,)."""
        return self.values(logits).gather(1, classes[:, None])[:, 0]

    def area_under(self, scores: Tensor, levels: Tensor) -> Tensor:
        """One value for each image, (N,), from scores (N, S) at levels (S,)."""
        if self.area == "mean" or len(levels) == 1:
            return scores.mean(1)
        return torch.trapezoid(scores, levels, dim=1) / (levels[-1] - levels[0])


class CourseOptions(TypedDict, total=False):
    """The fields of a `Course` as keywords of a call."""

    order: Order
    start: Start
    levels: Sequence[float] | None
    step: int | None
    occluder: Occluder
    score: Score
    area: Area
    unit: Unit
