"""T2T-ViT in the module layout that its authors published; no library holds it, so it is known by that layout."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import nn

from captum_vit.access import CLASS, Adapter, Grid, Projections, TokenLayout
from captum_vit.adapters.timm_tokens import split_qkv
from captum_vit.errors import TokenLayoutError, UnsupportedModelError

PARTS = ("tokens_to_token", "cls_token", "pos_embed", "blocks", "norm", "head")
STRIDE = 16  # of the soft splits together


class T2TViT(Adapter):
    """The attention of the blocks; that between the soft splits, over finer tokens, is part of the embedding.
    The readout is always measured: whose code the model is cannot be known.
    """

    mixes_before = True  # in the soft splits

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.t2t = cast(Any, model)
        for name, layer in self.attention_layers().items():
            lacking = [part for part in ("qkv", "proj", "num_heads", "scale") if not hasattr(layer, part)]
            if lacking:
                raise UnsupportedModelError(
                    f"{type(model).__name__} is not supported: T2T-ViT's attention is a softmax between `qkv` and "
                    f"`proj`, and {name} ({type(layer).__name__}) has no {', '.join(lacking)}"
                )

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        library = type(model).__module__.split(".")[0] in ("timm", "transformers")
        known = not library and all(hasattr(model, part) for part in PARTS)
        return known and all(isinstance(getattr(b, "attn", None), nn.Module) for b in cast(Any, model).blocks or [None])

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.t2t.blocks)}

    def projections(self) -> Mapping[str, Projections]:
        return {
            f"blocks.{i}.attn": Projections((a.qkv,), partial(split_qkv, a.num_heads), a.proj, a.scale)
            for i, a in enumerate(block.attn for block in self.t2t.blocks)
        }

    @property
    def embedding(self) -> nn.Module | None:
        return getattr(self.t2t, "pos_drop", None)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        side, _ = self.image_size
        if image_size != (side, side):  # another rectangle of as many tokens would be folded into this square
            raise TokenLayoutError(
                f"the model takes images of {side}x{side}, got {image_size[0]}x{image_size[1]}: resize them, or build "
                f"the model with img_size=... and interpolate its position embedding"
            )
        return TokenLayout((side // STRIDE, side // STRIDE), 1, (STRIDE, STRIDE), CLASS)

    @property
    def image_size(self) -> Grid:
        return (STRIDE * math.isqrt(self.t2t.pos_embed.shape[1] - 1),) * 2

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class",)

    @property
    def gap(self) -> str | None:
        if any(isinstance(module, nn.AdaptiveAvgPool1d) for module in self.t2t.blocks.modules()):
            return "in its blocks patches also meet by squeeze and excitation, which weighs channels by their mean"
        return None

    @property
    def headless(self) -> bool:
        return not any(isinstance(module, nn.Linear) for module in self.t2t.head.modules())
