"""timm's VisionTransformer: ViT, DeiT (distilled too), DeiT III, DINO, DINOv2 with and without registers."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit.errors import TokenLayoutError, UnsupportedModelError
from captum_vit.layers import (
    CLASS,
    CLASS_AND_DISTILLATION,
    PATCHES,
    Adapter,
    Readout,
    Switch,
    TokenLayout,
    unaltered,
)


class TimmViT(Adapter):
    """Blocks of `timm.layers.Attention`; the tokens are [class, distillation or registers, patches]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.timm = cast(Any, model)
        if self.timm.attn_pool is not None:
            raise UnsupportedModelError(
                "this VisionTransformer pools by attention (global_pool='map'), which has no adapter yet"
            )
        for name, block in self.timm.blocks.named_children():
            if type(getattr(block, "attn", None)) is not Attention:
                kind = type(getattr(block, "attn", block)).__name__
                raise UnsupportedModelError(f"blocks.{name} computes its attention in {kind}, which has no adapter yet")

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return isinstance(model, VisionTransformer)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.timm.blocks)}

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        embed = self.timm.patch_embed
        patch, height, width = embed.feat_ratio(as_scalar=False), *image_size  # a hybrid's patches lie on features
        if embed.img_size is not None and embed.strict_img_size and image_size != tuple(embed.img_size):
            raise TokenLayoutError(
                f"the model takes images of {embed.img_size[0]}x{embed.img_size[1]}, got {height}x{width}: resize "
                f"them, or build the model with img_size=({height}, {width}) or dynamic_img_size=True"
            )
        if not embed.dynamic_img_pad and (height % patch[0] or width % patch[1]):
            raise TokenLayoutError(
                f"images of {height}x{width} do not divide into patches of {patch[0]}x{patch[1]}: resize them, or "
                f"build the model with dynamic_img_pad=True"
            )
        rows, cols = embed.dynamic_feat_size(image_size)
        return TokenLayout((rows, cols), self.timm.num_prefix_tokens, tuple(patch), self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        heads = (self.timm.head, getattr(self.timm, "head_dist", self.timm.head))
        if type(self.model) not in (VisionTransformer, VisionTransformerDistilled):
            return None  # a subclass may pool in its own way
        if not unaltered(self.model, "timm", heads):
            return None
        if isinstance(self.model, VisionTransformerDistilled):
            return CLASS_AND_DISTILLATION
        has_class_token = self.timm.cls_token is not None
        average = PATCHES
        if self.timm.pool_include_prefix:
            average = Readout(tuple(range(self.timm.num_prefix_tokens)), patches=True, even=True)
        known = {"token": CLASS if has_class_token else None, "avg": average}
        return known.get(self.timm.global_pool)

    @property
    def first_block(self) -> nn.Module:
        return self.timm.blocks[0]

    @property
    def headless(self) -> bool:
        return self.timm.num_classes == 0

    @property
    def class_names(self) -> Mapping[int, str]:
        names = (getattr(self.timm, "pretrained_cfg", None) or {}).get("label_names")
        return dict(enumerate(names or ()))

    def scores(self, output: Any) -> Tensor:
        if isinstance(output, tuple) and isinstance(self.model, VisionTransformerDistilled):
            return (output[0] + output[1]) / 2  # in distilled training the two heads come separately
        if isinstance(output, Tensor) and output.dim() == 3:
            return output[:, 0]  # unpooled: (B, N, D)
        return super().scores(output)

    def capturing(self) -> Iterable[Switch]:
        yield self.timm, "grad_checkpointing", False
        for block in self.timm.blocks:
            yield block.attn, "fused_attn", True
