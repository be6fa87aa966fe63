"""A model that no adapter knows: images go in, scores come out, and one of its modules gives a grid of cells."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerNotFoundError, UnsupportedModelError, brief
from .adapter import Adapter
from .registry import adapt, unwrap
from .tokens import PATCHES, Grid, TokenLayout

WITHOUT = "CPLRP, AttnLRP and LibraGrad apply all the same: of attention they need to know nothing"


class AnyModel(Adapter):
    """What conserving gradients need of a model of any architecture; of its attention nothing is known.

    >>> from captum_vit.access.any_model import AnyModel
    >>> list(AnyModel(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))).convolutions())
    ['0']
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(unwrap(model))

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def attention_layers(self) -> dict[str, nn.Module]:
        return {}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        """The whole image as one cell: where cells lie is known once the model has run."""
        return TokenLayout(grid=(1,) * len(image_size), prefix=0, patch=tuple(image_size), readout=PATCHES)

    @property
    def in_channels(self) -> int | None:
        return None

    def convolutions(self) -> dict[str, nn.Module]:
        """The convolutions over images, of which the first that runs is the stem."""
        return {name: module for name, module in self.model.named_modules() if isinstance(module, nn.Conv2d)}

    def module_at(self, layer: Any) -> tuple[str, nn.Module]:
        """The module whose output is the grid, and its name.

        Raises:
            LayerNotFoundError: the model has no such module.
        """
        found = layer[0] if isinstance(layer, (list, tuple)) and len(layer) == 1 else layer
        modules = dict(self.model.named_modules())
        for name, module in modules.items():
            if name and (name == found if isinstance(found, str) else module is found):
                return name, module
        raise LayerNotFoundError(
            f"no module {brief(layer)} in {type(self.model).__name__}: no adapter knows its attention layers, so that "
            f"layer= names the one module whose output is the grid of the map, by default the first convolution that "
            f"runs ({next(iter(self.convolutions()), 'none')})"
        )


def adapt_any(model: nn.Module) -> Adapter:
    """The model's adapter; where it has none, what is known of any model with a convolution over images.

    Raises:
        UnsupportedModelError: it has neither.
    """
    try:
        return adapt(model)
    except UnsupportedModelError:
        if not _looks_at_images(model):
            raise
        return AnyModel(model)


def adapt_or_tell(model: nn.Module) -> Adapter:
    """The model's adapter; where it has none, an error that names the methods which need none.

    Raises:
        UnsupportedModelError: it has none.
    """
    try:
        return adapt(model)
    except UnsupportedModelError as error:
        if not _looks_at_images(model):
            raise
        raise UnsupportedModelError(f"{error}. {WITHOUT}") from error


def _looks_at_images(model: object) -> bool:
    scripted = isinstance(model, torch.jit.ScriptModule)
    return isinstance(model, nn.Module) and not scripted and bool(AnyModel(model).convolutions())


def grid_axes(values: Tensor, images: Tensor, name: str) -> tuple[int, int]:
    """The axes of rows and columns in what a module gives, of images (N, C, H, W).

    Raises:
        UnsupportedModelError: there is no grid in it, or which axes it has is not clear.
    """
    sides = images.shape[2:]
    fitting = [axes for axes in ((2, 3), (1, 2)) if values.dim() == 4 and _fits([values.shape[i] for i in axes], sides)]
    if len(fitting) != 1 or len(values) != len(images):
        raise UnsupportedModelError(
            f"{name} gives {tuple(values.shape)} for images {tuple(images.shape)}, in which "
            f"{'two pairs of axes may be' if len(fitting) > 1 else 'there are no'} rows and columns of cells of each "
            f"image: layer= takes a convolution, or a module that gives (N, C, rows, cols) or (N, rows, cols, C)"
        )
    return fitting[0]


def _fits(cells: list[int], sides: tuple[int, ...]) -> bool:
    """Whether cells of one size, about as high as wide, cover an image."""
    high, wide = (side / count for side, count in zip(sides, cells, strict=True))
    return min(high, wide) > 0.99 and 0.75 < high / wide < 4 / 3
