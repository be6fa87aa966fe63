"""From targets as a caller gives them to targets by number."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ..access import Adapter
from ..access.two_towers import embedded
from ..errors import OptionError, TargetError, brief
from ..targets import Classes, Target, as_target, target_indices
from ..targets.classes import plain


def named_target(target: Any, adapter: Adapter) -> Target:
    """The target that is meant, names of classes found as the model carries them, and texts embedded by it.

    Raises:
        TargetError: no target, a class that the model does not have, or a text that it cannot take.
    """
    wanted = as_target(target).with_texts(partial(embedded, adapter))
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
            raise OptionError(f"targets must be classes or 'all', got {brief(targets)}")
        return [Classes(index) for index in range(classes)]
    if not isinstance(targets, (Sequence, Tensor, np.ndarray)) or not getattr(targets, "ndim", 1):
        raise TargetError(f"targets are several classes or other targets in a list, got {brief(targets)}")
    if len(targets) == 0:
        raise TargetError("targets must hold at least one class")
    wanted = plain(targets)
    if isinstance(wanted, Tensor):
        as_target(wanted)  # raises: floats, or true and false
        wanted = wanted.flatten().tolist()
    found = [named_target(each, adapter) for each in wanted]
    numbers = [target.index for target in found if type(target) is Classes and isinstance(target.index, int)]
    if len(numbers) < len(found):
        return found
    return [Classes(index) for index in target_indices(numbers, len(numbers), classes).tolist()]
