"""From a model to its adapter, and from the names of layers to layers."""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from ..errors import LayerNotFoundError, OptionError, UnsupportedModelError, brief
from ..plugins import imported
from .adapter import Adapter
from .kinds import what_it_is
from .modules import Layer
from .nested import NestedAdapter

ADAPTERS = "captum_vit.adapters"  # entry-point group


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model: its own, that of the module it wraps, or that of the one supported ViT inside it.

    >>> adapt(model).token_layout((224, 224), {}).grid
    (14, 14)

    Raises:
        UnsupportedModelError: not a module, traced or scripted, or no supported ViT (or several) inside.
    """
    if isinstance(model, Adapter):  # as that of a text tower, which no module is known by
        return model
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError("a traced or scripted model hides its attention: pass the model before torch.jit")
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"expected the model itself, a torch.nn.Module, got {type(model).__name__}: no name, weights or function "
            f"around it; logits are taken out of Hugging Face outputs for you"
        )
    model = unwrap(model)
    found = list({id(inner.model): (name, inner) for name, inner in _find(model, "", adapter_classes())}.values())
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds {len(found)} Vision Transformers ({', '.join(name for name, _ in found)}): "
            f"pass the one to explain"
        )
    if not found:
        return _by_looking(model)
    name, inner = found[0]
    return NestedAdapter(model, name, inner) if name else inner


def last_resort(make: Callable[[nn.Module], Adapter]) -> Any:
    """Make the adapter of models that no other adapter knows; it raises UnsupportedModelError for what it does not."""
    _last_resorts.append(make)
    return make


_last_resorts: list[Callable[[nn.Module], Adapter]] = []


def _by_looking(model: nn.Module) -> Adapter:
    """The adapter of code that nobody has described, from what it computes."""
    told = what_it_is(model)
    reason = f"{type(model).__name__} is not supported: {told}"
    for make in _last_resorts if told is None else ():
        try:
            return make(model)
        except UnsupportedModelError as error:
            reason = f"{error}. {_how_to_support(model)}"
    raise UnsupportedModelError(reason)


def _how_to_support(model: nn.Module) -> str:
    kind = type(model)
    return (
        f"{kind.__name__} is not supported: no adapter knows {kind.__module__}.{kind.__qualname__}, nor what is inside "
        f"it. To add one, subclass captum_vit.Adapter, which says where its attention layers and tokens are, "
        f"and register it, by captum_vit.register or under the entry-point group {ADAPTERS!r}, as CONTRIBUTING.md shows"
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = getattr(model, "module" if parallel else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Make an adapter known to this process alone, for a notebook or a script; a package declares an entry point.

    >>> @register
    ... class OwnAdapter(Adapter):
    ...     @classmethod
    ...     def matches(cls, model):
    ...         return type(model).__name__ == "OwnViT"

    It is asked before all others. One of the same module and name takes the place of an earlier one, as where a
    notebook's cell is run again. May stand above the class as a decorator.

    Raises:
        OptionError: no subclass of Adapter.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise OptionError(f"expected a subclass of captum_vit.Adapter, got {brief(adapter)}")
    _registered[f"{adapter.__module__}.{adapter.__qualname__}"] = adapter
    return adapter


_registered: dict[str, type[Adapter]] = {}


def adapter_classes() -> list[type[Adapter]]:
    """The registered adapters, and those of every package that is imported already."""
    return [*reversed(_registered.values()), *imported(ADAPTERS)]


def _find(module: nn.Module, name: str, classes: Sequence[type[Adapter]]) -> Iterator[tuple[str, Adapter]]:
    """The outermost supported modules under `module`, with their names."""
    for adapter in classes:
        if adapter.matches(module):
            reason = adapter.refusal(module)
            if reason is not None:
                raise UnsupportedModelError(reason)
            yield name, adapter(module)
            return
    for child_name, child in module.named_children():
        yield from _find(child, f"{name}.{child_name}" if name else child_name, classes)


def select_layers(adapter: Adapter, layer: Layer | Sequence[Layer] | None) -> list[str]:
    """Names of the chosen layers in execution order; None chooses all.

    A block stands for the attention layers in it, as does a norm of the block, and a part of an attention layer, as a
    projection, for that layer; an integer counts attention layers.

    Raises:
        LayerNotFoundError: a name, index or module that is none of the model's attention layers and blocks.
    """
    layers = adapter.attention_layers()
    names = list(layers)
    if layer is None:
        return names
    wanted = list(layer) if isinstance(layer, (list, tuple, range)) else [layer]
    chosen = {name for item in wanted for name in _layers_of(item, adapter)}
    if not chosen:
        raise LayerNotFoundError(f"at least one layer is needed; this model has {_listed(names)}")
    return [name for name in names if name in chosen]


def _layers_of(layer: object, adapter: Adapter) -> list[str]:
    """The attention layer itself, or those of the block."""
    layers, blocks = adapter.attention_layers(), adapter.blocks()
    names = list(layers)
    number = int(layer) if isinstance(layer, Integral) and not isinstance(layer, bool) else None  # numpy's too
    if number is not None and -len(names) <= number < len(names):
        return [names[number]]
    if isinstance(layer, str) and layer in layers:
        return [layer]
    modules = dict(adapter.model.named_modules(remove_duplicate=False))
    path = layer if isinstance(layer, str) else next((name for name, m in modules.items() if m is layer), "")
    asked = modules.get(path)
    while path and path in modules:
        module = modules[path]
        of_block = module is asked or "Norm" in type(asked).__name__  # an MLP is not meant to stand for attention
        found = [name for name in names if module is layers[name] or (of_block and module is blocks.get(name))]
        if found:
            return found
        path = path.rpartition(".")[0]
    what = f"like the given {type(layer).__name__}" if isinstance(layer, nn.Module) else brief(layer)
    block = next((name for name, module in adapter.model.named_modules() if module in blocks.values()), None)
    others = "" if block is None else f"; a block may be named too, as {block}, for the layers in it"
    others += "; images go into the call: .attribute(images, target)" if isinstance(layer, torch.Tensor) else ""
    raise LayerNotFoundError(
        f"no attention layer {what}; this model has {len(names)}, counted from 0 or named: {_listed(names)}{others}"
    )


def _listed(names: Sequence[str]) -> str:
    """Names of layers, of many the ends."""
    return ", ".join(names if len(names) <= 8 else [*names[:2], "...", names[-1]])
