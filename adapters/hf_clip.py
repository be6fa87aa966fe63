"""The image side of Hugging Face's CLIP, SigLIP and BLIP, and their classifiers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, Readout, TokenLayout
from captum_vit.adapters.hf_common import HFAdapter

POOLED = Readout((), patches=True, latents=(0,))

READOUTS = {
    "CLIPVisionModel": CLASS,
    "CLIPVisionModelWithProjection": CLASS,
    "CLIPForImageClassification": PATCHES,
    "SiglipVisionModel": POOLED,
    "SiglipForImageClassification": PATCHES,
    "BlipVisionModel": CLASS,
    "Blip2VisionModel": CLASS,
    "InstructBlipVisionModel": CLASS,
}


class HFClip(HFAdapter):
    """Images of another size need `interpolate_pos_encoding=True`; SigLIP pools its patches by an attention."""

    readouts = READOUTS
    heads = ("classifier", "visual_projection")

    def attention_of(self, block: Any) -> nn.Module:
        return block.self_attn

    def attention_layers(self) -> dict[str, nn.Module]:
        return super().attention_layers() | {name: self.model.get_submodule(name) for name in self.cross_attention}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        passed_on = arguments.get("kwargs", {})  # by the classifier of CLIP, which does not name it
        return super().token_layout(image_size, {**arguments, **passed_on})

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        bare = self.model is self.backbone  # the classifier reads the patches themselves
        return {"head.attention": False} if bare and getattr(self.backbone, "use_head", False) else {}

    @property
    def embedding(self) -> nn.Module | None:
        return getattr(self.backbone, "pre_layrnorm", super().embedding)

    @property
    def readout(self) -> Readout | None:
        known = super().readout
        return PATCHES if known == POOLED and not self.cross_attention else known

    @property
    def headless(self) -> bool:
        return super().headless or hasattr(self.hf, "visual_projection")

    def features(self, output: Any) -> Tensor:
        """What the pooler gives; without one, the mean of the patches."""
        return output[0].mean(1) if self.prefix == 0 and not self.cross_attention else output[1]

    def scores(self, output: Any) -> Tensor:
        return output[0] if hasattr(self.hf, "visual_projection") else super().scores(output)  # image_embeds
