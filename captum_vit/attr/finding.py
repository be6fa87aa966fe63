"""From what a person calls a method to its class: ours, those of other packages, and Captum's own."""

import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from captum.attr import Attribution

from ..errors import OptionError, nearest
from ..plugins import named_object, warn_of
from .base import ViTAttribution
from .captum_methods import method_of_captum

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


def find_method(method: Any) -> tuple[str, MethodClass]:
    """The name and class of a method.

    Args:
        method: a name in `METHODS`, `module:Class`, or the class itself, of ours, of another package or Captum's; also
            an attribution of Captum that is made already.
    Raises:
        OptionError: an unknown name, or something that is no method.
    """
    if isinstance(method, str) and ":" not in method:
        if method not in METHODS:
            raise OptionError(
                f"no method {method!r}; there are {', '.join(METHODS)}, all, and module:Class as "
                f"captum.attr:IntegratedGradients{nearest(method, list(METHODS))}"
            )
        return method, METHODS[method]
    found = named_object(method) if isinstance(method, str) else method
    called = getattr(found, "name", "") if isinstance(found, type) and issubclass(found, ViTAttribution) else ""
    name = called or getattr(found, "__name__", type(found).__name__)
    return name, _as_method(found, name)


def _as_method(found: Any, name: str) -> MethodClass:
    if isinstance(found, type) and issubclass(found, ViTAttribution) and not inspect.isabstract(found):
        return found
    kind = found if isinstance(found, type) else type(found)
    if issubclass(kind, Attribution) and not issubclass(kind, ViTAttribution):
        return method_of_captum(found)
    raise OptionError(f"{name!r} is no method: expected a subclass of ViTAttribution, or an attribution of Captum")


METHODS = Methods()
