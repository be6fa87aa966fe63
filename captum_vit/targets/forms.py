"""The forms that a target may be given in, a function among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import TargetError, brief
from ..plugins import named_object
from .base import Output, Target
from .classes import Classes, check_integers, plain


@dataclass(frozen=True, eq=False)
class Function(Target):
    """Any number made of the model's own output: `function(output) -> (N,)`.

    >>> AGCAM(model).attribute(images, target=lambda output: output[:, 281] ** 2).shape  # taken for one of these
    torch.Size([2, 1, 14, 14])
    """

    function: Callable[[Any], Tensor]
    reads_scores = False
    class_axis = None

    def score(self, output: Output) -> Tensor:
        """What the function gives, (N,)."""
        try:
            found = self.function(output.raw)
        except Exception as error:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            raise TargetError(
                f"the target's function {name} fails on the model's own output ({type(output.raw).__name__}): "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != output.scores.shape[:1]:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(f"a target's function gives one number an image, ({len(output.scores)},), got {got}")
        return found

    def text(self, names: Mapping[int, str]) -> str:
        """The function's name."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return "function" if name == "<lambda>" else name


def as_target(target: Any) -> Target:
    """The target that is meant: one of these classes, a class in Captum's forms, or a function.

    Raises:
        TargetError: a tensor or array of floats, which may be one-hot labels or an embedding, or of true and false; or
            nothing of these.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, type):
        made = f"{target.__name__}(...)" if issubclass(target, Target) else "a class of the model by number or name"
        raise TargetError(f"a target is an object or a function, got {brief(target)}: pass {made}")
    target = plain(target)
    if isinstance(target, Tensor):
        check_integers(target)
    elif callable(target):
        return Function(target)
    return Classes(target)


def target_at(path: str) -> Target:
    """The target that `module:object` names: a target, a class of targets that is made of nothing, or a function.

    Raises:
        OptionError: it cannot be imported.
        TargetError: it is none of these.
    """
    found = named_object(path)
    if isinstance(found, type) and issubclass(found, Target):
        try:
            return found()
        except TypeError as error:
            raise TargetError(
                f"{path!r} cannot be made without arguments ({error}): give it in its module the ones that it needs, "
                f"as mine = {found.__name__}(...), and name that"
            ) from error
    if isinstance(found, type) or not (isinstance(found, Target) or callable(found)):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"{type(found).__name__} {brief(found)}"
        raise TargetError(
            f"{path!r} is no target: expected a Target, a class of them, or a function output -> (N,), got {what}"
        )
    return as_target(found)
