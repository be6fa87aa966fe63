"""The weights of a timm ViT under the names that transformers, torchvision and open_clip give them."""

import torch
from torch import Tensor, nn

TOKENS = {
    "cls_token": "cls_token",
    "pos_embed": "position_embeddings",
    "dist_token": "distillation_token",
    "reg_token": "register_tokens",
    "patch_embed.proj.weight": "patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "patch_embeddings.projection.bias",
}
VIT_LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
DINOV2_LAYER = VIT_LAYER | {
    "norm1": "norm1",
    "norm2": "norm2",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}
TORCHVISION = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "blocks.": "encoder.layers.encoder_layer_",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj": "self_attention.out_proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
    "norm.": "encoder.ln.",
    "head": "heads.head",
}
OPEN_CLIP = {
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
    "patch_embed.proj": "conv1",
    "blocks": "transformer.resblocks",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "norm.": "ln_post.",
    "head.weight": "proj",
}
HEADS = {
    "vit": {"head": "classifier"},
    "deit": {"head": "cls_classifier", "head_dist": "distillation_classifier"},
    "dinov2_with_registers": {"head": "classifier"},
}


def to_hf(state: dict[str, Tensor], hf: nn.Module) -> dict[str, Tensor]:
    """`state` of a timm model under the names of the Hugging Face model `hf`."""
    kind = hf.config.model_type
    body = "" if hf.base_model is hf else f"{hf.base_model_prefix}."
    dinov2 = kind.startswith("dinov2")
    layers, names = ("encoder.layer", DINOV2_LAYER) if dinov2 else ("layers", VIT_LAYER)
    out = {}
    for name, weight in state.items():
        module, _, leaf = name.rpartition(".")
        if name in TOKENS:
            out[f"{body}embeddings.{TOKENS[name]}"] = weight
        elif module in HEADS[kind]:
            out[f"{HEADS[kind][module]}.{leaf}"] = weight
        elif module == "norm":
            out[f"{body}layernorm.{leaf}"] = weight
        else:
            _, index, part = module.split(".", 2)
            leaf = "lambda1" if leaf == "gamma" else leaf
            if part == "attn.qkv":
                for letter, third in zip("qkv", weight.chunk(3), strict=True):
                    out[f"{body}{layers}.{index}.attention.{letter}_proj.{leaf}"] = third
            else:
                out[f"{body}{layers}.{index}.{names[part]}.{leaf}"] = weight
    if dinov2:  # timm's positions (no_embed_class) are the patches' alone
        positions = out[f"{body}embeddings.position_embeddings"]
        token = out[f"{body}embeddings.cls_token"]
        out[f"{body}embeddings.position_embeddings"] = torch.cat([torch.zeros_like(token), positions], 1)
        out[f"{body}embeddings.mask_token"] = token.new_zeros(1, token.shape[2])
    return out


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` of a timm model under the names of a torchvision one."""
    return {_renamed(name, TORCHVISION): weight for name, weight in state.items()}


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` of a timm model, whose head and patches have biases of 0, under the names of an open_clip tower."""
    without = ("patch_embed.proj.bias", "head.bias")
    assert not any(state[name].any() for name in without)
    out = {_renamed(name, OPEN_CLIP): weight for name, weight in state.items() if name not in without}
    token, positions, proj = out["class_embedding"], out["positional_embedding"], out["proj"]
    return out | {"class_embedding": token[0, 0], "positional_embedding": positions[0], "proj": proj.mT}


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
