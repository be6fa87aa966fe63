"""timm's XCiT: attention among channels, then two blocks in which the class token attends to the patches."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from captum_vit.access import CLASS, Grid, Readout, TokenLayout
from captum_vit.adapters.timm_common import TimmAdapter


class TimmXcit(TimmAdapter):
    """The class token's blocks alone have attention among patches."""

    kinds = ("Xcit",)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"cls_attn_blocks.{i}.attn": block.attn for i, block in enumerate(self.timm.cls_attn_blocks)}

    @property
    def gap(self) -> str | None:
        return (
            f"in its {len(self.timm.blocks)} first blocks patches meet by cross-covariance attention (XCA), which "
            f"weighs channels instead of patches"
        )

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        patch = self.timm.patch_embed.patch_size
        rows, cols = (-(-side // patch) for side in image_size)  # its strided convolutions round up
        return TokenLayout((rows, cols), 1, (image_size[0] / rows, image_size[1] / cols), CLASS)

    @property
    def mixes_before(self) -> bool:
        return True

    @property
    def readout(self) -> Readout | None:
        return CLASS if self.as_made and self.timm.global_pool == "token" else None
