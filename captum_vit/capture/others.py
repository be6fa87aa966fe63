"""Who else has had a hand in a model: owners, hooks, replaced methods and patched classes."""

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

import torch.nn.modules.module as everywhere
from torch import nn

from ..access import Adapter
from .listeners import foreign_hooks

PLAIN = (bool, int, float, str, type(None))
LIBRARIES = "captum_vit.adapters."
OF_TORCH = frozenset(nn.Module().__dict__)
GLOBAL_TABLES = ("_global_forward_hooks", "_global_forward_pre_hooks")


@dataclass(frozen=True)
class Hands:
    """What others did to a library's model, in words; nothing to one that is as the library made it.

    unseen: whether it is of a kind that an adapter does not see, so that what it declares may not hold.
    own: whether the adapter is somebody's own.
    """

    words: tuple[str, ...] = ()
    unseen: bool = False
    own: bool = False


NOBODY = Hands()


def hands_in(adapter: Adapter, *, edited: bool) -> Hands:
    """Who else has had a hand in the model; hooks on its modules count where they have been seen to edit."""
    found: list[str] = []
    unseen: list[str] = []
    if adapter.vit is not adapter.model:
        found.append(f"{type(adapter.model).__name__} owns the ViT")
    kind = type(innermost(adapter))
    own = not kind.__module__.startswith(LIBRARIES)
    if own:
        known = f"{kind.__name__} is no adapter of a library"
        found.append(f"{type(adapter.model).__name__} is of no library" if adapter.measured else known)
    unseen += adapter.foreign
    names = {module: name or "the model itself" for name, module in adapter.model.named_modules()}
    for module in foreign_hooks(adapter.model) if edited else ():
        found.append(f"a hook on {names[module]} ({type(module).__name__})")
    if any(getattr(everywhere, table) for table in GLOBAL_TABLES):
        unseen.append("a hook on all modules of this process")
    package = type(adapter.vit).__module__.split(".")[0]
    for module in adapter.model.modules():
        kind = type(module)
        if kind.__module__.split(".")[0] not in ("torch", package):
            if module is adapter.model and adapter.vit is not module:
                continue  # named as the owner
            found.append(f"{names[module]} is of the class {kind.__name__} of {kind.__module__}")
        elif changed := _patched(kind):
            unseen.append(f"{changed} of the class {kind.__name__} was replaced")
        unseen += [f"{name} of {names[module]} was replaced" for name in _replaced(module)]
    return Hands(tuple(dict.fromkeys([*found, *unseen])), bool(unseen), own)


def innermost(adapter: Any) -> Any:
    """The adapter of the ViT itself, without those of modules around it."""
    return innermost(adapter.inner) if hasattr(adapter, "inner") else adapter


def _replaced(module: nn.Module) -> list[str]:
    kind = type(module)
    return [name for name, value in vars(module).items() if callable(value) and callable(getattr(kind, name, None))]


def _patched(kind: type) -> str | None:
    """The name of a method that is not written where the class is, or in torch."""
    bases = [base for base in kind.__mro__ if base not in (object, nn.Module)]
    return _written_elsewhere(kind, tuple(id(value) for base in bases for value in vars(base).values()))


@lru_cache(maxsize=1024)
def _written_elsewhere(kind: type, _methods: tuple[int, ...]) -> str | None:
    for base in kind.__mro__:
        package = base.__module__.split(".")[0]
        folder = getattr(sys.modules.get(package), "__file__", None)
        if base in (object, nn.Module) or folder is None or package == "torch":
            continue
        folder = os.path.dirname(folder)
        for name, value in vars(base).items():
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if (name.startswith("__") and name != "__call__") or not isinstance(code, CodeType):
                continue
            if not code.co_filename.startswith((folder, "<")) and "/torch/" not in code.co_filename:
                return name
    return None


def model_state(model: nn.Module) -> tuple:
    """What tells that a model was changed: its modules, their modes, attributes, hooks and methods; not its weights.

    It is asked with every map, and so takes no longer than it must.
    """
    found: list[Any] = [tuple(getattr(everywhere, table)) for table in GLOBAL_TABLES]
    kinds = set()
    for module in model.modules():
        kinds.add(type(module))
        own = module.__dict__
        found += (id(module), module.training, *own["_forward_hooks"], *own["_forward_pre_hooks"])
        for name, value in own.items():
            if name in OF_TORCH:
                continue
            if isinstance(value, PLAIN):
                found.append(value)
            elif callable(value):
                found.append(id(value))
    for kind in kinds:
        for base in kind.__mro__[:-2]:  # without those of torch and Python themselves
            found += map(id, base.__dict__.values())
    return tuple(found)
