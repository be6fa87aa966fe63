"""Small image towers of open_clip; none where it is not installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import nn

from tests.families import stepwise
from tests.families.family import Family
from tests.helpers import randomise

SMALL = {
    "image_size": (32, 48),
    "patch_size": 8,
    "width": 24,
    "layers": 2,
    "heads": 3,
    "mlp_ratio": 2.0,
    "output_dim": 16,
}


def tower(**changes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.transformer import VisionTransformer

        return randomise(VisionTransformer(**(SMALL | changes)))

    return build


def tower_family(name: str, models: str, layers: int = 2, unfuse: Callable | None = None, **changes: Any) -> Family:
    return Family(
        name=name,
        library="open_clip",
        models=models,
        build=tower(**changes),
        layers=layers,
        size=(32, 48),
        unfuse=unfuse,
    )


POOL = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
OPEN_CLIP = (
    [
        tower_family("CLIP", "ViT-*, model.visual", unfuse=stepwise.unfuse_multi_head),
        tower_family("mean of patches", "ViT-*-CLIPA*, model.visual", pool_type="avg", final_ln_after_pool=True),
        tower_family(
            "own attention with normalised queries",
            "block_type custom",
            qk_norm=True,
            scale_heads=True,
            scale_attn_inner=True,
            scale_attn=True,
            scale_fc=True,
        ),
        tower_family("CoCa", "coca_*, model.visual", layers=3, **POOL),
        tower_family(
            "attention pooling, mean of latents",
            "attentional_pool, pool_type avg",
            layers=3,
            **(POOL | {"pool_type": "avg"}),
        ),
    ]
    if find_spec("open_clip")
    else []
)
