"""Which words of a text its likeness to an image comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .colours import Look, Scale
from .errors import InputError
from .wording import number


@dataclass(frozen=True, eq=False)
class Word:
    """A word of a text, and what it gives.

    >>> from captum_vit.sentence import Word
    >>> Word("cat", 0.25, (2, 5)).told
    'cat 0.25'

    text: as it was written.
    share: what its tokens have of the map that the method makes of the text.
    place: from where to where it stands in the text.
    score: the cosine of the image with the text without it, where that was asked; None of an only word.
    map: (rows, cols), the image's map for the text without it, where that was asked.
    """

    text: str
    share: float
    place: tuple[int, int]
    score: float | None = None
    map: Tensor | None = field(default=None, repr=False)

    @property
    def told(self) -> str:
        """The word and its share."""
        return f"{self.text} {number(self.share)}"


@dataclass(frozen=True, eq=False)
class Sentence:
    """A text, word by word.

    >>> from captum_vit.sentence import Sentence, Word
    >>> sentence = Sentence("a cat", (Word("a", 0.1, (0, 1)), Word("cat", 0.3, (2, 5))), {"start": 0.2, "end": 0.4})
    >>> len(sentence.words), sentence.told
    (2, 'a 0.1, cat 0.3; beside words: start 0.2, end 0.4')

    text: as it was written.
    words: in their order: what stands between spaces.
    apart: what the tokens have that are of no word: those that begin, end and fill up a text.

    Raises:
        InputError: it has no words.
    """

    text: str
    words: tuple[Word, ...]
    apart: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.words:
            raise InputError("a text has at least one word, got none")

    @property
    def shares(self) -> Tensor:
        """Of each word, (words,)."""
        return torch.tensor([word.share for word in self.words])

    def scale(self, look: Look, signed: bool) -> Scale:
        """What the colours of the words stand for, by the rules of the maps: from the least word to the greatest."""
        return look.spanning(self.shares, [self.shares], signed or None)

    @property
    def told(self) -> str:
        """All of it in one line."""
        words = ", ".join(word.told for word in self.words)
        apart = ", ".join(f"{name} {number(value)}" for name, value in self.apart.items())
        return f"{words}; beside words: {apart}" if apart else words
