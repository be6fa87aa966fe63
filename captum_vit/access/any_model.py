"""A model that no adapter knows: images go in, scores come out, and its modules give grids of cells."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerNotFoundError, UnsupportedModelError, brief
from .adapter import Adapter
from .described import Described
from .kinds import of_other_inputs
from .modules import Switch
from .registry import adapt, adapter_classes, unwrap
from .tokens import PATCHES, Grid, Readout, TokenLayout

WITHOUT = "CPLRP, AttnLRP and LibraGrad apply all the same, and so do Grad-CAM and its kin: they need no attention"
VOLUMES = nn.Conv3d
CONVOLUTIONS = (nn.Conv2d, VOLUMES)
SMALLEST = 4  # numbers of a patch, of 2 x 2 grey pixels


class AnyModel(Adapter):
    """What can be known of a model of any architecture; of its attention that is nothing.

    >>> from captum_vit.access.any_model import AnyModel
    >>> list(AnyModel(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))).stems())
    ['0']

    Args:
        model: the module.
        reason: why its attention is not read.

    Attributes:
        checked: places and sizes of images of which it is known that cells lie where they are said to.
        last_grids: size of an image -> the name of the last module that gives a grid.
        layouts: the same -> where the cells of the stem lie, where that was asked.
    """

    def __init__(self, model: nn.Module, reason: str = "no adapter knows its attention") -> None:
        super().__init__(unwrap(model))
        self.reason = reason
        self.checked: set[Hashable] = set()
        self.last_grids: dict[tuple[int, ...], str] = {}
        self.layouts: dict[Grid, TokenLayout] = {}
        self._first = next((m for m in self.model.modules() if isinstance(m, CONVOLUTIONS)), None)  # of convolutions
        told = (kind.described(self.model) for kind in adapter_classes())
        self._told = next((each for each in told if each is not None), Described())
        self.batch_dims = self._told.batch_dims or (5 if isinstance(self._first, VOLUMES) else 4)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def attention_layers(self) -> dict[str, nn.Module]:
        return {}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        """The whole image as one cell: where cells lie is known once the model has run."""
        return TokenLayout(grid=(1,) * len(image_size), prefix=0, patch=tuple(image_size), readout=PATCHES)

    @property
    def readout(self) -> Readout:
        return PATCHES

    @property
    def in_channels(self) -> int | None:
        return None

    @property
    def channels(self) -> int:
        """How many an image of noise has."""
        return 3 if self._first is None else self._first.in_channels

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        return torch.randn(1, self.channels, *size, generator=draw)

    @property
    def image_size(self) -> Grid | None:
        return self._told.image_size

    @property
    def headless(self) -> bool:
        return self._told.headless

    @property
    def class_names(self) -> Mapping[int, str]:
        return self._told.class_names

    def capturing(self) -> Iterable[Switch]:
        return self._told.switches

    def stems(self) -> dict[str, nn.Module]:
        """What pixels may go into: the first that runs, of convolutions over images, and of linear layers that give
        a grid of cells."""
        kinds = (*CONVOLUTIONS, nn.Linear)
        return {name: module for name, module in self.model.named_modules() if name and isinstance(module, kinds)}

    def module_at(self, layer: Any) -> tuple[str, nn.Module]:
        """The module whose output is the grid, and its name.

        Raises:
            LayerNotFoundError: the model has no such module.
        """
        found = layer[0] if isinstance(layer, (list, tuple)) and len(layer) == 1 else layer
        for name, module in self.model.named_modules():
            if name and (name == found if isinstance(found, str) else module is found):
                return name, module
        convolution = next((name for name, m in self.stems().items() if isinstance(m, CONVOLUTIONS)), "none")
        raise LayerNotFoundError(
            f"no module {brief(layer)} in {type(self.model).__name__}: no adapter knows its attention layers, so that "
            f"layer= names the one module whose output is the grid of the map, by default of conserving gradients the "
            f"first convolution that runs ({convolution}), and of Grad-CAM and its kin the last grid"
        )


def adapt_any(model: nn.Module) -> Adapter:
    """The model's adapter; where it has none, what is known of any model that may look at images.

    Raises:
        UnsupportedModelError: it has neither.
    """
    try:
        return adapt(model)
    except UnsupportedModelError as error:
        if not (_convolves(model) or _may_cut_patches(model)):
            raise
        return AnyModel(model, str(error).removeprefix(f"{type(unwrap(model)).__name__} is not supported: "))


def adapt_or_tell(model: nn.Module) -> Adapter:
    """The model's adapter; where it has none, an error that names the methods which need none.

    Raises:
        UnsupportedModelError: it has none.
    """
    try:
        return adapt(model)
    except UnsupportedModelError as error:
        if not _convolves(model):
            raise
        raise UnsupportedModelError(f"{error}. {WITHOUT}") from error


def _convolves(model: object) -> bool:
    """Whether a model has a convolution over images."""
    scripted = isinstance(model, torch.jit.ScriptModule)
    return isinstance(model, nn.Module) and not scripted and any(isinstance(m, CONVOLUTIONS) for m in model.modules())


def _may_cut_patches(model: object) -> bool:
    """Whether a linear layer in a model may be what takes the patches of an image; not of one made for other inputs."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return False
    linear = (module for name, module in model.named_modules() if name and isinstance(module, nn.Linear))
    inside = any(module.in_features >= SMALLEST for module in linear)
    return inside and of_other_inputs(unwrap(model)) is None
