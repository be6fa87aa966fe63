"""timm's CaiT: patch blocks of talking-heads attention, then two blocks in which the class token attends alone."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import embedded, split_qkv
from captum_vit.layers import CLASS, Projections, Readout, TokenLayout


class TimmCait(TimmAdapter):
    """The class token's blocks are those that the score is read from; a rollout goes on through the patch blocks."""

    kinds = ("Cait",)

    def _patch_layers(self) -> dict[str, Any]:
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks)}

    def _class_layers(self) -> dict[str, Any]:
        return {f"blocks_token_only.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks_token_only)}

    def attention_layers(self) -> dict[str, nn.Module]:
        return {**self._patch_layers(), **self._class_layers()}

    def reading_layers(self) -> list[str]:
        return list(self._class_layers())

    def projections(self) -> Mapping[str, Projections]:
        return {
            name: Projections(
                (layer.qkv,), partial(split_qkv, layer.num_heads), layer.proj, layer.scale,
                mix=partial(_talk, layer.proj_w), mix_scores=partial(_talk, layer.proj_l),
            )
            for name, layer in self._patch_layers().items()
        }  # fmt: skip

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        return embedded(self.timm.patch_embed, image_size, 1, CLASS)

    @property
    def readout(self) -> Readout | None:
        return CLASS if self.as_made and self.timm.global_pool == "token" else None


def _talk(linear: nn.Linear, attention: Tensor, rows: Any = None) -> Tensor:
    """A linear layer over the heads, (B, H, R, N) -> (B, H, R, N)."""
    mixed = F.linear(attention.permute(0, 2, 3, 1), linear.weight.to(attention), linear.bias.to(attention))
    return mixed.permute(0, 3, 1, 2)
