"""Hugging Face's models with attention that has no map over the patches of the whole image, and why."""

from typing import Any

from torch import nn

from captum_vit.access import Adapter, Described
from captum_vit.adapters.hf_common import is_hf, takes_videos

WINDOWS = "attention runs in windows of the image, so that no query sees all patches"
SOME_WINDOWS = "in a part of its layers attention runs in windows of the image, where no query sees all patches"
POOLED = "keys are pooled or projected patches, so that attention does not tell one patch from its neighbours"
CONVOLUTIONS = "patches meet in convolutions as well, on several grids"
REASONS = {
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "DonutSwin": WINDOWS,
    "MaskFormerSwin": WINDOWS,
    "Hiera": SOME_WINDOWS,
    "Dinat": WINDOWS,
    "Pvt": POOLED,
    "PvtV2": POOLED,
    "Segformer": POOLED,
    "GLPN": POOLED,
    "Cvt": POOLED,
    "Levit": CONVOLUTIONS,
    "MobileViT": CONVOLUTIONS,
    "MobileViTV2": CONVOLUTIONS,
    "ViTMAE": "patches are shuffled and dropped at random, so that a token's place on the image is not known",
}


class HFRefused(Adapter):
    """No adapter: says why there is none, and what any model of transformers says of itself."""

    @classmethod
    def described(cls, model: nn.Module) -> Described | None:
        config: Any = getattr(model, "config", None)
        if not is_hf(type(model)) or config is None:
            return None
        size = getattr(config, "image_size", None)
        headless = type(model).__name__.endswith("Model") or getattr(config, "num_labels", 1) == 0
        return Described(
            (size, size) if isinstance(size, int) else size and tuple(size),
            headless,
            {} if headless else dict(config.id2label or {}),
            batch_dims=5 if takes_videos(model) else None,
        )

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return _family(model) in REASONS

    @classmethod
    def refusal(cls, model: nn.Module) -> str:
        return f"{_family(model)} is not supported: {REASONS[_family(model)]}"


def _family(model: nn.Module) -> str:
    """The first part of the names of a family's classes, as its base class has it; empty for other modules."""
    bases = (kind.__name__ for kind in type(model).__mro__ if is_hf(kind))
    names = (name.removesuffix("PreTrainedModel") for name in bases if name.endswith("PreTrainedModel"))
    return next(names, "")
