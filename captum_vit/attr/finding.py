"""From what a person calls a method to its class: ours, those of other packages, and Captum's own."""

import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import captum.attr
from captum.attr import Attribution

from ..errors import OptionError, brief, nearest
from ..plugins import named_object, warn_of
from .base import ViTAttribution
from .captum_methods import method_of_captum
from .elsewhere import elsewhere, letters

GROUP = "captum_vit.methods"  # entry-point group: name -> a subclass of ViTAttribution, or an attribution of Captum
MethodClass = type[ViTAttribution]


class Methods(Mapping[str, MethodClass]):
    """The methods by name: those of this folder, then those that other packages declare as entry points."""

    @cached_property
    def _own(self) -> dict[str, MethodClass]:
        found = {}
        for info in pkgutil.iter_modules([str(path) for path in import_module(__package__ or "").__path__]):
            module = import_module(f"{__package__}.{info.name}")
            for kind in vars(module).values():
                if isinstance(kind, type) and issubclass(kind, ViTAttribution) and kind.__module__ == module.__name__:
                    found.update({kind.name: kind} if kind.name else {})
        return found

    @cached_property
    def _others(self) -> dict[str, MethodClass]:
        found = {}
        for point in entry_points(group=GROUP):
            try:
                found[point.name] = _as_method(point.load(), point.name)
            except Exception as error:  # whatever stands in somebody else's package must not stop ours
                warn_of(point, error)
        return {name: method for name, method in found.items() if name not in self._own}

    def __getitem__(self, name: str) -> MethodClass:
        return self._own[name] if name in self._own else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._others])

    def __len__(self) -> int:
        return len(self._own) + len(self._others)


def in_all() -> dict[str, MethodClass]:
    """The methods that "all" stands for: not those that are too costly to be asked without their name."""
    return {name: kind for name, kind in METHODS.items() if not kind.costly}


def find_method(method: Any) -> tuple[str, MethodClass]:
    """The name and class of a method.

    >>> from captum_vit.attr import find_method
    >>> find_method("Attention Rollout") == find_method("rollout") == find_method(AttentionRollout)
    True

    Args:
        method: a name in `METHODS`, a title or the name of a class, whatever its case, hyphens and spaces, of ours or
            Captum's; `module:Class`; or the class itself, of ours, of another package or Captum's; also an attribution
            of Captum that is made already.
    Raises:
        OptionError: an unknown name, or something that is no method.
    """
    if isinstance(method, str) and ":" not in method:
        name = called(method)
        if name is not None:
            return name, METHODS[name]
        own = of_captum(method)
        if own is None:
            raise OptionError(unknown_method(method, [*METHODS, "all"], "module:Class"))
        return own.__name__, _as_method(own, own.__name__)
    if isinstance(method, ViTAttribution):
        name = type(method).__name__
        raise OptionError(f"a method made of a model already, an {name}: pass the class {name}, or its name")
    found = named_object(method) if isinstance(method, str) else method
    if not isinstance(found, (type, Attribution)):
        raise OptionError(
            f"no method {brief(found)}: one is a name, as 'agcam', or a class, as AGCAM; by name there are "
            f"{', '.join(METHODS)}"
        )
    own_name = getattr(found, "name", "") if isinstance(found, type) and issubclass(found, ViTAttribution) else ""
    name = own_name or getattr(found, "__name__", type(found).__name__)
    return name, _as_method(found, name)


def called(method: str, others: Mapping[str, Any] | None = None) -> str | None:
    """The name in `METHODS`, or among others, that a person means by a name, a title, or the name of a class.

    Case, hyphens and spaces do not count; None where nothing of that name is there.
    """
    if method in METHODS or method in (others or ()):
        return method
    wanted = letters(method)
    for name, kind in METHODS.items():
        if wanted and wanted in {letters(each) for each in (name, kind.title, kind.__name__)}:
            return name
    return next((name for name in others or () if letters(name) == wanted), None)


def of_captum(method: str) -> type[Attribution] | None:
    """The class of Captum's that a person means by its name; none where it does not work on ViTs, as LRP."""
    if elsewhere(method) is not None:
        return None
    for name in captum.attr.__all__:
        kind = getattr(captum.attr, name, None)
        if letters(name) == letters(method) and isinstance(kind, type) and issubclass(kind, Attribution):
            return kind
    return None


def unknown_method(method: str, known: Sequence[str], form: str) -> str:
    """What is said of a name that is no method's: for one of the field's, what stands nearest to it here."""
    there = f"there are {', '.join(known)}, and {form}, as captum.attr:IntegratedGradients"
    told = elsewhere(method)
    if told is not None:
        return f"no method {brief(method)} here: {told}; {there}"
    return f"no method {brief(method)}; {there}{nearest(method, list(known))}"


def _as_method(found: Any, name: str) -> MethodClass:
    if isinstance(found, type) and issubclass(found, ViTAttribution) and not inspect.isabstract(found):
        return found
    kind = found if isinstance(found, type) else type(found)
    if issubclass(kind, Attribution) and not issubclass(kind, ViTAttribution):
        return method_of_captum(found)
    raise OptionError(f"{name!r} is no method: expected a subclass of ViTAttribution, or an attribution of Captum")


METHODS = Methods()
