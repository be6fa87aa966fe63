"""Models on a part of their tokens, written out: embed, add positions, take the part, run the blocks, norm, head.

Each takes the model, images and the numbers of the patches that are kept, and gives scores (B, C).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from transformers import DeiTForImageClassificationWithTeacher, Dinov2ForImageClassification, ViTForImageClassification

from tests.families.hf import small as hf_small
from tests.families.open_clip import OPEN_CLIP
from tests.families.timm_models import small, torchvision_vit
from tests.helpers import CLASSES, WIDTH, hf_vit, randomise, timm_vit
from tests.research.plain import KeysFirst, Plain
from tests.research.torchs import Tutorial, blocks


@dataclass(frozen=True)
class Written:
    """A model, and what it is without some of its patches."""

    build: Callable[[], nn.Module]
    scores: Callable[..., Tensor]
    size: tuple[int, int] = (32, 32)


def part(x: Tensor, kept: list[int], prefix: int) -> Tensor:
    """The prefix tokens and the kept patches of (B, N, D)."""
    return torch.cat([x[:, :prefix], x[:, prefix:][:, kept]], 1)


def of_timm(model: Any, x: Tensor, kept: list[int], prefix: int) -> Tensor:
    x = part(model.norm_pre(model._pos_embed(model.patch_embed(x))), kept, prefix)
    return model.forward_head(model.norm(model.blocks(x)))


def with_prefix(prefix: int) -> Callable[..., Tensor]:
    return lambda model, x, kept: of_timm(model, x, kept, prefix)


def of_rotary(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x, rope = model._pos_embed(model.patch_embed(x))
    x = part(model.norm_pre(x), kept, model.num_prefix_tokens)
    for block in model.blocks:
        x = block(x, rope=rope[kept])
    return model.forward_head(model.norm(x))


def of_cait(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = model.blocks((model.patch_embed(x) + model.pos_embed)[:, kept])
    token = model.cls_token.expand(len(x), -1, -1)
    for block in model.blocks_token_only:
        token = block(x, token)
    return model.forward_head(model.norm(torch.cat([token, x], 1)))


def of_beit(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    """timm's, with the rows and columns of the table of relative positions chosen."""
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), model.patch_embed(x)], 1)
    x, rows = part(x, kept, 1), [0, *(1 + patch for patch in kept)]
    for block in model.blocks:
        attn, y = block.attn, block.norm1(x)
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias])
        q, k, v = F.linear(y, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        table = attn._get_rel_pos_bias()[..., rows, :][..., rows]
        y = (attn.scale * q @ k.mT + table).softmax(-1) @ v
        x = x + block.gamma_1 * attn.proj(y.transpose(1, 2).flatten(2))
        x = x + block.gamma_2 * block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x))


def through(stack: Any, x: Tensor, **more: Any) -> Tensor:
    for layer in stack:
        x = layer(x, **more)
        x = x if isinstance(x, Tensor) else x[0]
    return x


def of_hf(model: Any, x: Tensor, kept: list[int], prefix: int = 1) -> Tensor:
    """The normalised tokens of Hugging Face's ViT, DeiT and DINOv2."""
    backbone = next(getattr(model, name) for name in ("vit", "deit", "dinov2") if hasattr(model, name))
    stack = next(module for module in backbone.modules() if isinstance(module, nn.ModuleList))
    return backbone.layernorm(through(stack, part(backbone.embeddings(x), kept, prefix)))


def of_hf_vit(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    return model.classifier(of_hf(model, x, kept)[:, 0])


def of_hf_deit(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = of_hf(model, x, kept, prefix=2)
    return (model.cls_classifier(x[:, 0]) + model.distillation_classifier(x[:, 1])) / 2


def of_hf_dinov2(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = of_hf(model, x, kept)
    return model.classifier(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))


def of_hf_dinov3(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    rope = tuple(table[kept] for table in model.rope_embeddings(x))
    return model.norm(through(model.model.layer, part(model.embeddings(x), kept, 5), position_embeddings=rope))[:, 0]


def of_clip(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = model.pre_layrnorm(part(model.embeddings(x), kept, 1))
    return model.post_layernorm(through(model.encoder.layers, x, attention_mask=None)[:, 0])


def of_siglip(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = through(model.encoder.layers, model.embeddings(x)[:, kept], attention_mask=None)
    return model.head(model.post_layernorm(x))


def of_open_clip(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = through(model.transformer.resblocks, part(model._embeds(x), kept, 1))
    return model.ln_post(x)[:, 0] @ model.proj


def of_torchvision(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = torch.cat([model.class_token.expand(len(x), -1, -1), model._process_input(x)], 1)
    x = model.encoder.layers(part(x + model.encoder.pos_embedding, kept, 1))
    return model.heads(model.encoder.ln(x)[:, 0])


class Owner(nn.Module):
    """Somebody's own head on a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.probe = timm_vit(num_classes=0), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.probe(self.vit(x))


def of_owner(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    return model.probe(of_timm(model.vit, x, kept, 1))


def of_own(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), model.embed(x)], 1) + model.pos_embed
    return model.head(model.norm(through(model.blocks, part(x, kept, 1)))[:, 0])


def of_tokens_first(model: Any, x: Tensor, kept: list[int]) -> Tensor:
    x = torch.cat([model.class_token.expand(len(x), -1, -1), model.conv_proj(x)], 1) + model.pos_embedding
    return model.head(model.ln(model.encoder(part(x, kept, 1).transpose(0, 1))[0]))


def tokens_first() -> nn.Module:
    return randomise(Tutorial(blocks(batch_first=False), batch_first=False))


SIGLIP, ROPE = "SiglipVisionModel", "vit_small_patch16_dinov3"
WRITTEN = {
    "class token": Written(timm_vit, with_prefix(1)),
    "not square": Written(lambda: timm_vit(img_size=(24, 48)), with_prefix(1), (24, 48)),
    "mean of patches": Written(lambda: timm_vit(global_pool="avg", fc_norm=True), with_prefix(1)),
    "registers, layer scale": Written(lambda: timm_vit(reg_tokens=4, init_values=0.5), with_prefix(5)),
    "no prefix": Written(lambda: timm_vit(class_token=False, global_pool="avg"), with_prefix(0)),
    "attention pool": Written(small("vit_base_patch16_siglip_224", patch_size=8), with_prefix(0)),
    "distilled DeiT": Written(lambda: timm_vit(kind=VisionTransformerDistilled), with_prefix(2)),
    "EVA-02": Written(small("eva02_tiny_patch14_224", patch_size=8), of_rotary),
    "DINOv3": Written(small(ROPE, patch_size=8), of_rotary),
    "CaiT": Written(small("cait_xxs24_224", patch_size=8), of_cait),
    "BEiT": Written(small("beit_base_patch16_224", patch_size=8, img_size=(32, 48)), of_beit, (32, 48)),
    "HF ViT": Written(lambda: hf_vit(ViTForImageClassification), of_hf_vit),
    "HF DeiT": Written(lambda: hf_vit(DeiTForImageClassificationWithTeacher), of_hf_deit),
    "HF DINOv2": Written(lambda: hf_vit(Dinov2ForImageClassification), of_hf_dinov2),
    "HF DINOv3": Written(hf_small("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=4), of_hf_dinov3),
    "HF CLIP": Written(hf_small("CLIPVisionModel", "CLIPVisionConfig"), of_clip),
    "HF SigLIP": Written(hf_small(SIGLIP, "SiglipVisionConfig"), of_siglip),
    "torchvision": Written(torchvision_vit, of_torchvision),
    "nested": Written(lambda: randomise(Owner()), of_owner),
    "nobody's": Written(lambda: randomise(Plain(KeysFirst)), of_own),
    "tokens first": Written(tokens_first, of_tokens_first),
}
if OPEN_CLIP:
    WRITTEN["open_clip"] = Written(OPEN_CLIP[0].build, of_open_clip, OPEN_CLIP[0].size)
