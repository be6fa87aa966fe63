"""The embedded sample: scenes with exact masks and a small Vision Transformer trained on them.

Nothing here needs a model library: weights come as a dictionary in the layout of timm or of transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from .scenes import CLASSES, Scene, draw_batch, draw_scene

__all__ = [
    "CLASSES",
    "CONFIG",
    "MEAN",
    "STD",
    "WEIGHTS",
    "Scene",
    "draw_batch",
    "draw_scene",
    "hf_config",
    "state_dict",
]

MEAN: tuple[float, float, float] = (0.5, 0.5, 0.5)
STD: tuple[float, float, float] = (0.5, 0.5, 0.5)

CONFIG: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "num_classes": len(CLASSES),
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 4,
}
"""Arguments of timm's `VisionTransformer`; all others keep their defaults."""

WEIGHTS = Path(__file__).with_name("weights.safetensors")

_TRANSFORMERS_NAMES = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}
_TRANSFORMERS_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def state_dict(layout: Literal["timm", "transformers"] = "timm") -> dict[str, Tensor]:
    """Weights of the sample model, float32.

    Args:
        layout: `"timm"` for `VisionTransformer(**CONFIG)`, `"transformers"` for
            `ViTForImageClassification(ViTConfig(**hf_config()))` of transformers 5.

    Returns:
        Parameter names and values, for `load_state_dict` with `strict=True`.

    Raises:
        ValueError: the layout is neither.
    """
    if layout not in ("timm", "transformers"):
        raise ValueError(f"expected the layout 'timm' or 'transformers', got {layout!r}")
    from safetensors.torch import load_file

    weights = {name: value.float() for name, value in load_file(WEIGHTS).items()}
    if layout == "timm":
        return weights
    return {new: value for name, old in weights.items() for new, value in _to_transformers(name, old)}


def hf_config() -> dict[str, Any]:
    """Arguments of transformers' `ViTConfig` for the sample model."""
    return {
        "image_size": CONFIG["img_size"],
        "patch_size": CONFIG["patch_size"],
        "hidden_size": CONFIG["embed_dim"],
        "num_hidden_layers": CONFIG["depth"],
        "num_attention_heads": CONFIG["num_heads"],
        "intermediate_size": 4 * CONFIG["embed_dim"],
        "layer_norm_eps": 1e-6,  # timm's; transformers' default is 1e-12
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "qkv_bias": True,
        "problem_type": "multi_label_classification",
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: index for index, name in enumerate(CLASSES)},
    }


def _to_transformers(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """A parameter of timm's model under its name, or its three names, in transformers' model."""
    stem, _, kind = name.rpartition(".")
    if not name.startswith("blocks."):
        if name in _TRANSFORMERS_NAMES:
            return [(_TRANSFORMERS_NAMES[name], value)]
        return [(f"{_TRANSFORMERS_NAMES[stem]}.{kind}", value)]
    _, index, part = stem.split(".", 2)
    block = f"vit.layers.{index}"
    if part == "attn.qkv":
        return [
            (f"{block}.attention.{letter}_proj.{kind}", third.contiguous())
            for letter, third in zip("qkv", value.chunk(3), strict=True)
        ]
    return [(f"{block}.{_TRANSFORMERS_BLOCK_NAMES[part]}.{kind}", value)]
