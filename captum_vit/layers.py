"""The layer-access protocol: all that an attribution method may know of a model."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import Tensor, nn

from . import ops
from .errors import LayerNotFoundError, TokenLayoutError, UnsupportedModelError

ADAPTERS = (
    "captum_vit.adapters"  # entry-point group; a name is the package that has to be imported, as `timm` or `timm.vit`
)

Layer = str | int | nn.Module
Rows = slice | list[int]  # query rows of an attention
Switch = tuple[Any, str, Any]  # (object, attribute, value)


@dataclass(frozen=True)
class Readout:
    """The query tokens that the score is read from: some of the prefix tokens, the patches, or both.

    even: every token that is read weighs the same, as in a mean over all tokens; otherwise each prefix token weighs as
        much as the patches together, as where a class token and the mean of the patches stand side by side.
    declared: known from the head, not measured. A measurement shows the rows that receive gradient; only a known head
        is sure not to use the values of others.
    """

    prefix: tuple[int, ...] = (0,)
    patches: bool = False
    even: bool = False
    declared: bool = field(default=True, compare=False)

    @property
    def only_prefix(self) -> bool:
        """Whether nothing but prefix tokens matters to the score once attention is over."""
        return self.declared and not self.patches

    def weights(self, prefix: int, tokens: int) -> Tensor:
        """What each token contributes, (tokens,), with sum 1."""
        weights = torch.zeros(tokens, dtype=torch.float64)
        if self.even:
            rows = self.rows(prefix, tokens)
            weights[rows] = 1 / len(rows)
            return weights
        share = 1 / (len(self.prefix) + self.patches)
        weights[list(self.prefix)] = share
        if self.patches:
            weights[prefix:] = share / (tokens - prefix)
        return weights

    def rows(self, prefix: int, tokens: int) -> list[int]:
        """Indices of the tokens that are read."""
        return [*self.prefix, *(range(prefix, tokens) if self.patches else ())]


CLASS = Readout((0,))
CLASS_AND_DISTILLATION = Readout((0, 1))
PATCHES = Readout((), patches=True)
CLASS_AND_PATCHES = Readout((0,), patches=True)


@dataclass(frozen=True)
class TokenLayout:
    """How a model's tokens lie on the image.

    grid: patches as (rows, columns).  prefix: tokens before the patches.  patch: (height, width) in pixels.
    readout: the tokens that the score is read from.  image_size: (height, width) of the images that reach the ViT,
    which its owner may have resized.
    """

    grid: tuple[int, int]
    prefix: int
    patch: tuple[int, int]
    readout: Readout = CLASS
    image_size: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        return self.prefix + self.grid[0] * self.grid[1]

    @property
    def readout_rows(self) -> list[int]:
        return self.readout.rows(self.prefix, self.tokens)

    @property
    def readout_weights(self) -> Tensor:
        return self.readout.weights(self.prefix, self.tokens)

    def to_grid(self, patches: Tensor) -> Tensor:
        """(..., rows*cols) -> (..., rows, cols)."""
        rows, cols = self.grid
        if patches.shape[-1] != rows * cols:
            raise TokenLayoutError(
                f"expected prefix + rows*cols = {self.prefix} + {rows}*{cols} tokens, "
                f"got {self.prefix + patches.shape[-1]}: the adapter's grid does not fit this input, "
                f"or the model drops patches in train mode"
            )
        return patches.unflatten(-1, (rows, cols))


@dataclass(frozen=True)
class AttentionCall:
    """One recorded softmax attention: `S = scale * q k^T + bias`, `A = softmax(S)`, `out = A v`.

    q, out: (B, H, M, d).  k, v: (B, H, N, d).  bias: broadcastable to (B, H, M, N), additive or boolean.
    No N x N tensor is ever held; `rows` chooses query rows.
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    bias: Tensor | None
    out: Tensor

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    def parts(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Query rows in parts small enough to hold their attention at once."""
        for part in ops.row_chunks(len(rows), self.k.shape[2], self.q.shape[0] * self.heads):
            yield list(rows[part])

    def scores(self, rows: Rows) -> Tensor:
        """Attention before the softmax, (B, H, R, N)."""
        bias = self.bias
        if bias is not None and bias.shape[-2] > 1:
            bias = bias[..., rows, :]
        return ops.attention_scores(self.q[:, :, rows], self.k, self.scale, bias)

    def weights(self, rows: Rows) -> Tensor:
        """Attention after the softmax, (B, H, R, N)."""
        return self.scores(rows).softmax(-1)

    def weight_grad(self, rows: Rows, out_grad: Tensor) -> Tensor:
        """`dy/dA[rows] = (dy/dO[rows]) v^T`, (B, H, R, N), from the gradient at the output (B, H, M, d)."""
        with ops.full_precision(self.v.device):
            return ops.widen(out_grad[:, :, rows]) @ ops.widen(self.v).mT

    def pull(self, c: Tensor) -> Tensor:
        """`A^T c`, (B, H, N, e) from c (B, H, M, e), in chunks of rows."""
        batch, heads, queries, _ = c.shape
        pulled = c.new_zeros(batch, heads, self.k.shape[2], c.shape[-1])
        for rows in ops.row_chunks(queries, self.k.shape[2], batch * heads):
            with ops.full_precision(c.device):
                pulled += self.weights(rows).mT @ c[:, :, rows]
        return pulled

    def first_rows(self, count: int) -> "AttentionCall":
        """The call for its first `count` queries alone."""
        bias = self.bias if self.bias is None or self.bias.shape[-2] == 1 else self.bias[..., :count, :]
        return replace(self, q=self.q[:, :, :count], out=self.out[:, :, :count], bias=bias)

    def keep(self, shelf: "Shelf", *fields: str) -> "AttentionCall":
        """The call with copies of these tensors alone; the others are emptied."""
        tensors: dict[str, Any] = {
            name: shelf.put(getattr(self, name)) if name in fields else self.q.new_empty(0)
            for name in ("q", "k", "v", "out")
        }
        return replace(self, **tensors)


class Shelf:
    """Copies of what is kept of each layer, all of a kind in one allocation.

    q, k and v are often views of one larger tensor, which a copy lets go; and small long-lived tensors scattered
    among a forward's large temporaries would keep the allocator from reusing those.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._room: dict[tuple, list[Tensor]] = {}

    def put(self, x: Tensor) -> Tensor:
        """A copy of `x`."""
        room = self._room.setdefault((x.shape, x.dtype, x.device), [])
        if not room:
            room.extend(x.new_empty(self.layers, *x.shape))
        return room.pop(0).copy_(x)


class Adapter(ABC):
    """Access to the attention layers of one family of models. To support another, subclass and add an entry point.

    Attributes:
        model: the module that is run.
        vit: the module whose first input is the image batch; `model` itself unless it stands inside another.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.vit = model

    @classmethod
    @abstractmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this adapter serves the module."""

    @abstractmethod
    def attention_layers(self) -> dict[str, nn.Module]:
        """The layers whose keys are the image's patches, in execution order, under their module names in `model`."""

    @abstractmethod
    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        """Where the tokens lie for an image of (height, width), `vit` being called with these named arguments.

        Raises:
            TokenLayoutError: the model does not take images of that size.
        """

    @property
    @abstractmethod
    def first_block(self) -> nn.Module:
        """The module whose first input is the token sequence (B, N, D)."""

    @property
    def readout(self) -> Readout | None:
        """The query tokens that the score is read from; None has them measured."""
        return None

    @property
    def training(self) -> bool:
        """Whether any part of the model is in train mode."""
        return any(module.training for module in self.model.modules())

    @property
    def in_channels(self) -> int:
        """Channels that the patch embedding expects."""
        return next(m.in_channels for m in self.vit.modules() if isinstance(m, nn.Conv2d))

    @property
    def headless(self) -> bool:
        """Whether the scores are features, without a meaning as classes."""
        return False

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the classes as the model carries them; empty if it carries none."""
        return {}

    def scores(self, output: Any) -> Tensor:
        """Logits (B, C) out of whatever the model returns; features for a headless model."""
        if isinstance(output, Mapping):  # Hugging Face's outputs are mappings too
            output = output.get("logits", output)
        elif isinstance(output, (tuple, list)) and output:  # ([loss,] logits, ...), as with return_dict=False
            output = next((o for o in output if isinstance(o, Tensor) and o.dim()), output[0])
        if not isinstance(output, Tensor) or output.dim() not in (1, 2):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedModelError(
                f"expected scores of shape (batch, classes) from {type(self.model).__name__}, got {shape}: "
                f"wrap the model so that it returns them"
            )
        return output.unsqueeze(1) if output.dim() == 1 else output

    def capturing(self) -> Iterable[Switch]:
        """What has to be switched while the model runs, for the capture to see every layer; it is put back after."""
        return ()


class NestedAdapter(Adapter):
    """A supported ViT inside somebody's own module: the outer output is the score, the readout is measured."""

    def __init__(self, model: nn.Module, name: str, inner: Adapter) -> None:
        super().__init__(model)
        self.name, self.inner, self.vit = name, inner, inner.model

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"{self.name}.{name}": layer for name, layer in self.inner.attention_layers().items()}

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        return self.inner.token_layout(image_size, arguments)

    @property
    def first_block(self) -> nn.Module:
        return self.inner.first_block

    def capturing(self) -> Iterable[Switch]:
        return self.inner.capturing()


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model: its own, that of the module it wraps, or that of the one supported ViT inside it.

    Raises:
        UnsupportedModelError: not a module, traced or scripted, or no supported ViT (or several) inside.
    """
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
        known = ", ".join(sorted({f"{a.__name__} ({a.__module__})" for a in adapter_classes()})) or "none"
        raise UnsupportedModelError(
            f"{type(model).__qualname__} is not supported: no adapter knows {type(model).__module__}."
            f"{type(model).__qualname__}, nor anything inside it. Adapters for the imported packages: {known}. To add "
            f"one, subclass captum_vit.Adapter and register it under the entry-point group {ADAPTERS!r}; "
            f"CONTRIBUTING.md shows how"
        )
    name, inner = found[0]
    return NestedAdapter(model, name, inner) if name else inner


def unaltered(model: nn.Module, package: str, heads: Iterable[nn.Module]) -> bool:
    """Whether all but the heads is as `package` made it: no module, hook or replaced method of anybody else's.

    What a head reads is known from its class only then: tokens could meet outside attention.
    """
    exempt = {id(module) for head in heads for module in head.modules()}
    for module in model.modules():
        if id(module) in exempt:
            continue
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        origins = {(getattr(hook, "__module__", None) or "").split(".")[0] for hook in hooks}
        kind = type(module)
        replaced = any(callable(value) and callable(getattr(kind, name, None)) for name, value in vars(module).items())
        foreign = kind.__module__.split(".")[0] not in ("torch", package)
        if foreign or replaced or not origins <= {"captum_vit", package}:
            return False
    return True


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = getattr(model, "module" if parallel else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def adapter_classes() -> list[type[Adapter]]:
    """The registered adapters of every package that is imported already."""
    return [point.load() for point in _entry_points() if point.name.split(".")[0] in sys.modules]


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ADAPTERS))


def _find(module: nn.Module, name: str, classes: Sequence[type[Adapter]]) -> Iterator[tuple[str, Adapter]]:
    """The outermost supported modules under `module`, with their names."""
    for adapter in classes:
        if adapter.matches(module):
            yield name, adapter(module)
            return
    for child_name, child in module.named_children():
        yield from _find(child, f"{name}.{child_name}" if name else child_name, classes)


def select_layers(adapter: Adapter, layer: Layer | Sequence[Layer] | None) -> list[str]:
    """Names of the chosen layers in execution order; None chooses all.

    Raises:
        LayerNotFoundError: a name, index or module that is not one of the model's attention layers.
    """
    layers = adapter.attention_layers()
    names = list(layers)
    if layer is None:
        return names
    wanted = list(layer) if isinstance(layer, (list, tuple)) else [layer]
    chosen = {_layer_name(item, layers) for item in wanted}
    if not chosen:
        raise LayerNotFoundError(f"at least one layer is needed; this model has {', '.join(names)}")
    return [name for name in names if name in chosen]


def _layer_name(layer: object, layers: dict[str, nn.Module]) -> str:
    names = list(layers)
    if isinstance(layer, str) and layer in layers:
        return layer
    if isinstance(layer, int) and not isinstance(layer, bool) and -len(names) <= layer < len(names):
        return names[layer]
    for name, module in layers.items():
        if module is layer:
            return name
    what = f"like the given {type(layer).__name__}" if isinstance(layer, nn.Module) else repr(layer)
    raise LayerNotFoundError(
        f"no attention layer {what}; this model has {len(names)}, counted from 0 or named: {', '.join(names)}"
    )
