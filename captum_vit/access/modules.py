"""What an adapter tells of a model's modules: the attention layers, and what stands around them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .attention import Projections
from .tokens import Readout

Layer = str | int | nn.Module
Switch = tuple[Any, str, Any]  # (object, attribute, value)


class LayerAccess(ABC):
    """The attention layers of a model, the blocks around them, and what runs before and beside them.

    Attributes:
        model: the module that is run.
        vit: the module whose first input is the image batch; `model` itself unless it stands inside another.
    """

    model: nn.Module
    vit: nn.Module

    @abstractmethod
    def attention_layers(self) -> dict[str, nn.Module]:
        """The layers whose keys are the image's patches, in execution order, under their module names in `model`."""

    def calls(self) -> dict[nn.Module, list[str | None]]:
        """The names of the attentions that each module computes, in order; None for one that is no layer of these.

        A module that runs several times, or computes several attentions, has as many names: one block that runs three
        times is {block.attn: ["block.attn#0", "block.attn#1", "block.attn#2"]}.
        """
        return {module: [name] for name, module in self.attention_layers().items()}

    @property
    def first_block(self) -> nn.Module | None:
        """The module whose first input is the token sequence (B, N, D); None if the blocks cannot run on a part of it.

        It spares AGCAM a backward through all tokens where the score is read from prefix tokens.
        """
        return None

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        """Blocks with the name of an argument that holds a row for each patch, as rotary embeddings do."""
        return {}

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        """The attention layers whose queries are tokens of their own, as the latents of an attention pool.

        By name, and whether a skip connection leads these queries past it. They come after all others.
        """
        return {}

    def reading_layers(self, readout: Readout) -> list[str]:
        """The attention layers among whose queries are tokens of the readout, in execution order."""
        return [name for name in self.attention_layers() if readout.latents or name not in self.cross_attention]

    def blocks(self) -> dict[str, nn.Module]:
        """Attention layer -> the module whose output is the token stream (B, N, D) after it.

        Layers side by side in one block have that block in common; a layer of `cross_attention` has none. Where the
        queries of a layer are the first of its tokens alone, as CaiT's class token, the output may be those: the rest
        of the stream goes on as the block before left it. By default the entry of a list or sequence of modules that
        the layer is, or stands in.
        """
        modules = dict(self.model.named_modules(remove_duplicate=False))  # one may go by several names
        found = {}
        for name in self.attention_layers():
            parts = name.split(".")
            paths = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
            listed = (p for p in paths if isinstance(modules.get(p.rpartition(".")[0]), (nn.ModuleList, nn.Sequential)))
            block = next(listed, None)
            if block is not None and name not in self.cross_attention:
                found[name] = modules[block]
        return found

    @property
    def embedding(self) -> nn.Module | None:
        """The module whose output is the token stream before the first block; None if no one module gives it."""
        return None

    def stream(self, values: Any) -> Tensor:
        """The token stream (B, N, D) out of what a block or the embedding returns: all of it, or the first entry.

        Also out of the positional arguments of the first block. Where `tokens_first`, it is (N, B, D).
        """
        return values if isinstance(values, Tensor) else values[0]

    @property
    def tokens_first(self) -> bool:
        """Whether blocks give the stream as (N, B, D), as where nn.MultiheadAttention is made without `batch_first`."""
        return False

    @property
    def bypass(self) -> tuple[nn.Module, ...]:
        """Modules that read patches past every attention layer; maps leave their part of the score out."""
        return ()

    @property
    def gap(self) -> str | None:
        """Why the attention layers do not lead back to the image, as where tokens also meet in other ways; else None.

        Attention cannot be multiplied through such a model: rollouts are refused with this reason.
        """
        return None

    @property
    def mixes_before(self) -> bool:
        """Whether patches meet before the first attention layer, so that none of its tokens is of one patch alone.

        Then where tokens lie on the image is taken as the adapter says it, and not examined.
        """
        return False

    def projections(self) -> Mapping[str, Projections]:
        """For layers that compute their attention step by step, by name, where q, k, v and the output are found."""
        return {}

    @property
    def stem(self) -> nn.Module | None:
        """The first convolution, which the image goes into; None if there is none."""
        return next((m for m in self.vit.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)

    def capturing(self) -> Iterable[Switch]:
        """What has to be switched while the model runs, for the capture to see every layer; it is put back after."""
        return ()
