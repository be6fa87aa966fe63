"""Who else has had a hand in a model: owners, hooks, replaced methods and patched classes."""

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

import torch.nn.modules.module as everywhere
from torch import Tensor, nn

from ..access import Adapter
from .listeners import foreign_hooks

PLAIN = (bool, int, float, str, type(None))
LIBRARIES = "captum_vit.adapters."
OF_TORCH = frozenset(nn.Module().__dict__)
EXACTLY = frozenset(PLAIN)
HOLDING = (list, tuple, set, frozenset, dict)
SAYING = (*PLAIN, *HOLDING)
SMALL = 4096  # entries of a tensor or a list that may be a setting; features and caches are larger
FEW = 64  # entries of a list in an object; the names of classes in a configuration are more
DEEP = 4  # of lists, dicts and objects in one another
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
    """What tells that a model was changed: its modules, modes, attributes, settings, hooks and methods; not weights.

    It is asked with every map, and so takes no longer than it must.
    """
    found: list[Any] = [tuple(getattr(everywhere, table)) for table in GLOBAL_TABLES]
    kinds, settings = set(), set[int]()
    for module in model.modules():
        kinds.add(type(module))
        own = module.__dict__
        found += (id(module), module.training, *own["_forward_hooks"], *own["_forward_pre_hooks"])
        for name, value in own.items():
            if name in OF_TORCH:
                continue
            if type(value) in EXACTLY:
                found.append(value)
            elif (known := id(value)) in settings:
                found.append(known)
            elif isinstance(value, Tensor):
                found += _indices(value)
            elif callable(value):
                found.append(known)
            else:
                settings.add(known)
                found.append(_setting(value))
        if buffers := own["_buffers"]:
            found += [_indices(value) for value in buffers.values() if value is not None]
    for kind in kinds:
        for base in kind.__mro__[:-2]:  # without those of torch and Python themselves
            found += map(id, base.__dict__.values())
    return tuple(found)


def _indices(x: Tensor) -> tuple:
    """What tells one tensor of places or of yes and no from another; nothing of a counter, and of numbers."""
    if x.is_floating_point() or x.is_complex() or not x.dim() or x.is_inference():
        return ()
    return id(x), x._version


def _setting(value: Any, most: int = SMALL, deep: int = DEEP) -> Any:
    """What a list, a dict or an object of settings holds, as far as it is plain."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return _indices(value)
    if isinstance(value, HOLDING):
        if not deep or len(value) > most:
            return ()
        each = value.items() if isinstance(value, dict) else value
        parts = (_setting(part, most, deep - 1) for part in each)
        return type(value).__name__, *(part for part in parts if part != ())  # what a model recorded counts for nothing
    if not deep or isinstance(value, (nn.Module, type)):
        return ()
    own = list(getattr(value, "__dict__", {}).items())
    return tuple((name, _setting(part, FEW, 2)) for name, part in own if isinstance(part, SAYING))


def own_tensors(model: nn.Module) -> dict[tuple[int, str], tuple[int, int]]:
    """What tells the small tensors that modules keep as attributes, neither parameters nor buffers, from others."""
    return {
        (id(module), name): (id(value), value._version)
        for module in model.modules()
        for name, value in list(module.__dict__.items())
        if name not in OF_TORCH and isinstance(value, Tensor) and _may_be_set(value)
    }


def _may_be_set(x: Tensor) -> bool:
    return x.numel() <= SMALL and x.is_leaf and not x.is_inference()
