"""What was explained, in words and with its score."""

from collections.abc import Sequence
from dataclasses import dataclass

from .classes import class_index
from .errors import TargetError, brief, nearest
from .wording import number, percent

CONFIDENCE = "confidence"  # the unit of scores in 0..1 that are not of the image, as of a detection


@dataclass(frozen=True)
class Label:
    """What was explained: a class of the model, or another target.

    index: the number of the class; None of another target.
    name: of the class, empty if nobody knows it; of another target how it was asked for, as "tabby/Egyptian cat".
    score: of the image, in 0..1 for a class; otherwise the number that was explained.
    title: what stands over pictures, different for all classes of a model; by default the name, or the number.
    unit: what the score is: "score" of a class, else as "logit difference"; a "confidence" is in 0..1 too.
    probability: of a text, what the model's own scale makes of the cosine, in 0..1: by itself where it was trained so
        (sigmoid), otherwise among the texts that were asked together (softmax); None of a single one.
    among: how many texts these are; 0 of one by itself.
    """

    index: int | None
    name: str
    score: float
    title: str = ""
    unit: str = "score"
    probability: float | None = None
    among: int = 0

    def __post_init__(self) -> None:
        if not self.title:
            unnamed = "target" if self.index is None else f"class {self.index}"
            object.__setattr__(self, "title", self.name.strip() or unnamed)

    @property
    def measured(self) -> str:
        """The score in words: of a class "81.3 %", of another target with its unit, as "logit difference 2.31".

        Of a text its probability too, as "cosine 0.31, 92.0 % of 3 texts".
        """
        if self.index is not None or self.unit == CONFIDENCE:
            return percent(self.score)
        known = f"{self.unit} {number(self.score)}"
        if self.probability is None:
            return known
        return f"{known}, {percent(self.probability)}{f' of {self.among} texts' if self.among else ''}"


def label_among(target: int | str | Label, labels: Sequence[Label], model: str) -> Label:
    """The one of these labels that is meant: by number, name or title, or itself.

    Args:
        target: as for `Explained.only`.
        labels: of what was explained.
        model: its name, for messages.
    Raises:
        TargetError: none of them, or several.
    """
    if isinstance(target, Label):
        if target in labels:
            return target
        target = target.title
    others = [label for label in labels if label.index is None]
    found = [label for label in others if str(target).strip() in (label.name.strip(), label.title)]
    if len(found) > 1:
        raise TargetError(f"target {brief(target)} is not unique here: pass one of the explanation's `targets`")
    if found:
        return found[0]
    known = {label.index: label for label in labels if label.index is not None}
    for names in ({i: label.title for i, label in known.items()}, {i: label.name for i, label in known.items()}):
        try:
            return known[class_index(target, names, max(known, default=-1) + 1, model)]
        except (KeyError, TargetError):
            continue
    titles = [label.title for label in labels]
    raise TargetError(
        f"class {brief(target)} was not explained; explained: {', '.join(titles) or 'none'}"
        f"{nearest(str(target), titles)}"
    )
