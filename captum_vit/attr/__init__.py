"""The attribution methods, one file each, and where others are found."""

from .agcam import AGCAM
from .base import ViTAttribution
from .conserving import CPLRP, AttnLRP, LibraGrad
from .daam import DAAM
from .finding import METHODS, find_method
from .generic_relevance import GenericRelevance
from .legrad import LeGrad
from .raw_attention import RawAttention
from .rollout import AttentionRollout, GradientRollout
from .starting import start

__all__ = [
    "AGCAM",
    "CPLRP",
    "DAAM",
    "METHODS",
    "AttentionRollout",
    "AttnLRP",
    "GenericRelevance",
    "GradientRollout",
    "LeGrad",
    "LibraGrad",
    "RawAttention",
    "ViTAttribution",
    "find_method",
    "start",
]
