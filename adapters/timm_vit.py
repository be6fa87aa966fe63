"""timm's plain ViTs: VisionTransformer (DeiT, DINO, CLIP, SigLIP, ...), relative positions, BEiT, EVA, NaFlex."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from captum_vit.access import CLASS, CLASS_AND_DISTILLATION, PATCHES, Grid, Readout, TokenLayout, all_tokens
from captum_vit.adapters.timm_common import TimmAdapter, is_timm
from captum_vit.adapters.timm_tokens import embedded, pooled
from captum_vit.errors import UnsupportedModelError

ATTENTION = ("Attention", "AttentionRope", "RelPosAttention", "EvaAttention", "ParallelScalingBlock")


class TimmViT(TimmAdapter):
    """Blocks with one attention or several side by side; the tokens are [class, distillation or registers, patches]."""

    kinds = ("VisionTransformer", "VisionTransformerRelPos", "Beit", "Eva", "NaFlexVit")

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        for name, layer in self.attention_layers().items():
            own, kind = is_timm(type(layer)), type(layer).__name__
            if not (own and kind in (*ATTENTION, "AttentionPoolLatent")):
                unknown = "no class of timm's: what it computes is not known"
                why = "not one softmax of scores times values" if own else unknown
                block = name.removesuffix(".attn")
                raise UnsupportedModelError(f"{block} computes its attention in {kind}, which is {why}")

    def _in_blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for index, block in enumerate(self.timm.blocks):
            if hasattr(block, "attns"):
                yield from ((f"blocks.{index}.attns.{i}.attn", side.attn) for i, side in enumerate(block.attns))
            elif hasattr(block, "attn"):
                yield f"blocks.{index}.attn", block.attn
            else:
                yield f"blocks.{index}", block  # attention and MLP in parallel share their projections

    def attention_layers(self) -> dict[str, nn.Module]:
        return dict(self._in_blocks()) | {name: self.timm.get_submodule(name) for name in self.cross_attention}

    def blocks(self) -> dict[str, nn.Module]:
        return {name: self.timm.blocks[int(name.split(".")[1])] for name, _ in self._in_blocks()}

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        return {} if getattr(self.timm, "attn_pool", None) is None else {"attn_pool": False}

    @property
    def embedding(self) -> nn.Module | None:
        if hasattr(self.embeds, "pos_drop"):  # behind it some have a norm
            return getattr(self.timm, "norm_pre", self.embeds.pos_drop)
        return self.timm.patch_embed if self.timm.cls_token is None else None

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        # a subclass may add tokens, as a distillation token, and not count them
        prefix = max(self.timm.num_prefix_tokens, len(self.prefix_tokens))
        return embedded(getattr(self.timm, "patch_embed", self.embeds), image_size, prefix, self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        if not self.as_made:
            return None
        prefix, pooling = self.timm.num_prefix_tokens, self.timm.global_pool
        average = all_tokens(prefix) if getattr(self.timm, "pool_include_prefix", False) else PATCHES
        if hasattr(self.timm, "head_dist"):
            return CLASS_AND_DISTILLATION
        if self.cross_attention:  # Eva's has no choice: it reads the prefix tokens too
            drops_prefix = not getattr(self.timm, "pool_include_prefix", True)
            return pooled(self.timm.attn_pool, PATCHES if drops_prefix else all_tokens(prefix))
        return {"token": None if self.embeds.cls_token is None else CLASS, "avg": average}.get(pooling)

    @property
    def first_block(self) -> nn.Module | None:
        return self.timm.blocks[0]

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        return dict.fromkeys(self.timm.blocks, "rope") if getattr(self.timm, "rope", None) is not None else {}
