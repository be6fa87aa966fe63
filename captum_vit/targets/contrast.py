"""Why the one rather than the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..marks import Mark
from .base import Output, Sight, Target
from .forms import as_target


@dataclass(frozen=True, eq=False)
class Contrast(Target):
    """Why the one rather than the other: the score of `a` less the score of `b`.

    >>> Contrast("tabby", "Egyptian cat")
    Contrast(a='tabby', b='Egyptian cat')

    a, b: classes by number or name, or any targets. Of two classes of a softmax, the difference of their logits is the
        logarithm of how many times more likely the one is.
    Source: Jacovi et al. 2021, "Contrastive Explanations for Model Interpretability" (arXiv:2103.01378).
    """

    a: Any
    b: Any

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Of two texts or embeddings a difference of cosines, of classes one of logits."""
        return "cosine difference" if all(part.unit == "cosine" for part in self._parts) else "logit difference"

    @property
    def of_features(self) -> bool:  # type: ignore[override]
        """Whether both are."""
        return all(part.of_features for part in self._parts)

    @property
    def reads_scores(self) -> bool:  # type: ignore[override]
        """Whether both do."""
        return self._parts[0].reads_scores and self._parts[1].reads_scores

    @property
    def own_tokens(self) -> bool:  # type: ignore[override]
        """Whether one of both is."""
        return any(part.own_tokens for part in self._parts)

    @property
    def class_axis(self) -> int | None:  # type: ignore[override]
        """That of both, if it is the same."""
        axes = {part.class_axis for part in self._parts}
        return axes.pop() if len(axes) == 1 else None

    @property
    def by_name(self) -> bool:
        """Whether one of both does."""
        return any(part.by_name for part in self._parts)

    @property
    def _parts(self) -> tuple[Target, Target]:
        return as_target(self.a), as_target(self.b)

    def score(self, output: Output) -> Tensor:
        """y_a - y_b, (N,)."""
        a, b = self._parts
        return a.score(output) - b.score(output)

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Target":
        """With numbers for names."""
        a, b = (part.named(names, classes, model) for part in self._parts)
        return Contrast(a, b)

    @property
    def settles(self) -> bool:  # type: ignore[override]
        """Whether one of both does."""
        return any(part.settles for part in self._parts)

    def settled(self, output: Output, sight: Sight | None) -> "Target":
        """The contrast of what both find in the images."""
        a, b = (part.settled(output, sight) for part in self._parts)
        return Contrast(a, b)

    def marks(self, output: Output, sight: Sight) -> tuple[Mark, ...]:
        """Those of both, each once."""
        return tuple(dict.fromkeys(mark for part in self._parts for mark in part.marks(output, sight)))

    def with_texts(self, embed: Callable[[Any], Target]) -> "Target":
        """With the features of the texts in both."""
        a, b = (part.with_texts(embed) for part in self._parts)
        return Contrast(a, b)

    def of_image(self, number: int) -> "Target":
        """The contrast of one image."""
        a, b = (part.of_image(number) for part in self._parts)
        return Contrast(a, b)

    def text(self, names: Mapping[int, str]) -> str:
        """As the command line takes it: "tabby/Egyptian cat"."""
        return "/".join(part.text(names) for part in self._parts)

    def title(self, names: Mapping[int, str]) -> str:
        """In words."""
        return " rather than ".join(part.title(names) for part in self._parts)
