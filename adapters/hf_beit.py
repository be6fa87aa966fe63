"""Hugging Face's BEiT and Data2Vec Vision, whose relative positions are a bias on the attention scores."""

from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Readout
from captum_vit.adapters.hf_common import HFAdapter

READOUTS = {
    "BeitForImageClassification": PATCHES,
    "BeitModel": PATCHES,
    "Data2VecVisionForImageClassification": PATCHES,
    "Data2VecVisionModel": PATCHES,
}


class HFBeit(HFAdapter):
    """Images of any size; read from the mean of the patches, or from the class token where configured so."""

    readouts = READOUTS
    any_size = True

    def attention_of(self, block: Any) -> nn.Module:
        return getattr(block.attention, "attention", block.attention)

    @property
    def readout(self) -> Readout | None:
        averaged = self.backbone.config.use_mean_pooling
        return CLASS if super().readout and not averaged else super().readout

    def features(self, output: Any) -> Tensor:
        """What the pooler gives; without one, what it would read."""
        if self.backbone.pooler is not None:
            return output[1]
        return output[0][:, 1:].mean(1) if self.backbone.config.use_mean_pooling else super().features(output)
