"""What was found of somebody's own model by running it, kept for as long as it is the same model in the same state."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .others import OF_TORCH, PLAIN, model_state

ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "softmax")
DEEP = 3  # of containers and configurations in one another, that are looked into

_known: "WeakKeyDictionary[nn.Module, tuple[Hashable, dict[str, Any]]]" = WeakKeyDictionary()


def remembered(model: nn.Module, kind: Hashable, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `look` found of the model, now or before; it must hold no module and nothing that refers to one.

    Args:
        model: in its state of now.
        kind: what else it depends on.
        look: finds it.
    """
    state = (kind, fingerprint(model))
    known = _known.get(model)
    if known is None or known[0] != state:
        known = _known[model] = state, look()
    return known[1]


def fingerprint(model: nn.Module) -> Hashable:
    """What tells that a model may compute in another way: modules, hooks, methods, settings, weights, functions."""
    tensors = (*model.parameters(), *model.buffers())
    weights = tuple((id(t), None if t.is_inference() else t._version, t.dtype, t.device, t.shape) for t in tensors)
    settings: list[Hashable] = []
    functions: list[Hashable] = [id(torch.softmax), id(torch.matmul), *(id(getattr(F, name)) for name in ATTENTION)]
    for module in model.modules():
        settings += [_told(value, DEEP) for name, value in module.__dict__.items() if name not in OF_TORCH]
    for kind in {base for module in model.modules() for base in type(module).__mro__[:-2]}:
        functions += _named_in(kind)
    return model_state(model), weights, tuple(settings), tuple(functions)


def _told(value: Any, deep: int) -> Hashable:
    """What a setting says, as far as that is plain."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (Tensor, nn.Module)) or callable(value) or not deep:
        return id(value)
    if isinstance(value, Mapping):
        return tuple((_told(key, deep - 1), _told(part, deep - 1)) for key, part in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_told(part, deep - 1) for part in value)
    return id(value), _told(getattr(value, "__dict__", {}), deep - 1)  # a configuration


def _named_in(kind: type) -> Iterator[Hashable]:
    """The functions and settings of its file that the methods of a class name."""
    for method in vars(kind).values():
        code, everywhere = getattr(method, "__code__", None), getattr(method, "__globals__", {})
        for name in () if code is None or kind.__module__.startswith("torch.") else code.co_names:
            value = everywhere.get(name)
            yield value if isinstance(value, PLAIN) else id(value)
