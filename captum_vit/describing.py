"""What a manifest says of anything that decides a result, so that another one is another."""

import functools
import hashlib
import inspect
import platform
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

DEPTH = 8  # of what is told of an object that holds others; beyond it, what they are alone


def described(value: Any, known: Mapping[int, str] | None = None) -> Any:
    """A value as JSON holds it: equal for equal values, in any process, and different for different ones.

    Arrays, weights of modules, and sources of classes and functions that are not ours or Captum's become hashes;
    functions are told with what they close over, and other objects with their attributes.

    Args:
        value: anything.
        known: names of objects by their id, which are told by these.
    """
    return _described(value, known or {}, ())


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} {_hash(value)}".encode())
    return digest.hexdigest()


def _described(value: Any, known: Mapping[int, str], above: tuple[int, ...]) -> Any:
    if id(value) in known:
        return known[id(value)]
    if id(value) in above:
        return "..."  # it holds itself
    if isinstance(value, ModuleType):
        return value.__name__
    if len(above) > DEPTH and hasattr(value, "__dict__"):
        return _form(type(value))
    inner = functools.partial(_described, known=known, above=(*above, id(value)))
    if isinstance(value, np.generic):
        return inner(value.item())
    if value is None or isinstance(value, (bool, int, float, str)):
        return "nan" if value != value else value  # in JSON, nan would not equal itself
    if isinstance(value, (list, tuple)):
        return [inner(each) for each in value]
    if isinstance(value, Set):
        return sorted((inner(each) for each in value), key=repr)
    if isinstance(value, Mapping):
        return {str(name): inner(each) for name, each in value.items()}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {"array": _hash(value), "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, nn.Module):
        return {**_form(type(value)), "weights": weights_hash(value)}
    if isinstance(value, functools.partial):
        return {"partial": inner(value.func), "args": inner(value.args), "keywords": inner(value.keywords)}
    if isinstance(value, type):
        return _form(value)
    if inspect.isfunction(value):
        return {
            **_form(value),
            "closure": inner(_closed_over(value)),
            "defaults": inner(value.__defaults__),
            "keywords": inner(value.__kwdefaults__),
        }
    if inspect.ismethod(value):
        return {**_form(value.__func__), "of": inner(value.__self__)}
    if hasattr(value, "__dict__"):
        return {**_form(type(value)), "attributes": inner(vars(value))}
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _closed_over(function: FunctionType) -> dict[str, Any]:
    """The variables of a function that belong to those around it, as far as they have values yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _form(form: Any) -> dict[str, Any]:
    """The name of a class or function, and a hash of its source where its version says nothing of it."""
    module = form.__module__ or ""  # what exec defines has none
    told: dict[str, Any] = {"name": f"{module}.{form.__qualname__}"}
    if module.partition(".")[0] not in ("builtins", "captum", "captum_vit", "torch", "numpy"):
        try:
            told["source"] = hashlib.sha256(inspect.getsource(form).encode()).hexdigest()
        except (OSError, TypeError):
            told["source"] = None  # there is none
    return told


def _hash(array: torch.Tensor | np.ndarray) -> str:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


PACKAGES = ("captum-vit", "captum", "torch", "timm", "transformers", "torchvision", "open-clip-torch")


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a map is, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
