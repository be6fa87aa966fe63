"""timm's models with attention that has no map over the patches of the whole image, and why."""

from typing import Any

from torch import nn

from captum_vit.access import Described
from captum_vit.adapters.timm_common import TimmAdapter, class_names, is_timm

WINDOWS = "attention runs in windows of the image, so that no query sees all patches"
SOME_WINDOWS = "in a part of its layers attention runs in windows of the image, where no query sees all patches"
POOLED = "keys are pooled or projected patches, so that attention does not tell one patch from its neighbours"
CONVOLUTIONS = "patches meet in convolutions as well, on several grids"
REASONS = {
    "SwinTransformer": WINDOWS,
    "SwinTransformerV2": WINDOWS,
    "SwinTransformerV2Cr": WINDOWS,
    "Nest": WINDOWS,
    "Hiera": SOME_WINDOWS,
    "HieraDet": SOME_WINDOWS,
    "VisionTransformerSAM": SOME_WINDOWS,
    "MaxxVit": CONVOLUTIONS,
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
}


class TimmRefused(TimmAdapter):
    """No adapter: says why there is none, and what any model of timm says of itself."""

    kinds = tuple(REASONS)

    @classmethod
    def described(cls, model: nn.Module) -> Described | None:
        made: Any = model
        if not is_timm(type(model)) or not hasattr(model, "num_classes") or not hasattr(model, "pretrained_cfg"):
            return None
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        size = size or (made.pretrained_cfg or {}).get("input_size", (0, 0, 0))[1:]
        modules = (m for m in model.modules() if hasattr(m, "grad_checkpointing"))
        return Described(
            (size[0], size[1]) if size[0] else None,
            made.num_classes == 0,
            class_names(model),
            tuple((module, "grad_checkpointing", False) for module in modules),
        )

    @classmethod
    def refusal(cls, model: nn.Module) -> str:
        name = next(kind.__name__ for kind in type(model).__mro__ if kind.__name__ in REASONS)
        return f"{name} is not supported: {REASONS[name]}"
