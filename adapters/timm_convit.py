"""timm's ConViT: attention gated between content and position, and a class token that joins for the last blocks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, Projections, Readout, Rows, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import embedded, split_pair_and_one, split_qkv


class TimmConvit(TimmAdapter):
    """A class token is read in the last blocks alone, which it joins; a rollout goes on through the others."""

    kinds = ("ConVit",)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks)}

    @property
    def embedding(self) -> nn.Module | None:
        joins_first = self.timm.cls_token is not None and self.timm.local_up_to_layer == 0
        return None if joins_first else self.timm.pos_drop

    def reading_layers(self, readout: Readout) -> list[str]:
        return list(self.attention_layers())[0 if readout.patches else self.timm.local_up_to_layer :]

    def projections(self) -> Mapping[str, Projections]:
        layers: dict[str, Any] = self.attention_layers()
        return {name: _gated(layer) if hasattr(layer, "qk") else _plain(layer) for name, layer in layers.items()}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        return embedded(self.timm.patch_embed, image_size, 1, self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        return {"token": CLASS, "avg": PATCHES}.get(self.timm.global_pool) if self.as_made else None


def _plain(layer: Any) -> Projections:
    return Projections((layer.qkv,), partial(split_qkv, layer.num_heads), layer.proj, layer.scale)


def _gated(layer: Any) -> Projections:
    split = partial(split_pair_and_one, layer.num_heads)
    return Projections((layer.qk, layer.v), split, layer.proj, layer.scale, mix=partial(_with_position, layer))


def _with_position(layer: Any, weights: Tensor, rows: Rows) -> Tensor:
    """Attention to content and to position, weighed by the gate of each head: (B, H, R, N)."""
    position = layer.pos_proj(layer.rel_indices[:, rows]).permute(0, 3, 1, 2).to(weights).softmax(-1)
    gate = torch.sigmoid(layer.gating_param.to(weights)).view(1, -1, 1, 1)
    mixed = (1 - gate) * weights + gate * position
    return mixed / mixed.sum(-1, keepdim=True)
