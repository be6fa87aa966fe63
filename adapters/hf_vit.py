"""Hugging Face's ViT (ViTModel as in DINO checkpoints), DeiT (teacher too), ViT-MSN and I-JEPA."""

from typing import Any

from torch import Tensor

from captum_vit.access import CLASS, CLASS_AND_DISTILLATION, PATCHES
from captum_vit.adapters.hf_common import HFAdapter

READOUTS = {
    "ViTForImageClassification": CLASS,
    "ViTModel": CLASS,
    "DeiTForImageClassification": CLASS,
    "DeiTForImageClassificationWithTeacher": CLASS_AND_DISTILLATION,
    "DeiTModel": CLASS,
    "ViTMSNForImageClassification": CLASS,
    "ViTMSNModel": CLASS,
    "IJepaForImageClassification": PATCHES,
    "IJepaModel": PATCHES,
}


class HFViT(HFAdapter):
    """Images of another size need `interpolate_pos_encoding=True`."""

    readouts = READOUTS
    heads = ("classifier", "cls_classifier", "distillation_classifier", "pooler")

    def features(self, output: Any) -> Tensor:
        """The class token, since the pooler of DINO checkpoints is random; without one the mean of the patches."""
        return super().features(output) if self.prefix else output[0].mean(1)
