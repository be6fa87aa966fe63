"""How like a text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import TargetError, brief
from ..tokenizing import Tokens
from .base import Output, Target
from .embedding import Embedding


@dataclass(frozen=True, eq=False)
class Text(Target):
    """The cosine of the image's feature with that of a text, by the model's own text tower: CLIP, SigLIP and kin.

    >>> Text("a cat on a sofa")
    Text('a cat on a sofa')

    sentence: the text.
    ids: in its place the numbers of its tokens, (T,) or (1, T), as the model's own tokenizer gives them.
    mask: beside ids, 0 where a token is left out, for towers that are given one.
    tokenizer: the model's own, where `explain` does not know it: of transformers or open_clip.

    Raises:
        TargetError: neither a text nor ids, or both; and where it is asked for: the model has no text tower, the
            tokenizer is not known, the text is too long, or nothing is left of it in the tokenizer.
    """

    sentence: str = ""
    ids: Tensor | None = None
    mask: Tensor | None = field(default=None, repr=False)
    tokenizer: Any = field(default=None, repr=False)
    unit = "cosine"
    of_features = True

    def __post_init__(self) -> None:
        if not isinstance(self.sentence, str):
            raise TargetError(f"a text is a str, as Text('a cat on a sofa'), got {brief(self.sentence)}")
        if self.ids is None and not self.sentence.strip():
            raise TargetError("a text is needed, as Text('a cat on a sofa'), or its tokens, Text(ids=...): got none")
        if self.ids is None:
            return
        if self.sentence:
            raise TargetError("a text is given by its words or by the ids of its tokens, got both")
        if not isinstance(self.ids, Tensor) or self.ids.is_floating_point() or self.ids.dim() not in (1, 2):
            got: Any = f"{self.ids.dtype} {tuple(self.ids.shape)}" if isinstance(self.ids, Tensor) else brief(self.ids)
            raise TargetError(f"the ids of a text are an integer tensor (T,) or (1, T), got {got}")
        if self.ids.dim() == 2 and len(self.ids) != 1:
            raise TargetError(f"ids are of one text, (T,) or (1, T), got {tuple(self.ids.shape)}: pass several targets")
        if self.mask is not None and (not isinstance(self.mask, Tensor) or self.mask.numel() != self.ids.numel()):
            got = tuple(self.mask.shape) if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise TargetError(f"the mask of a text has a number for each of {self.ids.numel()} ids, got {got}")

    def __repr__(self) -> str:
        return f"Text({self.sentence!r})" if self.ids is None else f"Text(ids={self.ids.flatten().tolist()})"

    @property
    def in_python(self) -> str | None:
        """As captum_vit.targets.Text('a cat'); None where it has ids or a tokenizer of its own."""
        return None if self.tokenizer is not None or self.ids is not None else f"captum_vit.targets.{self!r}"

    def with_texts(self, embed: Callable[["Text"], Target]) -> Target:
        """With the feature that the model's text tower gives."""
        return embed(self)

    def score(self, output: Output) -> Tensor:
        """None: what is scored is the text's feature, see `with_texts`."""
        raise TargetError(f"{self!r} has to be embedded by a model's text tower before it is scored")

    def text(self, names: Mapping[int, str]) -> str:
        """The text itself."""
        return self.sentence or "text"


@dataclass(frozen=True, eq=False)
class TextEmbedding(Embedding):
    """A text that a model's text tower has embedded.

    tokens: the text as the tower took it.
    """

    tokens: Tokens | None = field(default=None, repr=False)

    def text(self, names: Mapping[int, str]) -> str:
        """The text itself."""
        return self.tokens.sentence if self.tokens else "text"

    def title(self, names: Mapping[int, str]) -> str:
        """The text in quotation marks."""
        return f"“{self.text(names)}”"
