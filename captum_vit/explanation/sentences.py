"""The words of texts that are explained: what each gives, and what the image's map is without it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..access.two_towers import TwoTowers, embedded
from ..attr.of_text import shares_of
from ..errors import TargetError, UnsupportedModelError
from ..explained import Attribution
from ..sentence import Sentence, Word
from ..targets import Text, TextEmbedding
from ..tokenizing import Tokens
from .asking import Wanted
from .reading import Flows, Reading


def with_sentences(
    reading: Reading, wanted: Sequence[Wanted], found: Sequence[Sequence[Attribution]], tokenizer: Any, removed: bool
) -> tuple[list[list[Attribution]], tuple[str, ...]]:
    """Of each image the attributions, those for a text with its words, and why some have none, if there are such.

    A word's share takes part of one forward and one backward of the text tower. Without each word takes one of the text
    tower, and of the image's methods a map.

    Args:
        reading: the run, to be asked inside of it.
        wanted: what is explained.
        found: what the methods say of each image.
        tokenizer: the model's.
        removed: whether scores and maps without each word are wanted.
    """
    adapter, made, told = reading.adapter, [list(each) for each in found], dict[str, None]()
    asked = {name: (type(m), reading.asked.options[name]) for name, m in reading.asked.methods.items() if m.of_words}
    if not isinstance(adapter, TwoTowers) or not asked:
        return made, ()
    for each in wanted:
        target = each.target
        if not isinstance(target, TextEmbedding) or target.tokens is None:
            continue
        less = _without(adapter, target.tokens, tokenizer) if removed else {}
        flows = reading.flows(list(less.values())) if less else {}
        shares = _shares(adapter, target.tokens, reading.scores, asked, told)
        for i, attributions in enumerate(made):
            for k, attribution in enumerate(attributions):
                if attribution.target == each.labels[i] and attribution.method in shares:
                    sentence = _sentence(target.tokens, shares[attribution.method][i])
                    words = _words_without(reading, sentence, less, flows, attribution.method, i)
                    attributions[k] = replace(attribution, sentence=replace(sentence, words=words))
    return made, tuple(told)


def _shares(
    adapter: TwoTowers, tokens: Tokens, images: Tensor, asked: Mapping[str, Any], told: dict[str, None]
) -> dict[str, Tensor]:
    """By method what each token gives; those that refuse are asked alone, lest others lose theirs, and tell why."""
    try:
        return shares_of(adapter, tokens, images, asked)
    except UnsupportedModelError as error:
        if len(asked) == 1:
            told[f"words: {error}"] = None
            return {}
    alone = [_shares(adapter, tokens, images, {name: method}, told) for name, method in asked.items()]
    return {name: shares for each in alone for name, shares in each.items()}


def _sentence(tokens: Tokens, shares: Tensor) -> Sentence:
    each = shares.tolist()
    own = zip(tokens.words, tokens.summed(each), tokens.spans, strict=True)
    return Sentence(tokens.sentence, tuple(Word(*word) for word in own), tokens.apart(each))


def _without(adapter: TwoTowers, tokens: Tokens, tokenizer: Any) -> dict[int, TextEmbedding]:
    """Which word is left out -> the text without it; of ids, those without its token."""
    count = len(tokens.words)
    if count < 2:
        return {}
    if tokens.of_ids:
        return {word: embedded(adapter, Text(ids=ids, mask=mask)) for word, (ids, mask) in enumerate(tokens.shorter())}
    found = {}
    for word in range(count):
        with suppress(TargetError):  # of what is left the tokenizer may drop all, as of lone commas
            found[word] = embedded(adapter, Text(tokens.without(word)), tokenizer)
    return found


def _words_without(
    reading: Reading, sentence: Sentence, less: Mapping[int, TextEmbedding], flows: Flows, method: str, image: int
) -> tuple[Word, ...]:
    words = list(sentence.words)
    for place, target in less.items():
        score = float(target.score(reading.output(target))[image])
        flow = flows[id(target), method][0]
        words[place] = replace(words[place], score=score, map=flow[image, -1].clone())
    return tuple(words)
