"""Which of all that a model gives are its scores: by name or by place where that is clear, else as somebody chose."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, UnsupportedModelError, brief, nearest
from ..plugins import is_path, named_object

Choice = str | int | Callable[[Any], Any]  # the name of a field, a place, or a function of the model's output

# fields of these names are no scores of classes, whatever else they are
_OTHERS = re.compile(r"feat|embed|hidden|token|pool|attn|attention|loss|aux|latent|repr|state|logvar", re.IGNORECASE)
_SCORES = re.compile(r"logit|score|prob|pred", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One of several outputs: its place, its name, if it has one, and what it is."""

    place: int
    name: str
    value: Any

    @property
    def told(self) -> str:
        """As a refusal lists it: 1 'logits' (2, 1000)."""
        what = tuple(self.value.shape) if isinstance(self.value, Tensor) else type(self.value).__name__
        return f"{self.place} {f'{self.name!r} ' if self.name else ''}{what}"

    @property
    def handle(self) -> str:
        """What it is chosen by, as it is written."""
        return repr(self.name or self.place)

    @property
    def of_others(self) -> bool:
        """Whether its name says that it is something else than scores."""
        return bool(_OTHERS.search(self.name))

    @property
    def flat(self) -> bool:
        """Whether there is at most one row of numbers for each image."""
        return self.value.dim() <= 2


def parts_of(output: Any) -> list[Part]:
    """The outputs of a model that gives several, in a mapping, a tuple, a list or a dataclass; else none."""
    if isinstance(output, Mapping):  # Hugging Face's outputs are mappings too
        return [Part(i, str(name), value) for i, (name, value) in enumerate(output.items())]
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", [""] * len(output))
        return [Part(i, name, value) for i, (name, value) in enumerate(zip(names, output, strict=True))]
    if is_dataclass(output) and not isinstance(output, type):
        return [Part(i, field.name, getattr(output, field.name)) for i, field in enumerate(fields(output))]
    return []


def scores_among(output: Any, model: str) -> Tensor:
    """The scores, (B,), (B, C) or (B, C, ...), in whatever a model gives.

    >>> from captum_vit.access.outputs import scores_among
    >>> scores_among({"embedding": torch.zeros(2, 8), "logits": torch.zeros(2, 5)}, "Net").shape
    torch.Size([2, 5])

    They are the tensor itself, the field `logits`, or the only tensor that can be scores: a loss is a single number,
    and what has more than two dimensions behind the scores, or is listed, are hidden states or attention.

    Raises:
        UnsupportedModelError: nothing can be scores, or several tensors can.
    """
    if isinstance(output, Tensor):
        if output.dim() == 0:
            raise _none(model, "one number for all images, ()")
        return output
    parts = parts_of(output)
    tensors = [part for part in parts if _may_be_scores(part.value)]
    if not tensors:
        raise _none(model, _shown(parts) if parts else brief(output))
    found = _by_name(tensors) or _by_place(parts, tensors)
    if found is None:
        raise UnsupportedModelError(
            f"{model} gives several outputs, and which of them are the scores of classes is not clear: "
            f"{_shown(parts)}. Choose by {_choices(tensors)}, or by a function of the model's output, as "
            f"output=lambda output: output[0]"
        )
    return found.value  # type: ignore[no-any-return]


def _by_name(tensors: list[Part]) -> Part | None:
    """The field `logits`, or the only one that is called so among others."""
    exact = [part for part in tensors if part.name.lower() == "logits"]
    alike = exact or [part for part in tensors if "logit" in part.name.lower() and not part.of_others]
    return alike[0] if len(alike) == 1 else None


def _by_place(parts: list[Part], tensors: list[Part]) -> Part | None:
    """The only tensor that can be scores, or one of (B, C) that comes before all others, of which each has more
    dimensions; None if there are several, or others stand where scores may be."""
    tensors = [part for part in tensors if not part.of_others]
    if not tensors:
        return None
    first, *others = tensors
    if others and not (first.flat and not any(part.flat for part in others)):
        return None
    before = [part for part in parts if part.place < first.place and not (part.of_others or _is_loss(part.value))]
    if any(_holds_rows(part.value) for part in before) or (before and not first.flat and not first.name):
        return None
    behind = [part for part in parts if part.place > first.place]
    return None if any(_holds_scores(part.value) for part in behind) else first


def _may_be_scores(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _is_loss(value: Any) -> bool:
    return value is None or (isinstance(value, Tensor) and value.dim() == 0)


def _within(value: Any) -> Iterator[Part]:
    """What stands in the containers of a container."""
    for part in parts_of(value):
        yield part
        yield from _within(part.value)


def _holds_rows(value: Any) -> bool:
    """Whether something that is no tensor itself has (B, C) in it."""
    return any(_may_be_scores(part.value) and part.flat for part in _within(value))


def _holds_scores(value: Any) -> bool:
    """Whether something that is no tensor itself has scores in it, by their name."""
    return any(_may_be_scores(part.value) and part.flat and _SCORES.search(part.name) for part in _within(value))


def _shown(parts: list[Part]) -> str:
    told = [part.told for part in parts[:6]]
    return ", ".join([*told, *(["..."] if len(parts) > 6 else [])]) or "nothing"


def _choices(tensors: list[Part]) -> str:
    handles = [f"output={part.handle}" for part in tensors[:6]]
    return " or ".join([", ".join(handles[:-1]), handles[-1]]) if len(handles) > 1 else handles[0]


def _none(model: str, got: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"expected scores of shape (batch, classes, ...) from {model}, got {got}: choose them by a function of the "
        f"model's output, as output=lambda output: ..., or wrap the model so that it returns them"
    )


def all_among(output: Any) -> Tensor:
    """All numbers in whatever a model gives for one image, (1, numbers): what it depends on, any of them may."""
    found = [output] if isinstance(output, Tensor) else [part.value for part in _within(output)]
    rows = [each.reshape(1, -1) for each in found if isinstance(each, Tensor) and each.is_floating_point()]
    return torch.cat(rows, 1) if rows else torch.zeros(1, 0)


def checked_choice(choice: Any) -> Choice | None:
    """A choice as it may be given: None, a name, a place, a function, or `module:object` for one.

    Raises:
        OptionError: something else, or an object that cannot be imported or is no function.
    """
    if isinstance(choice, str) and is_path(choice):
        found = named_object(choice)
        if not callable(found):
            raise OptionError(f"output={choice!r} must name a function of the model's output, got {brief(found)}")
        return found  # type: ignore[no-any-return]
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, Integral) and not isinstance(choice, bool):
        return int(choice)
    if not callable(choice) or isinstance(choice, (type, Tensor)):
        raise OptionError(
            f"output says which of the model's outputs are the scores: a name, as 'logits', a place, as 1, or a "
            f"function of the model's output, got {brief(choice)}"
        )
    return choice  # type: ignore[no-any-return]


def chosen(output: Any, choice: Choice, model: str) -> Tensor:
    """The scores that somebody chose, (B, C) or (B, C, ...).

    >>> from captum_vit.access.outputs import chosen
    >>> chosen((torch.zeros(2, 8), torch.zeros(2, 5)), 1, "Net").shape
    torch.Size([2, 5])

    Raises:
        OptionError: the model gives no such output, or it cannot be scores.
    """
    found = _called(output, choice, model) if callable(choice) else _taken(output, choice, model)
    if not isinstance(found, Tensor) or found.dim() == 0 or not found.is_floating_point():
        raise OptionError(f"{words(choice)} must give scores of shape (batch, classes, ...), got {brief(found)}")
    return found.unsqueeze(1) if found.dim() == 1 else found


def _called(output: Any, choice: Callable[[Any], Any], model: str) -> Any:
    try:
        return choice(output)
    except Exception as error:
        raise OptionError(
            f"{words(choice)} fails on what {model} gives ({type(output).__name__}): {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _taken(output: Any, choice: str | int, model: str) -> Any:
    parts = parts_of(output)
    if isinstance(choice, int) and -len(parts) <= choice < len(parts):
        return parts[choice].value
    for part in parts:
        if part.name == choice:
            return part.value
    if isinstance(choice, str) and not parts and choice in getattr(output, "__dict__", {}):
        return getattr(output, choice)  # of an object of any other kind
    if isinstance(output, Tensor):
        raise OptionError(f"{model} gives one tensor {tuple(output.shape)}: leave {words(choice)} out")
    close = nearest(choice, [part.name for part in parts if part.name]) if isinstance(choice, str) else ""
    raise OptionError(
        f"{model} gives no output {brief(choice)}, but {_shown(parts) if parts else brief(output)}{close}"
    )


def words(choice: Choice) -> str:
    """A choice as it is written: output='logits'."""
    return f"output={_name(choice) if callable(choice) else brief(choice)}"


def _name(function: Callable[[Any], Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "a function" if name == "<lambda>" else name


def told_of(output: Any, scores: Tensor, choice: Choice | None) -> str:
    """Which of several outputs the scores are, in words; empty where there is no other that they might be.

    >>> from captum_vit.access.outputs import told_of
    >>> both = {"embedding": torch.zeros(2, 8), "logits": torch.zeros(2, 5)}
    >>> told_of(both, both["logits"], None)
    "the output 'logits', of 'embedding' and 'logits'"

    Args:
        output: whatever the model gave.
        scores: those in it.
        choice: how they were chosen, if they were.
    """
    if callable(choice):
        return f"what {_name(choice)} makes of the model's output"
    tensors = [part for part in parts_of(output) if _may_be_scores(part.value)]
    own = next((part for part in tensors if part.value.data_ptr() == scores.data_ptr()), None)
    if own is None or (len(tensors) < 2 and choice is None):
        return ""
    handles = [part.handle for part in tensors]
    several = f", of {', '.join(handles[:-1])} and {handles[-1]}" if len(handles) > 1 else ""
    return f"the output {own.handle}{several}"
