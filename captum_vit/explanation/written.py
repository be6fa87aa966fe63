"""The words of a text as a manifest holds them, and read from one with every number checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..sentence import Sentence, Word
from .checked import flag, many, mapping, number, text, whole, wrong

MOST_WORDS = 1024


def written(sentence: Sentence) -> dict[str, Any]:
    """A text in words and numbers, as a manifest holds it; the maps go beside."""
    words = [
        {"share": w.share, "place": list(w.place), "score": w.score, "map": w.map is not None} for w in sentence.words
    ]
    return {"text": sentence.text, "words": words, "apart": dict(sentence.apart)}


def maps_of(i: int, sentence: Sentence) -> dict[str, Tensor]:
    """The maps without words, of the attribution of this number, by the names that they are kept under."""
    return {_name(i, j): word.map for j, word in enumerate(sentence.words) if word.map is not None}


def names_of(attributions: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of all maps without words that the attributions of a manifest tell of.

    Raises:
        InputError: something in them that no text has.
    """
    found = set()
    for i, entry in enumerate(attributions):
        if entry.get("sentence") is not None:
            words = _words(mapping(entry["sentence"], f"attributions[{i}].sentence"), f"attributions[{i}].sentence")
            found |= {_name(i, j) for j, word in enumerate(words) if word.get("map") is True}
    return found


def _name(i: int, j: int) -> str:
    return f"word.{i}.{j}"


def _words(given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    words = given.get("words")
    if not isinstance(words, list) or not 0 < len(words) <= MOST_WORDS:
        raise wrong(f"{where}.words", f"a list of 1 to {MOST_WORDS}", words)
    return many(words, f"{where}.words", mapping)


def read(value: Any, i: int, tensors: Mapping[str, Tensor], grid: tuple[int, ...]) -> Sentence | None:
    """The text that `written` gave, checked.

    Args:
        value: as it was read; None where there is none.
        i: the number of its attribution.
        tensors: those of the explanation.
        grid: of the maps.
    Raises:
        InputError: something in it that no text has.
    """
    if value is None:
        return None
    where = f"attributions[{i}].sentence"
    given = mapping(value, where)
    whole_text, found = text(given.get("text"), f"{where}.text"), []
    for j, word in enumerate(_words(given, where)):
        at = f"{where}.words[{j}]"
        start, end = many(word.get("place"), f"{at}.place", whole, 2)
        if not 0 <= start < end <= len(whole_text):
            raise wrong(f"{at}.place", f"two places within {len(whole_text)} letters", [start, end])
        score = None if word.get("score") is None else number(word["score"], f"{at}.score")
        shown = _map(tensors.get(_name(i, j)), at, grid) if flag(word.get("map"), f"{at}.map") else None
        found.append(Word(whole_text[start:end], number(word.get("share"), f"{at}.share"), (start, end), score, shown))
    apart = mapping(given.get("apart", {}), f"{where}.apart")
    return Sentence(whole_text, tuple(found), {name: number(v, f"{where}.apart.{name}") for name, v in apart.items()})


def _map(found: Tensor | None, where: str, grid: tuple[int, ...]) -> Tensor:
    if found is None:
        raise InputError(f"the map of {where} is not among the tensors")
    if tuple(found.shape) != grid or not found.is_floating_point() or not torch.isfinite(found).all():
        raise InputError(f"the map of {where} must be finite floats {grid}, got {found.dtype} {tuple(found.shape)}")
    return found
