"""From a class as a person names it to its number."""

import re
from collections import Counter
from collections.abc import Mapping

from .errors import TargetError, nearest


def class_index(target: int | str, names: Mapping[int, str], classes: int, model: str) -> int:
    """The number of a class.

    Args:
        target: its number, also as text, or its name; of a name with several synonyms (as ImageNet's) any of them, in
            upper or lower case. Where classes are named by numbers, text is a name.
        names: number -> name; empty if nobody knows them.
        classes: how many the model has.
        model: its name, for messages.
    Raises:
        TargetError: out of range, unknown (with the nearest names), or a name of several classes.
    """
    wanted = str(target).strip().casefold()
    known: dict[str, set[int]] = {}
    for number, name in names.items():
        for part in {name, *name.split(",")}:
            known.setdefault(part.strip().casefold(), set()).add(number)
    found = [] if isinstance(target, int) else sorted(known.get(wanted, ()))
    if not found and re.fullmatch("-?[0-9]{1,9}", wanted):
        if not 0 <= int(wanted) < classes:
            raise TargetError(f"target {target} is out of range: {model!r} has 0 to {classes - 1}")
        return int(wanted)
    if not found:
        raise TargetError(f"no class {target!r} in {model!r}{_hint(wanted, names, list(known))}")
    if len(found) > 1:
        raise TargetError(f"class {target!r} is not unique: give one of the numbers {', '.join(map(str, found))}")
    return found[0]


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


def _hint(wanted: str, names: Mapping[int, str], known: list[str]) -> str:
    containing = [name for name in known if wanted and wanted in name]
    if not known:
        hint = "; its classes have no names, give a number"
    elif len(names) <= 20:
        hint = f"; it has {', '.join(names.values())}{nearest(wanted, known)}"
    else:
        hint = f"; nearest: {', '.join(containing[:3])}" if containing else nearest(wanted, known)
    return hint + ("; for several, name each by itself" if "," in wanted else "")
