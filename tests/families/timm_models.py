"""The smallest members of timm's families."""

from collections.abc import Callable
from typing import Any

import timm
import torchvision
from timm.models.convit import GPSA
from torch import nn

from captum_vit.attr import METHODS
from tests.families import stepwise
from tests.families.family import Family
from tests.helpers import CLASSES, randomise

SMALL = {"embed_dim": 24, "num_heads": 3, "depth": 2, "num_classes": CLASSES}
WIDE = (32, 48)
MIXED = ("transformer_attribution",)  # mixed heads
PLAIN = tuple(name for name, method in METHODS.items() if method.multiplies_layers)


def timm_model(name: str, **changes: Any) -> Callable[[], nn.Module]:
    return lambda: randomise(timm.create_model(name, **changes))


def small(name: str, img_size: int | tuple[int, int] = 32, **changes: Any) -> Callable[[], nn.Module]:
    return timm_model(name, **(SMALL | {"img_size": img_size} | changes))


def unfuse(model: nn.Module) -> None:
    """Explicit softmax in all attention of a timm model."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False


def timm_family(name: str, models: str, build: Callable[[], nn.Module], layers: int = 2, **more: Any) -> Family:
    return Family(name=name, library="timm", models=models, build=build, layers=layers, **({"unfuse": unfuse} | more))


DYNAMIC = {"dynamic_img_size": True}
NAFLEX = {**SMALL, "patch_size": 8, "pos_embed_grid_size": (4, 4)}
TIMM = [
    timm_family(
        "ViT, DeiT, DINO",
        "vit_*, deit_*",
        small("vit_tiny_patch16_224", patch_size=8, **DYNAMIC),
        other_size=WIDE,
    ),
    timm_family(
        "distilled DeiT",
        "deit_*_distilled",
        small("deit_tiny_distilled_patch16_224", patch_size=8, **DYNAMIC),
        other_size=WIDE,
    ),
    timm_family("DeiT III", "deit3_*", small("deit3_small_patch16_224", patch_size=8, **DYNAMIC), other_size=WIDE),
    timm_family(
        "registers and mean of patches",
        "vit_*_reg*_gap",
        small("vit_base_patch16_reg4_gap_256", patch_size=8, **DYNAMIC),
        other_size=WIDE,
    ),
    timm_family(
        "DINOv2",
        "vit_*_dinov2, vit_*_reg4_dinov2",
        small("vit_small_patch14_reg4_dinov2", img_size=28, patch_size=7, **DYNAMIC),
        size=(28, 28),
        other_size=(28, 42),
    ),
    timm_family(
        "CLIP vision", "vit_*_clip_*", small("vit_base_patch16_clip_224", patch_size=8, **DYNAMIC), other_size=WIDE
    ),
    timm_family(
        "SigLIP",
        "vit_*_siglip_*",
        small("vit_base_patch16_siglip_224", patch_size=8, **DYNAMIC),
        layers=3,
        other_size=WIDE,
    ),
    timm_family(
        "SigLIP, mean of patches",
        "vit_*_siglip_gap_*",
        small("vit_base_patch16_siglip_gap_224", patch_size=8),
    ),
    timm_family(
        "registers and attention pooling",
        "vit_so150m_*_map",
        small("vit_so150m_patch16_reg4_map_256", patch_size=8, mlp_ratio=2, **DYNAMIC),
        layers=3,
        other_size=WIDE,
    ),
    timm_family(
        "attention and MLP in parallel",
        "VisionTransformer(block_fn=ParallelScalingBlock)",
        small(
            "vit_tiny_patch16_224",
            patch_size=8,
            block_fn=timm.models.vision_transformer.ParallelScalingBlock,
            **DYNAMIC,
        ),
        other_size=WIDE,
    ),
    timm_family(
        "parallel attention",
        "vit_*_18x2",
        small("vit_small_patch16_18x2_224", patch_size=8, **DYNAMIC),
        layers=4,
        other_size=WIDE,
    ),
    timm_family(
        "hybrid with ResNet stem", "vit_*_r_*", small("vit_tiny_r_s16_p8_224", img_size=(96, 128)), size=(96, 128)
    ),
    timm_family(
        "relative positions",
        "vit_relpos_*",
        small("vit_relpos_small_patch16_224", patch_size=8, img_size=WIDE),
        size=WIDE,
    ),
    timm_family(
        "relative positions, class token",
        "vit_relpos_*_cls",
        small("vit_relpos_base_patch16_cls_224", patch_size=8, img_size=WIDE),
        size=WIDE,
    ),
    timm_family(
        "BEiT, BEiT v2", "beit_*, beitv2_*", small("beit_base_patch16_224", patch_size=8, img_size=WIDE), size=WIDE
    ),
    timm_family("BEiT-3", "beit3_*", small("beit3_base_patch16_224", patch_size=8, **DYNAMIC), other_size=WIDE),
    timm_family(
        "EVA, EVA-02", "eva_*, eva02_*", small("eva02_tiny_patch14_224", patch_size=8, **DYNAMIC), other_size=WIDE
    ),
    timm_family(
        "EVA-02 CLIP", "eva02_*_clip_*", small("eva02_base_patch16_clip_224", patch_size=8, **DYNAMIC), other_size=WIDE
    ),
    timm_family("DINOv3", "vit_*_dinov3", small("vit_small_patch16_dinov3", patch_size=8), other_size=WIDE),
    timm_family(
        "rotary positions",
        "vit_*_rope_*",
        small("vit_small_patch16_rope_224", patch_size=8, **DYNAMIC),
        other_size=WIDE,
    ),
    timm_family(
        "rotary positions, mixed",
        "vit_*_rope_mixed_*",
        small("vit_small_patch16_rope_mixed_224", patch_size=8, **DYNAMIC),
        other_size=WIDE,
    ),
    timm_family(
        "Perception Encoder",
        "vit_pe_core_*",
        small("vit_pe_core_tiny_patch16_384", patch_size=8, attn_pool_num_heads=3, **DYNAMIC),
        layers=3,
        other_size=WIDE,
    ),
    timm_family(
        "NaFlex, mean of patches",
        "naflexvit_*_gap",
        timm_model("naflexvit_base_patch16_par_gap", **NAFLEX),
        size=(24, 40),
        other_size=WIDE,
    ),
    timm_family(
        "NaFlex, attention pooling",
        "naflexvit_*_map, naflexvit_*_siglip",
        timm_model("naflexvit_base_patch16_map", **NAFLEX),
        layers=3,
        size=(24, 40),
        other_size=WIDE,
    ),
    timm_family(
        "CaiT", "cait_*", small("cait_xxs24_224", patch_size=8, img_size=WIDE), layers=4, size=WIDE, without=MIXED
    ),
    timm_family(
        "CaiT, mean of patches",
        "Cait(global_pool='avg')",
        small("cait_xxs24_224", patch_size=8, img_size=WIDE, global_pool="avg"),
        layers=4,
        size=WIDE,
        without=MIXED,
    ),
    timm_family(
        "XCiT",
        "xcit_*",
        small("xcit_nano_12_p16_224", img_size=64, embed_dim=32, num_heads=4),
        size=(64, 64),
        other_size=(64, 96),
        without=PLAIN,
    ),
    timm_family(
        "VOLO",
        "volo_*",
        timm_model(
            "volo_d1_224",
            img_size=64,
            num_classes=CLASSES,
            mlp_ratio=2,
        ),
        size=(64, 64),
        without=PLAIN,
        unfuse=None,
        explicit=True,
    ),
    timm_family(
        "PiT",
        "pit_*",
        timm_model("pit_ti_224", img_size=(64, 80), num_classes=CLASSES),
        layers=12,
        size=(64, 80),
        without=PLAIN,
    ),
    timm_family(
        "TNT",
        "tnt_*",
        timm_model("tnt_s_legacy_patch16_224", depth=2, img_size=(48, 64), num_classes=CLASSES),
        size=(48, 64),
        explicit=True,
    ),
    *(
        timm_family(
            name,
            models,
            timm_model(
                "convit_tiny",
                depth=3,
                local_up_to_layer=2,
                img_size=64,
                num_classes=CLASSES,
                embed_dim=6,
                num_heads=4,
                **changes,
            ),
            layers=3,
            size=(64, 64),
            explicit=hasattr(GPSA, "init_non_persistent_buffers"),  # before, its positions stayed in float32
            in_double=hasattr(GPSA, "init_non_persistent_buffers"),
            unfuse=None,
            without=MIXED,
        )
        for name, models, changes in (
            ("ConViT", "convit_*", {}),
            ("ConViT, mean of patches", "ConVit(global_pool='avg')", {"global_pool": "avg"}),
        )
    ),
]


def torchvision_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=CLASSES
    )
    return randomise(model)


TORCHVISION = [
    Family(
        name="ViT",
        library="torchvision",
        models="vit_b_16, vit_l_32, vit_h_14",
        build=torchvision_vit,
        layers=2,
        unfuse=stepwise.unfuse_multi_head,
    ),
]
