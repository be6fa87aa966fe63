"""From a class as a person names it to its number."""

import re
from collections.abc import Mapping
from operator import index
from typing import Any

from .errors import TargetError
from .models import nearest


def as_targets(target: Any) -> list[int | str]:
    """The classes in a number, a name, a tensor or array of numbers, or a sequence of any of these; none in None.

    Raises:
        TargetError: anything else.
    """
    if target is None:
        return []
    if isinstance(target, str):
        return [target]
    try:
        return [index(target)]  # int, and what numpy and torch have of one
    except TypeError:
        pass
    try:
        return [each for item in target for each in as_targets(item)]
    except TypeError as error:
        raise TargetError(f"a target is a class by number or name, or several, got {target!r}") from error


def class_index(target: int | str, names: Mapping[int, str], classes: int, model: str) -> int:
    """The number of a class.

    Args:
        target: its number, also as text, or its name; of a name with several synonyms (as ImageNet's) any of them, in
            upper or lower case.
        names: number -> name; empty if nobody knows them.
        classes: how many the model has.
        model: its name, for messages.
    Raises:
        TargetError: out of range, unknown (with the nearest names), or a name of several classes.
    """
    if isinstance(target, int) or re.fullmatch("-?[0-9]{1,9}", target):
        if not 0 <= int(target) < classes:
            raise TargetError(f"target {target} is out of range: {model!r} has 0 to {classes - 1}")
        return int(target)
    wanted = target.strip().casefold()
    known: dict[str, set[int]] = {}
    for number, name in names.items():
        for part in {name, *name.split(",")}:
            known.setdefault(part.strip().casefold(), set()).add(number)
    found = sorted(known.get(wanted, ()))
    if not found:
        raise TargetError(f"no class {target!r} in {model!r}{_hint(wanted, names, list(known))}")
    if len(found) > 1:
        raise TargetError(f"class {target!r} is not unique: give one of the numbers {', '.join(map(str, found))}")
    return found[0]


def _hint(wanted: str, names: Mapping[int, str], known: list[str]) -> str:
    containing = [name for name in known if wanted and wanted in name]
    if not known:
        hint = "; its classes have no names, give a number"
    elif len(names) <= 20:
        hint = f"; it has {', '.join(names.values())}{nearest(wanted, known)}"
    else:
        hint = f"; nearest: {', '.join(containing[:3])}" if containing else nearest(wanted, known)
    return hint + ("; for several, name each by itself" if "," in wanted else "")
