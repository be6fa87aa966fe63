"""timm's CaiT: patch blocks of talking-heads attention, then two blocks in which the class token attends alone."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, Projections, Readout, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import embedded, split_qkv


class TimmCait(TimmAdapter):
    """A class token is read in its own blocks alone; a rollout goes on through those of the patches."""

    kinds = ("Cait",)

    def _patch_layers(self) -> dict[str, Any]:
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks)}

    def _class_layers(self) -> dict[str, Any]:
        return {f"blocks_token_only.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks_token_only)}

    def attention_layers(self) -> dict[str, nn.Module]:
        return {**self._patch_layers(), **self._class_layers()}

    @property
    def embedding(self) -> nn.Module:
        return self.timm.pos_drop

    def reading_layers(self, readout: Readout) -> list[str]:
        return [*(self._patch_layers() if readout.patches else ()), *(self._class_layers() if readout.prefix else ())]

    def projections(self) -> Mapping[str, Projections]:
        return {
            name: Projections(
                (layer.qkv,),
                partial(split_qkv, layer.num_heads),
                layer.proj,
                layer.scale,
                mix=partial(_talk, layer.proj_w),
                mix_scores=partial(_talk, layer.proj_l),
            )
            for name, layer in self._patch_layers().items()
        }

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        return embedded(self.timm.patch_embed, image_size, 1, self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        return {"token": CLASS, "avg": PATCHES}.get(self.timm.global_pool) if self.as_made else None


def _talk(linear: nn.Linear, attention: Tensor, rows: Any = None) -> Tensor:
    """A linear layer over the heads, (B, H, R, N) -> (B, H, R, N)."""
    mixed = F.linear(attention.permute(0, 2, 3, 1), linear.weight.to(attention), linear.bias.to(attention))
    return mixed.permute(0, 3, 1, 2)
