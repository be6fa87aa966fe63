"""Hugging Face's DINOv2 (with registers and without) and DINOv3."""

from collections.abc import Mapping

from torch import nn

from captum_vit.access import CLASS, CLASS_AND_PATCHES
from captum_vit.adapters.hf_common import HFAdapter

READOUTS = {
    "Dinov2ForImageClassification": CLASS_AND_PATCHES,
    "Dinov2Model": CLASS,
    "Dinov2WithRegistersForImageClassification": CLASS_AND_PATCHES,
    "Dinov2WithRegistersModel": CLASS,
    "DINOv3ViTModel": CLASS,
}


class HFDino(HFAdapter):
    """Images of any size; the tokens of DINOv3 are rotated by their place."""

    readouts = READOUTS
    any_size = True

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        rotary = hasattr(self.backbone, "rope_embeddings")
        return dict.fromkeys(self.stack, "position_embeddings") if rotary else {}
