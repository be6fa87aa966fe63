"""Explains Vision Transformers through Captum's attribution API."""

from ._version import __version__
from .attr import AGCAM, DAAM, AttentionRollout, FeatureImportance, GradientRollout, RawAttention
from .errors import CaptumViTError
from .layers import Adapter, AttentionCall, Readout, TokenLayout, adapt

__all__ = [
    "AGCAM",
    "DAAM",
    "Adapter",
    "AttentionCall",
    "AttentionRollout",
    "CaptumViTError",
    "FeatureImportance",
    "GradientRollout",
    "RawAttention",
    "Readout",
    "TokenLayout",
    "__version__",
    "adapt",
]
