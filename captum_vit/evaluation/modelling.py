"""What a run knows of its model: what decides its scores, and what a method has to leave as it was."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from inspect import isroutine
from typing import Any

import numpy as np
import torch
import torch.nn.modules.module as torch_module
from PIL import Image
from torch import Tensor, nn

from ..describing import described
from ..models import LoadedModel
from ..preprocessing import Preprocessing

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
OTHERS = frozenset(vars(nn.Module())) - {"training"} | {"_is_hf_initialized", "default_cfg", "pretrained_cfg"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and "hook" in name]
SHAPES = {"portrait": (300, 500), "small": (97, 61)}  # (width, height)
ROW = 4096  # numbers of a tensor without rows that are summed at once


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """What a manifest says of a model besides its weights, as JSON: its classes with their sources, and its settings.

    Settings are the plain attributes of all modules and of their configuration, as Hugging Face has one, functions that
    were put in place of others, and hooks. They are told by class, each as one hash.
    """
    known = {id(module): f"model.{name}" for name, module in loaded.model.named_modules()}
    digests: dict[type[nn.Module], Any] = {}
    for name, module in loaded.model.named_modules():
        told = {key: described(value, known) for key, value in settings(module).items()}
        hooks = [[described(hook, known) for hook in getattr(module, table).values()] for table in HOOKS[:2]]
        digest = digests.setdefault(type(module), sha256())
        digest.update(repr((name, sorted(told.items()), hooks)).encode("utf-8", "surrogateescape"))
    modules: dict[str, list[Any]] = {}  # of one name there may be several, as where a function defines them
    for kind, digest in digests.items():
        told = {"source": [described(kind), described(kind.forward)], "settings": digest.hexdigest()}
        modules.setdefault(told["source"][0]["name"], []).append(told)
    return {
        "class": described(type(loaded.model))["name"],
        "modules": modules,
        "configuration": _configuration(loaded.model),
        "multi_label": loaded.multi_label,
    }


def describe_preprocessing(preprocess: Preprocessing) -> dict[str, Any]:
    """What a manifest says of an image's way into the model, as JSON: what becomes of images of several proportions."""
    told = preprocess.describe()
    for name, (width, height) in SHAPES.items():
        noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
        some = preprocess(Image.fromarray(noise)).float().flatten()
        values = some[:: max(1, len(some) // 50)].tolist()
        told[name] = [preprocess.view((width, height)).to_dict(), [round(value, 2) for value in values]]
    return told


def settings(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, and functions that stand in place of its class's."""
    found = {name: value for name, value in vars(module).items() if name not in OTHERS}
    return {name: value for name, value in found.items() if _is_plain(value) or _is_function(value)}


def state(model: nn.Module, *, values: bool) -> dict[str, Any]:
    """What a method has to leave as it was, by name; two states are compared by `changes`.

    Args:
        model: of which.
        values: whether the numbers of its tensors count, which are summed for it; else their versions alone, which an
            assignment to `.data` leaves as they are.
    """
    found: dict[str, Any] = {
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.is_autocast_enabled": torch.is_autocast_enabled(),
    }
    found |= {f"torch's {name}": tuple(getattr(torch_module, name) or ()) for name in GLOBAL_HOOKS}
    for name, module in model.named_modules():
        found |= dict(_of_module(name or type(model).__name__, module))
    for name, tensor in _tensors(model):
        found |= {f"{name}.{key}": value for key, value in _of_tensor(tensor).items()}
        if values:
            found[f"{name} values"] = checksum(tensor)
    found |= {f"config.{key}": value for key, value in _configuration(model).items()}
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what differs."""
    missing = object()
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if not _equal(before.get(name, missing), after.get(name, missing))]


def restless(model: nn.Module, forward: Callable[[], object]) -> set[str]:
    """What of a model's state its own forward changes, as one that counts its calls: no method is to blame for that."""
    before = state(model, values=True)
    with torch.no_grad():
        forward()
    return set(changes(before, state(model, values=True)))


def checksum(tensor: Tensor) -> tuple[int, ...]:
    """Sums over the bits of a tensor, weighted by place along rows and columns: exchanged numbers change them too."""
    flat = tensor.detach()
    if flat.is_complex():
        flat = torch.view_as_real(flat)
    bits = flat.contiguous().view(-1).view(_INTEGERS[flat.element_size()])
    width = min(max(bits.numel() // max(len(flat) if flat.dim() else 1, 1), 1), ROW) if flat.dim() > 1 else ROW
    whole = bits[: bits.numel() // width * width].view(-1, width)
    columns, rows = whole.sum(0, dtype=torch.int64), whole.sum(1, dtype=torch.int64)
    parts = (columns, rows, bits[whole.numel() :].to(torch.int64))
    weighted = [(part * torch.arange(1, len(part) + 1, device=part.device)).sum() for part in parts]
    return tuple(torch.stack([columns.sum(), *weighted]).tolist())


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, PLAIN)


def _is_function(value: Any) -> bool:
    return isroutine(value) or isinstance(value, partial)


def _of_module(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in settings(module).items():
        yield f"{name}.{key}", list(value) if isinstance(value, list) else value
    yield f"{name} class", (type(module), type(module).forward)
    for table in HOOKS:
        yield f"{name}.{table}", tuple(getattr(module, table))


def _of_tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "place": (id(tensor), tuple(tensor.shape), tensor.dtype, tensor.device),
        "requires_grad": tensor.requires_grad,
        "version": None if tensor.is_inference() else tensor._version,  # one of inference mode has none
        "hooks": tuple(tensor._backward_hooks or ()),
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _configuration(model: nn.Module) -> dict[str, Any]:
    """The plain attributes of all `config` objects in a model."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        config = vars(module).get("config")
        if hasattr(config, "__dict__") and id(config) not in seen:
            seen.add(id(config))
            own = {key: value for key, value in vars(config).items() if _is_plain(value)}
            found |= {f"{name}{'.' * bool(name)}{key}": described(value) for key, value in own.items()}
    return found


def _equal(one: Any, other: Any) -> bool:
    return bool(one is other or (type(one) is type(other) and (one == other or one != one)))


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
