"""The layer-access protocol: all that an attribution method may know of a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from . import ops
from .errors import UnsupportedModelError
from .tokens import (
    CLASS,
    CLASS_AND_DISTILLATION,
    CLASS_AND_PATCHES,
    PATCHES,
    Grid,
    LayerLayout,
    Readout,
    TokenLayout,
    all_tokens,
)

__all__ = [
    "CLASS",
    "CLASS_AND_DISTILLATION",
    "CLASS_AND_PATCHES",
    "PATCHES",
    "Adapter",
    "AttentionCall",
    "Grid",
    "Layer",
    "LayerLayout",
    "NestedAdapter",
    "Projections",
    "Readout",
    "Rows",
    "Switch",
    "TokenLayout",
    "all_tokens",
    "unaltered",
]

Layer = str | int | nn.Module
Rows = slice | list[int]  # query rows of an attention
Switch = tuple[Any, str, Any]  # (object, attribute, value)


@dataclass(frozen=True)
class AttentionCall:
    """One recorded softmax attention: `S = scale * q k^T + bias`, `A = softmax(S)`, `out = A v`.

    q, out: (B, H, M, d).  k, v: (B, H, N, d).  bias: broadcastable to (B, H, M, N), additive or boolean.
    No N x N tensor is ever held; `rows` chooses query rows.
    mix: where a model changes A before it meets the values (talking heads), (A[rows], rows) -> A[rows].
    mix_scores: where it changes S before the softmax, S[rows] -> S[rows].
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    bias: Tensor | None
    out: Tensor
    layout: LayerLayout
    mix: Callable[[Tensor, Rows], Tensor] | None = None
    mix_scores: Callable[[Tensor], Tensor] | None = None

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
        scores = ops.attention_scores(self.q[:, :, rows], self.k, self.scale, bias)
        if self.mix_scores is None:
            return scores
        with ops.full_precision(scores.device):
            return self.mix_scores(scores)

    def weights(self, rows: Rows) -> Tensor:
        """Attention after the softmax, (B, H, R, N)."""
        weights = self.scores(rows).softmax(-1)
        if self.mix is None:
            return weights
        with ops.full_precision(weights.device):
            return self.mix(weights, rows)

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


@dataclass(frozen=True)
class Projections:
    """The modules around an attention that its layer computes step by step, so that no fused kernel is called.

    inputs: modules whose outputs hold q, k and v, in the order in which they run.
    split: these outputs -> q, k and v, (B, H, N, d) each.
    output: the module whose input is the attention's output, (B, N, H*d).
    scale, mix, mix_scores: as in AttentionCall.
    """

    inputs: tuple[nn.Module, ...]
    split: Callable[..., tuple[Tensor, Tensor, Tensor]]
    output: nn.Module
    scale: float
    mix: Callable[[Tensor, Rows], Tensor] | None = None
    mix_scores: Callable[[Tensor], Tensor] | None = None


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

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        """Why a module that matches is not supported; None if it is."""
        return None

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
    def first_block(self) -> nn.Module | None:
        """The module whose first input is the token sequence (B, N, D); None if the blocks cannot run on a part of it.

        It spares AGCAM a backward through all tokens where the score is read from prefix tokens.
        """
        return None

    @property
    def image_size(self) -> Grid | None:
        """(height, width) of the images that the model was built for; None if it does not say."""
        return None

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        """What each token before the patches is."""
        return ()

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        """Blocks with the name of an argument that holds a row for each patch, as rotary embeddings do."""
        return {}

    @property
    def readout(self) -> Readout | None:
        """The tokens that the score is read from; None has them measured."""
        return None

    @property
    def pool(self) -> str | None:
        """The one among the attention layers that pools the tokens, its queries being latents; it is the last."""
        return None

    def reading_layers(self, readout: Readout) -> list[str]:
        """The attention layers among whose queries are tokens of the readout, in execution order."""
        return [name for name in self.attention_layers() if readout.latents or name != self.pool]

    @property
    def bypass(self) -> tuple[nn.Module, ...]:
        """Modules that read patches past every attention layer; maps leave their part of the score out."""
        return ()

    @property
    def gap(self) -> str | None:
        """Why the attention layers do not lead back to the image, as where tokens also meet in other ways; else None.

        Attention cannot be multiplied through such a model.
        """
        return None

    def projections(self) -> Mapping[str, Projections]:
        """For layers that compute their attention step by step, by name, where q, k, v and the output are found."""
        return {}

    @property
    def training(self) -> bool:
        """Whether any part of the model is in train mode."""
        return any(module.training for module in self.model.modules())

    @property
    def in_channels(self) -> int | None:
        """Channels that the patch embedding expects; None if it is no convolution."""
        return next((m.in_channels for m in self.vit.modules() if isinstance(m, nn.Conv2d)), None)

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
        self.name, self.inner, self.vit = name, inner, inner.vit

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def attention_layers(self) -> dict[str, nn.Module]:
        return {self._outer(name): layer for name, layer in self.inner.attention_layers().items()}

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        layout = self.inner.token_layout(image_size, arguments)
        return replace(layout, grids={self._outer(name): grid for name, grid in layout.grids.items()})

    @property
    def first_block(self) -> nn.Module | None:
        return self.inner.first_block

    @property
    def image_size(self) -> Grid | None:
        return self.inner.image_size

    @property
    def in_channels(self) -> int | None:
        return self.inner.in_channels

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return self.inner.prefix_tokens

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        return self.inner.patch_arguments()

    @property
    def pool(self) -> str | None:
        return self.inner.pool and self._outer(self.inner.pool)

    def reading_layers(self, readout: Readout) -> list[str]:
        return [self._outer(name) for name in self.inner.reading_layers(readout)]

    @property
    def bypass(self) -> tuple[nn.Module, ...]:
        return self.inner.bypass

    @property
    def gap(self) -> str | None:
        return self.inner.gap

    def projections(self) -> Mapping[str, Projections]:
        return {self._outer(name): projections for name, projections in self.inner.projections().items()}

    def capturing(self) -> Iterable[Switch]:
        return self.inner.capturing()

    def _outer(self, name: str) -> str:
        return f"{self.name}.{name}"


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
