"""Which of many names may be meant by a word that is none of them."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MOST = 8  # names in a message
LONGEST = 60  # letters of a text that is looked for; nobody misspells a longer one
SMALL = {"a", "an", "the", "of", "and", "or", "in", "on"}  # words that say nothing, where there are others
IRREGULAR = {"wolves": "wolf", "mice": "mouse", "geese": "goose", "knives": "knife", "leaves": "leaf", "loaves": "loaf"}


@dataclass(frozen=True)
class Alike:
    """What may be meant, the likeliest first: number -> the name or synonym; and what these have of the text.

    compounds: those that have it within a word, beside others that have it as a word.
    """

    names: Mapping[int, str]
    what: str = ""
    compounds: Mapping[int, str] = field(default_factory=dict)


def alike(text: str, names: Mapping[int, str]) -> Alike:
    """The names that contain a text's words, or a compound of it; where there are none, those with nearly the same
    letters, or with a part of its words.

    >>> from captum_vit.words import alike
    >>> alike("cats", {281: "tabby, tabby cat", 282: "tiger cat", 285: "Egyptian cat", 299: "meerkat"}).names
    {281: 'tabby cat', 282: 'tiger cat', 285: 'Egyptian cat'}

    Args:
        text: what was asked for, in singular or plural.
        names: number -> name, a name being one synonym, or several with commas between.
    """
    wanted = words_of(text)
    if not wanted or len(text) > LONGEST:
        return Alike({})
    synonyms = [(number, part.strip(), words_of(part)) for number, name in names.items() for part in name.split(",")]
    whole = _each_once((_rank(wanted, words), n, part) for n, part, words in synonyms if set(wanted) <= set(words))
    alone = wanted[0] if len(wanted) == 1 else ""
    within = _each_once((0, n, part) for n, part, words in synonyms if _compound(alone, words))
    within = {number: name for number, name in within.items() if number not in whole}
    if whole:
        few = len(whole) < 4 and len(alone) > 3  # "Rana catesbeiana" is of no use beside seven cats
        return Alike(whole, "the word" if alone else "the words", within if few else {})
    if within:
        return Alike(within, "it within a word")
    near = _near(" ".join(wanted), ((n, part, [" ".join(words)]) for n, part, words in synonyms))
    near = near or _near(alone, synonyms)
    if near:
        return Alike(_each_once(near))
    parts = [(-len(set(wanted) & set(words)), n, part) for n, part, words in synonyms]
    return Alike(_each_once(each for each in parts if each[0] < 0), "a part of it")


def listing(found: Alike) -> str:
    """That in a message's words."""
    count = len(found.names)
    if not count:
        return "no name is like it"
    some = _some(found.names, MOST)
    if not found.what:
        return f"nearest: {some}"
    told = f"{count} class{'es contain' if count > 1 else ' contains'} {found.what}: {some}"
    return told + (
        f"; within a word: {_some(found.compounds, MOST - count)}" if found.compounds and count < MOST else ""
    )


def _some(names: Mapping[int, str], most: int) -> str:
    shown = ", ".join(f"{name[:LONGEST]} ({number})" for number, name in list(names.items())[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def words_of(text: str) -> list[str]:
    """The words of a text that say something, each in small letters, without accents and in the singular."""
    parts = unicodedata.normalize("NFKD", text.casefold().replace("'s ", " "))
    letters = "".join(letter for letter in parts if not unicodedata.combining(letter))
    words = re.findall(r"[^\W_]+", letters)
    return [_singular(word) for word in words if word not in SMALL] or words


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return IRREGULAR.get(word, word)
    if word in IRREGULAR or word.endswith("ies"):
        return IRREGULAR.get(word, word[:-3] + "y")
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")) else word[:-1]


def _rank(wanted: list[str], words: list[str]) -> int:
    """What is a kind of it first: the last word of a name says what the thing is, as in "tabby cat"."""
    return 0 if words[-len(wanted) :] == wanted else 1


def _compound(wanted: str, words: list[str]) -> bool:
    if len(wanted) < 3 or wanted in words:
        return False
    return any(word.startswith(wanted) or word.endswith(wanted) for word in words)


def _each_once(ranked: Iterable[tuple[int, int, str]]) -> dict[int, str]:
    """Each class by the best of its synonyms, the best class first."""
    found: dict[int, str] = {}
    for _, number, name in sorted(ranked, key=lambda each: each[0]):
        found.setdefault(number, name)
    return found


def _near(wanted: str, synonyms: Iterable[tuple[int, str, list[str]]]) -> list[tuple[int, int, str]]:
    """Synonyms with a word that one slip of the pen makes of it; two in a long one, none in a short one."""
    slips = 0 if len(wanted) < 4 else 1 if len(wanted) < 7 else 2
    found = []
    for number, name, words in synonyms:
        close = (word for word in words if abs(len(word) - len(wanted)) <= slips)
        distance = min((edits(wanted, word) for word in close), default=slips + 1)
        if distance <= slips:
            found.append((distance, number, name))
    return found


def edits(a: str, b: str) -> int:
    """How many letters are put in, left out, changed, or swapped with the next one, from one text to the other."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
