"""From a class as a person names it to its number."""

import re
from collections import Counter
from collections.abc import Mapping

from .errors import TargetError, brief
from .words import alike, listing


def class_index(target: int | str, names: Mapping[int, str], classes: int, model: str) -> int:
    """The number of a class.

    >>> from captum_vit.classes import class_index
    >>> class_index("Tabby-cat", {281: "tabby, tabby cat", 282: "tiger cat"}, 1000, "vit")
    281

    Args:
        target: its number, also as text, or its name; of a name with several synonyms (as ImageNet's) any of them, in
            upper or lower case, its words parted by whatever. Where classes are named by numbers, text is a name.
        names: number -> name; empty if nobody knows them.
        classes: how many the model has.
        model: its name, for messages.
    Raises:
        TargetError: out of range, unknown (with the classes that may be meant: none is guessed), or a name of several
            classes.
    """
    text = str(target).strip()
    found = [] if isinstance(target, int) else _named(text, names)
    if not found and re.fullmatch("-?[0-9]{1,9}", text):
        if not names and not classes and int(text) >= 0:  # how many there are is not known here
            return int(text)
        if not 0 <= int(text) < classes:
            raise TargetError(f"target {text} is out of range: {model!r} has 0 to {classes - 1}")
        return int(text)
    if not found:
        raise TargetError(f"no class {brief(target)} in {model!r}{_hint(text, names)}")
    if len(found) > 1:
        numbers = ", ".join(f"{number} ({names[number]})" for number in found)
        raise TargetError(f"class {brief(target)} is not unique: give one of the numbers {numbers}")
    return found[0]


def _named(text: str, names: Mapping[int, str]) -> list[int]:
    """The classes of this name, or that have it as a synonym, exactly or but for how its words are parted.

    Of two classes of one name, "crane (134)" is one, as `titles` calls it.
    """
    numbered = re.fullmatch(r"(.*\S)\s*\((\d{1,9})\)", text)
    if numbered and (number := int(numbered[2])) in _named(numbered[1], names):
        return [number]
    for form in (_exact, _parted):
        wanted = form(text)
        found = [n for n, name in names.items() if wanted in {form(part) for part in (name, *name.split(","))}]
        if wanted and found:
            return sorted(found)
    return []


def _exact(text: str) -> str:
    return text.strip().casefold()


def _parted(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def titles(names: Mapping[int, str]) -> dict[int, str]:
    """Names short enough to stand over a picture, all different: of synonyms the first, where no other class has it."""
    firsts = {index: name.split(",")[0].strip() for index, name in names.items()}
    short, full = Counter(firsts.values()), Counter(names.values())
    found = {}
    for number, name in names.items():
        alone = short[firsts[number]] == 1
        title = firsts[number] if alone else name.strip()
        found[number] = f"{title} ({number})" if title and not alone and full[name] > 1 else title
    return found


def _hint(text: str, names: Mapping[int, str]) -> str:
    """What may be meant."""
    if not names:
        hint = "; its classes have no names: give a number, or the names by explain(..., class_names=[...])"
    elif len(names) <= 20:
        close = list(dict.fromkeys(alike(text, names).names.values()))[:3]
        hint = f"; it has {', '.join(name[:40] for name in names.values())}"
        hint += f"; nearest: {', '.join(close)}" if close else ""
    else:
        hint = f"; {listing(alike(text, names))}; ask for one by its name or number"
    one, slash, other = text.partition("/")
    if slash and one.strip() and other.strip():
        hint += f". Why the one rather than the other is captum_vit.Contrast({brief(one)}, {brief(other)})"
    return hint + ("; for several, name each by itself" if "," in text else "")
