"""timm's models with attention that has no map over the patches of the whole image, and why."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.errors import UnsupportedModelError
from captum_vit.layers import TokenLayout

WINDOWS = "attention runs in windows of the image, so that no query sees all patches"
POOLED = "keys are pooled or projected patches, so that attention does not tell one patch from its neighbours"
CONVOLUTIONS = "patches meet in convolutions as well, on several grids"
REASONS = {
    "SwinTransformer": WINDOWS,
    "SwinTransformerV2": WINDOWS,
    "SwinTransformerV2Cr": WINDOWS,
    "Nest": WINDOWS,
    "Hiera": WINDOWS,
    "HieraDet": WINDOWS,
    "VisionTransformerSAM": WINDOWS,
    "MaxxVit": WINDOWS,
    "GlobalContextVit": WINDOWS,
    "DaVit": WINDOWS,
    "MultiScaleVit": POOLED,
    "Twins": POOLED,
    "PyramidVisionTransformerV2": POOLED,
    "CoaT": POOLED,
    "Levit": CONVOLUTIONS,
    "LevitDistilled": CONVOLUTIONS,
    "EdgeNeXt": "attention is among channels (cross-covariance), not among patches",
    "CrossVit": "two branches cut the image into patches of different sizes, and there is no one grid for both",
    "NaFlexVit": "its patches come as a sequence of any shape, and the grid is not known from the image's size",
}


class TimmRefused(TimmAdapter):
    """No adapter: says why there is none."""

    kinds = tuple(REASONS)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        name = next(kind.__name__ for kind in type(model).__mro__ if kind.__name__ in REASONS)
        raise UnsupportedModelError(f"{name} is not supported: {REASONS[name]}")

    def attention_layers(self) -> dict[str, nn.Module]:
        return {}

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        return TokenLayout((1, 1), 0, (1, 1))
