"""timm's PiT: a ViT in three stages, between which the patches are pooled."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from captum_vit.access import CLASS, CLASS_AND_DISTILLATION, Grid, Readout, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import require_size


class TimmPit(TimmAdapter):
    """Each stage has a grid of its own; maps lie on the first, which is the finest."""

    kinds = ("PoolingVisionTransformer",)

    def attention_layers(self) -> dict[str, nn.Module]:
        stages = enumerate(self.timm.transformers)
        return {
            f"transformers.{s}.blocks.{i}.attn": block.attn
            for s, stage in stages
            for i, block in enumerate(stage.blocks)
        }

    @property
    def embedding(self) -> nn.Module:
        return self.timm.transformers[0].norm

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class", "distillation")[: self.timm.num_tokens]

    @property
    def gap(self) -> str | None:
        return "it pools its patches by convolutions between the stages"

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        embed = self.timm.patch_embed
        require_size(image_size, embed.img_size, f"img_size=({image_size[0]}, {image_size[1]})")
        stages: list[Grid] = [(embed.height, embed.width)]
        for _ in self.timm.transformers[1:]:
            stages.append(((stages[-1][0] + 1) // 2, (stages[-1][1] + 1) // 2))
        (rows, cols), grids = stages[0], {n: stages[int(n.split(".")[1])] for n in self.attention_layers()}
        patch = (image_size[0] / rows, image_size[1] / cols)  # patches overlap: each stands for its share of the image
        return TokenLayout((rows, cols), self.timm.num_tokens, patch, self.readout or CLASS, grids)

    @property
    def readout(self) -> Readout | None:
        if not self.as_made or self.timm.global_pool != "token":
            return None
        return CLASS if self.timm.head_dist is None else CLASS_AND_DISTILLATION
