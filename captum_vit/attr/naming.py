"""From targets as a caller gives them to targets by number."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..access import Adapter
from ..errors import OptionError, TargetError
from ..targets import Classes, Target, as_target, target_indices


def named_target(target: Any, adapter: Adapter) -> Target:
    """The target that is meant, names of classes found as the model carries them.

    Raises:
        TargetError: no target, or a class that the model does not have.
    """
    wanted = as_target(target)
    if not wanted.by_name:
        return wanted
    names = adapter.class_names
    return wanted.named(names, max(names, default=-1) + 1, type(adapter.model).__name__)


def several_targets(targets: Sequence[Any] | Tensor | str, adapter: Adapter, classes: int) -> list[Target]:
    """Several targets for one image, "all" being each of its classes.

    Raises:
        OptionError, TargetError: another word than "all", none at all, or one that the scores do not have.
    """
    if isinstance(targets, str):
        if targets != "all":
            raise OptionError(f"targets must be classes or 'all', got {targets!r}")
        return [Classes(index) for index in range(classes)]
    if len(targets) == 0:
        raise TargetError("targets must hold at least one class")
    wanted = targets.flatten().tolist() if isinstance(targets, Tensor) else targets
    found = [named_target(each, adapter) for each in wanted]
    plain = [target.index for target in found if type(target) is Classes and isinstance(target.index, int)]
    if len(plain) < len(found):
        return found
    return [Classes(index) for index in target_indices(plain, len(plain), classes).tolist()]
