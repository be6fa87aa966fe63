"""Explains Vision Transformers through Captum's attribution API."""

from .attr import AGCAM, DAAM, AttentionRollout, FeatureImportance, GradientRollout, RawAttention
from .errors import CaptumViTError
from .layers import Adapter, AttentionCall, Readout, TokenLayout, adapt

from ._version import __version__

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
    "adapt",
]
