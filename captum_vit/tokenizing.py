"""From a sentence to tokens, and from tokens back to its words."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from .errors import TargetError, brief

START, WORD, END, PADDING = "start", "word", "end", "padding"
Span = tuple[int, int]
SIGMOID_END, SIGMOID_FILLS = 1, (0, 1)  # SigLIP fills up with its end, SigLIP 2 with 0; configurations name neither
MARKS = re.compile(
    r"</w>|^##|[\u2581\u0120\u010a]"
)  # what tokenizers write for the end, the inside or the gap of words


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sentence as a text tower takes it.

    >>> from captum_vit.tokenizing import Tokens
    >>> tokens = Tokens("a cat", torch.tensor([[8, 1, 5, 6, 9]]), ("start", "word", "word", "word", "end"), (0, 1, 1))
    >>> tokens.words, tokens.summed([9.0, 1.0, 2.0, 3.0, 9.0])
    (('a', 'cat'), [1.0, 5.0])

    sentence: as it was written; of ids alone the tokens with spaces between.
    ids: (1, T).
    kinds: of each token whether it is a "word", or part of one, or stands before ("start"), after ("end") or fills up
        what is left ("padding").
    places: of each token of a word, in their order, which word of the sentence it belongs to.
    mask: (1, T), 0 where a token is left out, for the towers that are given one.
    of_ids: whether ids were given, and no text.
    """

    sentence: str
    ids: Tensor
    kinds: tuple[str, ...]
    places: tuple[int, ...]
    mask: Tensor | None = field(default=None, repr=False)
    of_ids: bool = False

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where each word stands in the sentence."""
        return tuple(words_in(self.sentence))

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the sentence: what stands between spaces."""
        return tuple(self.sentence[start:end] for start, end in self.spans)

    def summed(self, values: Sequence[float]) -> list[float]:
        """What its tokens have together, word by word; a word that the tokenizer drops, as a lone comma, has 0."""
        found = [0.0] * len(self.spans)
        own = [value for value, kind in zip(values, self.kinds, strict=True) if kind == WORD]
        for place, value in zip(self.places, own, strict=True):
            found[place] += value
        return found

    def apart(self, values: Sequence[float]) -> dict[str, float]:
        """What the tokens have together that are of no word: "start", "end" and "padding", as far as there are any."""
        found: dict[str, float] = {}
        for value, kind in zip(values, self.kinds, strict=True):
            if kind != WORD:
                found[kind] = found.get(kind, 0.0) + value
        return found

    def shorter(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Of ids, those without each word in turn and their mask; as many as before, where something fills them up."""
        count = len(self.kinds)
        before = [0] if self.kinds[0] == PADDING else []
        behind = [count - 1] if self.kinds[-1] != WORD and not before else []
        for left_out in (i for i, kind in enumerate(self.kinds) if kind == WORD):
            kept = [*before, *(i for i in range(count) if i != left_out), *behind]
            yield self.ids[:, kept], None if self.mask is None else self.mask[:, kept]

    def without(self, word: int) -> str:
        """The sentence without one of its words."""
        return " ".join(text for place, text in enumerate(self.words) if place != word)


def ended(used: int, count: int, starts: int = 1) -> list[str]:
    """What each of `count` tokens is where the last of the `used` ones ends the text.

    >>> from captum_vit.tokenizing import ended
    >>> ended(4, 5)
    ['start', 'word', 'word', 'end', 'padding']
    """
    return [START] * starts + [WORD] * (used - 1 - starts) + [END] + [PADDING] * (count - used)


def filled(ids: Sequence[int], ends: Collection[int], fills: Collection[int]) -> list[str]:
    """What each token is of a text without a start, which one of `fills` fills up, before it or behind it.

    >>> from captum_vit.tokenizing import filled
    >>> filled([7, 8, 1, 0, 0], {1}, {0, 1}), filled([0, 7, 8, 1], {1}, {0, 1})
    (['word', 'word', 'end', 'padding', 'padding'], ['padding', 'word', 'word', 'end'])

    The first of those that fill it up ends the text, where no other end comes before them; a text that leaves no
    place has none.
    """
    first, last = (next(iter(groupby(each)))[1] for each in (ids, reversed(ids)))
    before, behind = (len(list(run)) if each in fills else 0 for run, each in ((first, ids[0]), (last, ids[-1])))
    if before == len(ids):
        return ended(1, before, 0)
    used = len(ids) - behind
    used += bool(behind) and (ids[used - 1] not in ends)
    kinds = ended(used, len(ids), 0) if behind else [WORD] * len(ids)
    return [PADDING] * before + kinds[before:]


def words_in(sentence: str) -> Iterator[Span]:
    """From where to where each word of a sentence goes: what stands between spaces.

    >>> from captum_vit.tokenizing import words_in
    >>> list(words_in("a cat, asleep"))
    [(0, 1), (2, 6), (7, 13)]
    """
    return (match.span() for match in re.finditer(r"\S+", sentence))


def places_of(sentence: str, spans: Sequence[Span]) -> tuple[int, ...]:
    """Which word each token belongs to, of tokens that stand from here to there: that of its first letter."""
    words, found = list(words_in(sentence)), []
    for start, end in spans:
        while start < end and sentence[start].isspace():
            start += 1
        behind = [place for place, word in enumerate(words) if start < word[1]]
        found.append(behind[0] if behind else len(words) - 1)
    return tuple(found)


def aligned(sentence: str, pieces: Sequence[str]) -> list[Span]:
    """Where tokens stand in the sentence, of a tokenizer that only gives them as text.

    >>> from captum_vit.tokenizing import aligned
    >>> aligned("A cat, asleep", ["a</w>", "cat</w>", "as", "leep</w>"])
    [(0, 1), (2, 5), (7, 9), (9, 13)]

    Tokenizers may drop punctuation and change upper into lower case; what is dropped belongs to no token.

    Raises:
        TargetError: a token is not found in what is left of the sentence.
    """
    text, at, found = sentence.lower(), 0, []
    if len(text) != len(sentence):  # as of a capital that has two small letters
        text = sentence
    for piece in pieces:
        plain = MARKS.sub("", piece)
        bare = plain if plain in text[at:] else plain.lower()
        start = text.find(bare, at)
        if start < 0 or any(letter.isalnum() for letter in text[at:start]):
            raise TargetError(
                f"which words of {brief(sentence)} its tokens belong to is not known: the tokenizer tells no places, "
                f"and its token {brief(piece)} does not follow {brief(sentence[:at])}. A fast tokenizer tells them"
            )
        found.append((start, start + len(bare)))
        at = start + len(bare)
    return found
