"""Maps that stand side by side: of methods, targets, images, models or checkpoints, step by step through the depth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .colours import Look, Scale, check_look
from .errors import InputError, OptionError, brief
from .explained import Attribution, Explained
from .marks import Mark
from .names import printable
from .wording import percent

LETTERS = "ABCDEF"
MOST = len(LETTERS)
ALIKE = 0.05  # of the greatest value: maps that differ by less are nearly alike


@dataclass(frozen=True, eq=False)
class Part:
    """One of the maps.

    letter: "A" of the first, and so on.
    whole: the explanation that it is of.
    name: given to that explanation, as "before"; may be empty.
    """

    letter: str
    whole: Explained
    attribution: Attribution
    name: str = ""

    @property
    def heading(self) -> str:
        """The letter, with the name if there is one: "A: before"."""
        return f"{self.letter}: {self.name}" if self.name else self.letter

    @property
    def image(self) -> str:
        """The name of the image."""
        return self.whole.source or "image"

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.whole.model or "unnamed model"

    def block(self, step: int, steps: int) -> int:
        """Which of its blocks stands at a step, from 0: the one that the same share of its depth ends in."""
        return -(-(step + 1) * len(self.attribution.layers) // steps) - 1


@dataclass(frozen=True, eq=False)
class Compared:
    """Two to six maps side by side: the data alone.

    Maps with different numbers of blocks stand at the same share of their depth: of 12 blocks and of 6, block 7 of 12
    beside block 4 of 6.

    Raises:
        InputError: fewer than two or more than six maps; one of a video; NaN or infinite values in one.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.parts) <= MOST:
            titles = [p.attribution.title for p in self.parts]
            shown = ", ".join(titles[:MOST]) + ", ..." * (len(titles) > MOST)
            raise InputError(
                f"expected two to six maps to compare, got {len(self.parts)}{f' ({shown})' if shown else ''}: "
                "choose some by Explanation.only(method, target)"
            )
        for part in self.parts:
            part.whole.grid  # noqa: B018  refuses maps of videos without frames
            if part.whole.frames is not None:
                raise InputError(f"{part.attribution.title} ({part.letter}) is of a video: compare frames, by .still()")
            if not torch.isfinite(part.attribution.flow).all():
                raise InputError(f"the flow of {part.attribution.title} ({part.letter}) holds NaN or infinite values")

    @classmethod
    def of(cls, explanations: Iterable[Explained], names: Sequence[str] | None = None) -> "Compared":
        """All maps of these explanations, which have these names."""
        explanations = list(explanations)
        for each in explanations:
            if not isinstance(each, Explained):
                raise InputError(f"expected explanations, as captum_vit.explain gives them, got {brief(each)}")
        if names is not None and (isinstance(names, str) or len(names) != len(explanations)):
            raise OptionError(f"expected a name for each of {len(explanations)} explanations, got {brief(names)}")
        told = [""] * len(explanations) if names is None else [printable(str(name)) for name in names]
        every = [(whole, a, name) for whole, name in zip(explanations, told, strict=True) for a in whole]
        letters = [*LETTERS, *[""] * len(every)]  # too many are refused
        return cls(tuple(Part(letter, *each) for letter, each in zip(letters, every, strict=False)))

    @property
    def steps(self) -> int:
        """How many steps there are through the depth: as many as the deepest map has blocks."""
        return max(len(part.attribution.layers) for part in self.parts)

    @property
    def abreast(self) -> bool:
        """Whether all maps have the same number of blocks, so that a step is a block."""
        return all(len(part.attribution.layers) == self.steps for part in self.parts)

    def alike(self, part: Part) -> list[Part]:
        """The parts by the same method, this one among them."""
        return [p for p in self.parts if _kind(p) == _kind(part)]

    def scale(self, part: Part, look: Look, step: int = -1) -> Scale:
        """What the colours of a part stand for at a step.

        A common scale is of all parts by the same method and all their blocks; methods count in units of their own, so
        that they never share one.
        """
        check_look(look)
        flow, alike = part.attribution.flow, [p.attribution for p in self.alike(part)]
        signed = any(a.signed for a in alike) if look.scale == "common" else part.attribution.signed
        return look.spanning(flow[part.block(step % self.steps, self.steps)], [a.flow for a in alike], signed)

    def scales_told(self, look: Look) -> str:
        """Which of the parts share their colours, in a sentence: "AGCAM: one colour scale for A and B."."""
        if isinstance(look.scale, tuple):
            return "One colour scale for all, as given."
        if look.scale == "own":
            return "Each picture has its own colour scale."
        groups = {_kind(part): self.alike(part) for part in self.parts}
        return " ".join(
            f"{group[0].attribution.method_title}: one colour scale for {_joined([p.letter for p in group])}."
            if len(group) > 1
            else f"{group[0].attribution.method_title}: {group[0].letter} has its own colour scale."
            for group in groups.values()
        )

    @cached_property
    def undivided(self) -> str:
        """Why no difference is shown; empty where there is one."""
        if len(self.parts) != 2:
            return "a difference is of two maps"
        first, second = self.parts
        if _kind(first) != _kind(second):
            return "the maps are of two methods, which count in different units"
        if first.whole.image.size != second.whole.image.size or first.whole.image != second.whole.image:
            return "the maps are of two images"
        if first.whole.grid != second.whole.grid:
            return "the maps lie on different grids"
        seen = [(*p.whole.view.original, *p.whole.view.box, *p.whole.view.window) for p in self.parts]
        if max(abs(a - b) for a, b in zip(*seen, strict=True)) > 0.5:
            return "the models see different parts of the image"
        return ""

    @cached_property
    def difference(self) -> Tensor:
        """The second map less the first, (steps, rows, cols), in the method's units.

        Raises:
            InputError: there is none, with the reason.
        """
        if self.undivided:
            raise InputError(f"no difference: {self.undivided}")
        first, second = (
            torch.stack([p.attribution.flow[p.block(i, self.steps)] for i in range(self.steps)]) for p in self.parts
        )
        return second - first

    @property
    def difference_marks(self) -> tuple[Mark, ...]:
        """What either of the two maps was asked about, each once: their difference is of both.

        In pixels of the first one's image, and empty where there is no difference.
        """
        return () if self.undivided else tuple(dict.fromkeys(m for p in self.parts for m in p.attribution.marks))

    def difference_told(self, step: int = -1) -> str:
        """How large the difference is beside the maps themselves: "at most 40.0 % of their peak"."""
        place = step % self.steps
        both = [part.attribution.flow[part.block(place, self.steps)] for part in self.parts]
        greatest = max(float(each.abs().max()) for each in both)
        share = float(self.difference[place].abs().max()) / greatest if greatest else 0.0
        return f"{'nearly alike, ' * (share < ALIKE)}at most {percent(share)} of their peak"

    def difference_scale(self, look: Look, step: int = -1) -> Scale:
        """What the colours of the difference stand for, as far below 0 as above; never a scale that was given."""
        own = look.scale == "own"
        return Scale.of([self.difference[step]] if own else self.difference, signed=True)


def _kind(part: Part) -> tuple[str, str]:
    """Parts of one kind count in the same units."""
    return part.attribution.method, part.attribution.facts.unit


def _joined(letters: Sequence[str]) -> str:
    return " and ".join([", ".join(letters[:-1]), letters[-1]]) if len(letters) > 1 else letters[0]
