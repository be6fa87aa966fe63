"""The attribution methods, one file each."""

from .agcam import AGCAM
from .base import ViTAttribution
from .daam import DAAM, FeatureImportance
from .raw_attention import RawAttention
from .rollout import AttentionRollout, GradientRollout

METHODS: dict[str, type[ViTAttribution]] = {
    "agcam": AGCAM,
    "daam": DAAM,
    "rollout": AttentionRollout,
    "gradient_rollout": GradientRollout,
    "raw_attention": RawAttention,
}

__all__ = [
    "AGCAM",
    "DAAM",
    "METHODS",
    "AttentionRollout",
    "FeatureImportance",
    "GradientRollout",
    "RawAttention",
    "ViTAttribution",
]
