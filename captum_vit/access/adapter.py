"""What an adapter tells of a model: the layers, where the tokens lie, and which of them the score is read from."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import image_argument
from .described import Described
from .modules import LayerAccess
from .outputs import scores_among
from .tokens import Grid, Readout, TokenLayout


class Adapter(LayerAccess):
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
        on_images: whether where tokens lie can be looked for on images, where others had a hand in the model; of a text
            its ids say it.
    """

    batch_dims = 4
    on_images = True

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.vit = model

    @classmethod
    @abstractmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this adapter serves the module."""

    @classmethod
    def described(cls, model: nn.Module) -> Described | None:
        """What is known of a model of the same library, also where no adapter serves it; None of any other."""
        return None

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        """Why a module that matches is not supported; None if it is."""
        return None

    def prepare(self, images: Tensor, kwargs: Mapping[str, Any]) -> None:
        """What has to be known of images of this size before the model runs; nothing where the model says it all.

        Asked before each run. `token_layout` may also be asked without it.
        """

    def call_with(self, images: Tensor) -> Mapping[str, Any]:
        """What the model's forward is given for a batch of images, by name; empty where that is the batch, as its first
        argument.

        By default the batch itself, by its name where the model takes a text first.

        Raises:
            InputError, TokenLayoutError: they cannot be given so.
        """
        name = image_argument(self.model)
        return {} if name is None else {name: images}

    def batch_of(self, arguments: Mapping[str, Any]) -> tuple[int, Grid] | None:
        """How many images `vit` is given by these named arguments, and their size; None where it is given none."""
        images = next((x for x in arguments.values() if isinstance(x, Tensor) and x.dim() == self.batch_dims), None)
        return None if images is None else (len(images), self.size_of(images))

    def size_of(self, images: Tensor) -> Grid:
        """(height, width) of a batch's images; of videos and volumes (frames or slices, height, width)."""
        return tuple(images.shape[2:])

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        """A batch of one image of noise, as the model takes it."""
        return torch.randn(1, self.in_channels or 3, *size, generator=draw)

    def framed(self, video: Tensor) -> Tensor:
        """A video as the model takes it, out of its frames (T, C, H, W); and the frames out of such a video.

        By default (C, T, H, W), as of volumes.
        """
        return video.transpose(0, 1)

    @abstractmethod
    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        """Where the tokens lie for an image of (height, width), `vit` being called with these named arguments.

        For videos and volumes the size is (frames or slices, height, width), whatever the order of the batch's axes.

        Raises:
            TokenLayoutError: the model does not take images of that size.
        """

    @property
    def image_size(self) -> Grid | None:
        """(height, width) of the images that the model was built for; None if it does not say."""
        return None

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        """What each token before the patches is."""
        return ()

    @property
    def readout(self) -> Readout | None:
        """The tokens that the score is read from; None has them measured."""
        return None

    @property
    def measured(self) -> bool:
        """Whether layouts are not said but measured, on the images that the model is given.

        Then what an owner does to its images is in them, and a model whose tokens meet outside attention is refused.
        """
        return False

    @property
    def training(self) -> bool:
        """Whether any part of the model is in train mode."""
        return any(module.training for module in self.model.modules())

    @property
    def settings(self) -> tuple:
        """What else decides how the model computes, besides its modules and their attributes.

        A model is examined before its first map, and anew when this changes: such as the kernel that a table holds now.
        """
        return ()

    @property
    def foreign(self) -> tuple[str, ...]:
        """Functions of others that the model computes with, in words, which no module and no class shows."""
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
        """Names of the classes as the model carries them; by default those in its configuration, as Hugging Face has
        them. Empty if it carries none."""
        names = getattr(getattr(self.model, "config", None), "id2label", None)
        return {int(i): str(name) for i, name in names.items()} if isinstance(names, Mapping) else {}

    def scores(self, output: Any) -> Tensor:
        """Logits (B, C) out of whatever the model returns, or (B, C, ...) of dense heads; features if headless.

        Raises:
            UnsupportedModelError: it returns none, or several tensors that may be.
        """
        found = scores_among(output, type(self.model).__name__)
        return found.unsqueeze(1) if found.dim() == 1 else found


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
