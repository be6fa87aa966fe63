"""All that a method could change in a model, its surroundings and its input, to be compared before and after."""

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn

GLOBALS = [name for name in vars(torch_module) if name.startswith("_global_") and "hook" in name]
TABLES = {"_parameters", "_buffers", "_modules"}


class Same:
    """An object known by identity, kept alive so that its id is not given away."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__} at {id(self.value):#x}>"

    __hash__ = None


class Numbers:
    """A tensor's values, bit by bit."""

    def __init__(self, value: Tensor | None) -> None:
        self.value = None if value is None else value.detach().clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers) or (self.value is None) != (other.value is None):
            return False
        return self.value is None or (self.value.dtype == other.value.dtype and torch.equal(self.value, other.value))

    def __repr__(self) -> str:
        return "no tensor" if self.value is None else f"{tuple(self.value.shape)} {self.value.dtype}"

    __hash__ = None


def of_tensor(name: str, x: Tensor) -> dict[str, object]:
    return {
        f"{name} identity": Same(x),
        f"{name} values": Numbers(x),
        f"{name} requires_grad": x.requires_grad,
        f"{name} is_leaf": x.is_leaf,
        f"{name} grad": Numbers(x.grad) if x.is_leaf else None,
        f"{name} grad identity": Same(x.grad) if x.is_leaf else None,
        f"{name} grad_fn": Same(x.grad_fn),
        f"{name} memory": x.data_ptr(),
        f"{name} tensor hooks": list(x._backward_hooks or ()),
    }


def plain(value: object) -> object:
    """A value to compare: mappings by their items, simple values as they are, everything else by identity."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (dict, set)):
        items = value.items() if isinstance(value, dict) else ((key, key) for key in value)
        return Same(value), [(key if isinstance(key, (int, str)) else Same(key), Same(v)) for key, v in items]
    return Same(value)


def of_module(name: str, module: nn.Module) -> dict[str, object]:
    out: dict[str, object] = {f"{name} identity": Same(module), f"{name} class": Same(type(module))}
    out[f"{name} attributes"] = sorted(vars(module))
    for key, value in vars(module).items():
        if key not in TABLES:
            out[f"{name}.{key}"] = plain(value)
    for table in TABLES:
        out[f"{name}.{table}"] = list(vars(module)[table])
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            out |= of_tensor(f"{name}.{key}", tensor)
    config = getattr(module, "config", None)
    if config is not None and not isinstance(config, dict):
        for key, value in vars(config).items():
            out[f"{name}.config.{key}"] = value if isinstance(value, (dict, list, tuple)) else plain(value)
    return out


def of_surroundings() -> dict[str, object]:
    return {
        "random state": Numbers(torch.get_rng_state()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "function modes": torch._C._len_torch_function_stack(),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        **{name: plain(getattr(torch_module, name)) for name in GLOBALS},
    }


def fingerprint(model: nn.Module, x: Tensor | None = None) -> dict[str, object]:
    """Everything about the model, the input and torch's own state that a method must leave as it was."""
    out = of_surroundings()
    for name, module in model.named_modules(remove_duplicate=False):
        out |= of_module(name or "model", module)
    return out | (of_tensor("input", x) if x is not None else {})


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What differs, by name."""
    return sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name] != after[name]
    )
