"""What an adapter tells of a model: the layers, where the tokens lie, and which of them the score is read from."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .attention import Projections
from .tokens import (
    Grid,
    Readout,
    TokenLayout,
)

Layer = str | int | nn.Module
Switch = tuple[Any, str, Any]  # (object, attribute, value)


class Adapter(ABC):
    """Access to the attention layers of one family of models. To support another, subclass and add an entry point.

    >>> adapter = adapt(model)
    >>> list(adapter.attention_layers())[:2]
    ['blocks.0.attn', 'blocks.1.attn']
    >>> adapter.readout == CLASS  # the score is read from the class token
    True

    Attributes:
        model: the module that is run.
        vit: the module whose first input is the image batch; `model` itself unless it stands inside another.
        batch_dims: dimensions of that batch: 4 of images (B, C, H, W), 5 of videos and volumes.
    """

    batch_dims = 4

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

    def calls(self) -> dict[nn.Module, list[str | None]]:
        """The names of the attentions that each module computes, in order; None for one that is no layer of these.

        A module that runs several times, or computes several attentions, has as many names.
        """
        return {module: [name] for name, module in self.attention_layers().items()}

    def prepare(self, images: Tensor, kwargs: Mapping[str, Any]) -> None:  # noqa: B027
        """What has to be known of images of this size before the model runs; nothing where the model says it all."""

    def size_of(self, images: Tensor) -> Grid:
        """(height, width) of a batch's images; of videos and volumes (frames or slices, height, width)."""
        return tuple(images.shape[2:])

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        """A batch of one image of noise, as the model takes it."""
        return torch.randn(1, self.in_channels or 3, *size, generator=draw)

    @abstractmethod
    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        """Where the tokens lie for an image of (height, width), `vit` being called with these named arguments.

        For videos and volumes the size is (frames or slices, height, width), whatever the order of the batch's axes.

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
        modules = dict(self.model.named_modules())
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

        Also out of the positional arguments of the first block.
        """
        return values if isinstance(values, Tensor) else values[0]

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

    @property
    def measured(self) -> bool:
        """Whether layouts are not said but measured, on the images that the model is given."""
        return False

    @property
    def mixes_before(self) -> bool:
        """Whether patches meet before the first attention layer, so that none of its tokens is of one patch alone."""
        return False

    def projections(self) -> Mapping[str, Projections]:
        """For layers that compute their attention step by step, by name, where q, k, v and the output are found."""
        return {}

    @property
    def training(self) -> bool:
        """Whether any part of the model is in train mode."""
        return any(module.training for module in self.model.modules())

    @property
    def stem(self) -> nn.Module | None:
        """The first convolution, which the image goes into; None if there is none."""
        return next((m for m in self.vit.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)

    @property
    def settings(self) -> tuple:
        """What else decides how the model computes, besides its modules and their attributes."""
        return ()

    @property
    def in_channels(self) -> int | None:
        """Channels that the patch embedding expects; None if it is no convolution."""
        return getattr(self.stem, "in_channels", None)

    @property
    def headless(self) -> bool:
        """Whether the scores are features, without a meaning as classes."""
        return False

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the classes as the model carries them; empty if it carries none."""
        return {}

    def scores(self, output: Any) -> Tensor:
        """Logits (B, C) out of whatever the model returns, or (B, C, ...) of dense heads; features if headless."""
        if isinstance(output, Mapping):  # Hugging Face's outputs are mappings too
            output = output.get("logits", output)
        elif isinstance(output, (tuple, list)) and output:  # ([loss,] logits, ...), as with return_dict=False
            output = next((o for o in output if isinstance(o, Tensor) and o.dim()), output[0])
        if not isinstance(output, Tensor) or output.dim() == 0:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedModelError(
                f"expected scores of shape (batch, classes, ...) from {type(self.model).__name__}, got {shape}: "
                f"wrap the model so that it returns them"
            )
        return output.unsqueeze(1) if output.dim() == 1 else output

    def capturing(self) -> Iterable[Switch]:
        """What has to be switched while the model runs, for the capture to see every layer; it is put back after."""
        return ()


def unaltered(model: nn.Module, package: str, heads: Iterable[nn.Module]) -> bool:
    """Whether all but the heads is as `package` made it: no module or replaced method of anybody else's.

    What a head reads is known from its class only then: tokens could meet outside attention. Hooks are no matter of
    the model alone: whether they only listen is seen while it runs.
    """
    exempt = {id(module) for head in heads for module in head.modules()}
    for module in model.modules():
        if id(module) in exempt:
            continue
        kind = type(module)
        replaced = any(callable(value) and callable(getattr(kind, name, None)) for name, value in vars(module).items())
        if kind.__module__.split(".")[0] not in ("torch", package) or replaced:
            return False
    return True
