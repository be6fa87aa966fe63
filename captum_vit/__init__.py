"""Explains Vision Transformers through Captum's attribution API.

The names below are imported when first used, so that the command line can answer before torch is loaded.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .access import Adapter, AttentionCall, Readout, TokenLayout, adapt, register
    from .attr import (
        AGCAM,
        CDAM,
        CPLRP,
        DAAM,
        RISE,
        TIS,
        AttCAT,
        AttentionRollout,
        AttnLRP,
        BeyondIntuition,
        EigenCAM,
        EigenGradCAM,
        FinerCAM,
        GenericRelevance,
        GradCAM,
        GradCAMPlusPlus,
        GradECLIP,
        GradientRollout,
        HiResCAM,
        LayerCAM,
        LeGrad,
        LibraGrad,
        RawAttention,
        ScoreCAM,
        TokenOcclusion,
        TransformerAttribution,
        TransitionAttention,
        ViTCX,
        XGradCAM,
    )
    from .attr.of_text import token_shares
    from .capture.one_view import OneView
    from .clips import Clip
    from .colours import Look
    from .errors import CaptumViTError
    from .explanation.comparison import Comparison, compare_maps
    from .explanation.explain import explain
    from .explanation.explaining import Explainer
    from .explanation.explanation import Explanation
    from .features import Tokens, tokens
    from .inspection import Inspection, inspect
    from .models import load_model
    from .pipelines import explainer as explainer
    from .preprocessing import Preprocessing
    from .removals import Removals
    from .sentence import Sentence, Word
    from .targets import Contrast, Embedding, FeatureImportance, Text
    from .verdicts import Verdict

_HOMES = {
    "AGCAM": "attr",
    "RISE": "attr",
    "TIS": "attr",
    "ScoreCAM": "attr",
    "TokenOcclusion": "attr",
    "ViTCX": "attr",
    "Adapter": "access",
    "AttCAT": "attr",
    "AttentionCall": "access",
    "AttentionRollout": "attr",
    "AttnLRP": "attr",
    "CDAM": "attr",
    "CPLRP": "attr",
    "BeyondIntuition": "attr",
    "CaptumViTError": "errors",
    "Clip": "clips",
    "Comparison": "explanation.comparison",
    "Contrast": "targets",
    "DAAM": "attr",
    "EigenCAM": "attr",
    "EigenGradCAM": "attr",
    "Embedding": "targets",
    "Explainer": "explanation.explaining",
    "Explanation": "explanation.explanation",
    "FeatureImportance": "targets",
    "FinerCAM": "attr",
    "GenericRelevance": "attr",
    "GradCAM": "attr",
    "GradCAMPlusPlus": "attr",
    "GradECLIP": "attr",
    "GradientRollout": "attr",
    "HiResCAM": "attr",
    "Inspection": "inspection",
    "LayerCAM": "attr",
    "LeGrad": "attr",
    "LibraGrad": "attr",
    "Look": "colours",
    "OneView": "capture.one_view",
    "Preprocessing": "preprocessing",
    "RawAttention": "attr",
    "Readout": "access",
    "Removals": "removals",
    "Sentence": "sentence",
    "Text": "targets",
    "TokenLayout": "access",
    "Tokens": "features",
    "XGradCAM": "attr",
    "TransformerAttribution": "attr",
    "TransitionAttention": "attr",
    "Verdict": "verdicts",
    "Word": "sentence",
    "adapt": "access",
    "compare_maps": "explanation.comparison",
    "explain": "explanation.explain",
    "explainer": "pipelines",  # not in __all__: it needs transformers
    "inspect": "inspection",
    "load_model": "models",
    "register": "access",
    "token_shares": "attr.of_text",
    "tokens": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AGCAM",
    "CDAM",
    "CPLRP",
    "DAAM",
    "RISE",
    "TIS",
    "Adapter",
    "AttCAT",
    "AttentionCall",
    "AttentionRollout",
    "AttnLRP",
    "BeyondIntuition",
    "CaptumViTError",
    "Clip",
    "Comparison",
    "Contrast",
    "EigenCAM",
    "EigenGradCAM",
    "Embedding",
    "Explainer",
    "Explanation",
    "FeatureImportance",
    "FinerCAM",
    "GenericRelevance",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradECLIP",
    "GradientRollout",
    "HiResCAM",
    "Inspection",
    "LayerCAM",
    "LeGrad",
    "LibraGrad",
    "Look",
    "OneView",
    "Preprocessing",
    "RawAttention",
    "Readout",
    "Removals",
    "ScoreCAM",
    "Sentence",
    "Text",
    "TokenLayout",
    "TokenOcclusion",
    "Tokens",
    "TransformerAttribution",
    "TransitionAttention",
    "Verdict",
    "ViTCX",
    "Word",
    "XGradCAM",
    "__version__",
    "adapt",
    "compare_maps",
    "explain",
    "inspect",
    "load_model",
    "register",
    "token_shares",
    "tokens",
]

if "transformers" in sys.modules:  # then the tasks `image-attribution` and `video-attribution` are expected to be there
    import_module(".pipelines", __name__)
    import_module(".video_pipelines", __name__)
