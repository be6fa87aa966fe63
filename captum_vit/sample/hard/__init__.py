"""The hard sample: scenes of photographs with planted reasons, shortcuts and distractors, and a ViT trained on them.

Where the model of `captum_vit.sample` finds every object, this one is wrong at times, and it is known why it answers:
`Plan` draws each scene again without the thing that decided.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from .. import MEAN, STD
from .plan import MARKED, SKIED
from .scenes import CLASSES, Batch, Plan

__all__ = ["CLASSES", "CONFIG", "MARKED", "MEAN", "SKIED", "STD", "WEIGHTS", "Batch", "Plan", "state_dict"]

CONFIG: dict[str, Any] = {
    "img_size": 96,
    "patch_size": 8,
    "num_classes": len(CLASSES),
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
}
"""Arguments of timm's `VisionTransformer`; all others keep their defaults."""

WEIGHTS = Path(__file__).with_name("weights.safetensors")


def state_dict() -> dict[str, Tensor]:
    """Weights of the model, float32, for `load_state_dict` of timm's `VisionTransformer(**CONFIG)`."""
    from safetensors.torch import load_file

    return {name: value.float() for name, value in load_file(WEIGHTS).items()}
