"""timm's TNT: a ViT over patches beside which a small transformer runs over the pixels of each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, Projections, Readout, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import require_size, split_pair_and_one


class TimmTnt(TimmAdapter):
    """The outer attention, among patches; the inner one stays within each patch."""

    kinds = ("TNT",)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"blocks.{i}.attn_out": block.attn_out for i, block in enumerate(self.timm.blocks)}

    @property
    def embedding(self) -> nn.Module:
        return self.timm.pos_drop

    def stream(self, values: Any) -> Tensor:
        return values if isinstance(values, Tensor) else values[1]  # the pixels come first

    def projections(self) -> Mapping[str, Projections]:
        layers: dict[str, Any] = self.attention_layers()
        return {
            name: Projections(
                (layer.qk, layer.v), partial(split_pair_and_one, layer.num_heads), layer.proj, layer.scale
            )
            for name, layer in layers.items()
        }

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        embed = self.timm.pixel_embed
        require_size(image_size, embed.img_size, "img_size")
        rows, cols = embed.grid_size
        return TokenLayout((rows, cols), 1, (image_size[0] / rows, image_size[1] / cols), self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        return {"token": CLASS, "avg": PATCHES}.get(self.timm.global_pool) if self.as_made else None
