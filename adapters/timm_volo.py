"""timm's VOLO: outlook attention and transformer blocks, then two blocks in which the class token attends."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, Grid, Projections, Readout, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter
from captum_vit.adapters.timm_tokens import require_size, split_pair_and_one


class TimmVolo(TimmAdapter):
    """The class token's blocks. Of the score, what the auxiliary head reads from patches passes none of them."""

    kinds = ("VOLO",)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"post_network.{i}.attn": block.attn for i, block in enumerate(self.timm.post_network or ())}

    @property
    def bypass(self) -> tuple[nn.Module, ...]:
        return () if self.timm.aux_head is None else (self.timm.aux_head,)

    @property
    def gap(self) -> str | None:
        return "in its first stage patches meet by outlook attention, whose weights come from no queries and keys"

    def projections(self) -> Mapping[str, Projections]:
        layers: dict[str, Any] = self.attention_layers()
        return {
            name: Projections((layer.kv, layer.q), partial(_kv_q, layer.num_heads), layer.proj, layer.scale)
            for name, layer in layers.items()
        }

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        require_size(image_size, self.image_size, "img_size")
        _, rows, cols, _ = self.timm.pos_embed.shape
        return TokenLayout((rows, cols), 1, (image_size[0] // rows, image_size[1] // cols), CLASS)

    @property
    def image_size(self) -> Grid:
        _, rows, cols, _ = self.timm.pos_embed.shape
        stride = 2 * self.timm.patch_embed.proj.stride[0] * self.timm.patch_embed.conv[0].stride[0]
        return rows * stride, cols * stride

    @property
    def mixes_before(self) -> bool:
        return True

    @property
    def readout(self) -> Readout | None:
        return CLASS if self.as_made and self.timm.global_pool == "token" else None


def _kv_q(heads: int, kv: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, v, q = split_pair_and_one(heads, kv, q)
    return q, k, v
