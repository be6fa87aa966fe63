"""The attribution methods, one file each, and where others are found."""

from .agcam import AGCAM
from .attcat import AttCAT
from .base import ViTAttribution
from .beyond_intuition import BeyondIntuition
from .cams import CDAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .conserving import CPLRP, AttnLRP, LibraGrad
from .daam import DAAM
from .eigen_cams import EigenCAM, EigenGradCAM
from .finding import METHODS, find_method, in_all
from .finer_cam import FinerCAM
from .generic_relevance import GenericRelevance
from .grad_eclip import GradECLIP
from .legrad import LeGrad
from .raw_attention import RawAttention
from .rise import RISE
from .rollout import AttentionRollout, GradientRollout
from .score_cam import ScoreCAM
from .starting import start
from .tis import TIS
from .token_occlusion import TokenOcclusion
from .transformer_attribution import TransformerAttribution
from .transition_attention import TransitionAttention
from .vit_cx import ViTCX

__all__ = [
    "AGCAM",
    "CDAM",
    "CPLRP",
    "DAAM",
    "METHODS",
    "RISE",
    "TIS",
    "AttCAT",
    "AttentionRollout",
    "AttnLRP",
    "BeyondIntuition",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "GenericRelevance",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradECLIP",
    "GradientRollout",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "LibraGrad",
    "RawAttention",
    "ScoreCAM",
    "TokenOcclusion",
    "TransformerAttribution",
    "TransitionAttention",
    "ViTAttribution",
    "ViTCX",
    "XGradCAM",
    "find_method",
    "in_all",
    "start",
]
