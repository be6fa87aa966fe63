"""The smallest members of Hugging Face's families."""

from collections.abc import Callable
from typing import Any

import transformers
from torch import nn

from tests.families import stepwise
from tests.families.family import Family
from tests.helpers import CLASSES, DEPTH, HEADS, PATCH, SIZE, WIDE, WIDTH, randomise

SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "image_size": SIZE,
    "patch_size": PATCH,
}
SMALL_TIMM = {
    "img_size": SIZE,
    "patch_size": PATCH,
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "dynamic_img_size": True,
}
TEXT = {"bos_token_id": 0, "eos_token_id": 1}  # SigLIP's own are outside its vocabulary
ANY_SHAPE = {"num_patches": (SIZE // PATCH) ** 2}
RELATIVE = {"use_relative_position_bias": True, "use_shared_relative_position_bias": True}
REGISTERS = {"num_register_tokens": 4}


def unfuse(model: nn.Module) -> None:
    """Explicit softmax in all attention of a Hugging Face model."""
    stepwise.unfuse_multi_head(model)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "eager"
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if type(module).__name__ == "Data2VecVisionSdpaSelfAttention":
            module.__class__ = type(module).__base__


def small(model: str, config: str, **changes: Any) -> Callable[[], nn.Module]:
    """The model class of that name, from the configuration class of that name."""

    def build() -> nn.Module:
        settings = getattr(transformers, config)(**({"num_labels": CLASSES} | SMALL | changes))
        return randomise(getattr(transformers, model)(settings))

    return build


def of_image_side(model: str, config: str) -> Callable[[], nn.Module]:
    """The same where one configuration holds those of images and of text."""
    return small(model, config, vision_config=SMALL, text_config=TEXT)


def timm_wrapper(model: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = transformers.TimmWrapperConfig(
            architecture="vit_tiny_patch16_224", model_args=SMALL_TIMM, num_labels=CLASSES, do_pooling=True
        )
        return randomise(getattr(transformers, model)(config))

    return build


def hf_family(name: str, model: str, build: Callable[[], nn.Module], **more: Any) -> Family:
    facts = {"layers": DEPTH, "other_size": WIDE, "unfuse": unfuse} | more
    return Family(name=name, library="transformers", models=model, build=build, **facts)


def pair(name: str, stem: str, more: dict[str, Any], **changes: Any) -> list[Family]:
    """The classifier and the bare backbone."""
    classes = {name: f"{stem}ForImageClassification", f"{name}, backbone": f"{stem}Model"}
    return [hf_family(n, model, small(model, f"{stem}Config", **changes), **more) for n, model in classes.items()]


def video_family(name: str, model: str, config: str, **changes: Any) -> Family:
    """Of videos of four frames; those that are built for one size are not square."""
    facts: dict[str, Any] = {"size": (4, 16, 24), "other_size": None, "without": ("rise", "scorecam", "vitcx")}
    facts |= {key: changes.pop(key) for key in ("layers", "size", "other_size") if key in changes}
    facts["some_patches"] = not changes.get("use_mean_pooling", True)
    video = {"image_size": facts["size"][1:], "num_frames": facts["size"][0], "tubelet_size": 2}
    return hf_family(name, model, small(model, config, **(video | changes)), **facts)


FIRST_PATCH = {"use_mean_pooling": False}
JEPA = {
    "crop_size": 16,
    "frames_per_clip": 4,
    "num_pooler_layers": 1,
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 1,
    "pred_num_hidden_layers": 1,
}
ANY_SIZE = {"size": (4, 16, 16), "other_size": (6, 16, 24)}
FLAG = {"kwargs": {"interpolate_pos_encoding": True}}
TEACHER, PROJECTION = "DeiTForImageClassificationWithTeacher", "CLIPVisionModelWithProjection"
HF: list[Family] = [
    *pair("ViT, DINO", "ViT", FLAG),
    *pair("DeiT", "DeiT", FLAG),
    hf_family("distilled DeiT", TEACHER, small(TEACHER, "DeiTConfig"), **FLAG),
    *pair("ViT-MSN", "ViTMSN", FLAG),
    *pair("I-JEPA", "IJepa", FLAG),
    *pair("DINOv2", "Dinov2", {}),
    *pair("DINOv2 with registers", "Dinov2WithRegisters", {}, **REGISTERS),
    hf_family("DINOv3", "DINOv3ViTModel", small("DINOv3ViTModel", "DINOv3ViTConfig", **REGISTERS)),
    *pair("BEiT", "Beit", {}, **RELATIVE),
    *pair("BEiT by its class token", "Beit", {}, use_mean_pooling=False, **RELATIVE),
    *pair("Data2Vec vision", "Data2VecVision", {}, **RELATIVE),
    hf_family("CLIP vision", "CLIPVisionModel", small("CLIPVisionModel", "CLIPVisionConfig"), **FLAG),
    hf_family("CLIP vision, projected", PROJECTION, small(PROJECTION, "CLIPVisionConfig", projection_dim=16), **FLAG),
    hf_family(
        "CLIP classifier",
        "CLIPForImageClassification",
        of_image_side("CLIPForImageClassification", "CLIPConfig"),
        **FLAG,
    ),
    hf_family(
        "SigLIP vision", "SiglipVisionModel", small("SiglipVisionModel", "SiglipVisionConfig"), layers=DEPTH + 1, **FLAG
    ),
    hf_family(
        "SigLIP classifier",
        "SiglipForImageClassification",
        of_image_side("SiglipForImageClassification", "SiglipConfig"),
        **FLAG,
    ),
    hf_family(
        "SigLIP 2 of any shape, vision",
        "Siglip2VisionModel",
        small("Siglip2VisionModel", "Siglip2VisionConfig", **ANY_SHAPE),
        layers=DEPTH + 1,
    ),
    hf_family(
        "SigLIP 2 of any shape, classifier",
        "Siglip2ForImageClassification",
        small("Siglip2ForImageClassification", "Siglip2Config", vision_config=SMALL | ANY_SHAPE, text_config=TEXT),
    ),
    *(
        hf_family(f"{name} vision", f"{stem}VisionModel", small(f"{stem}VisionModel", f"{stem}VisionConfig"), **FLAG)
        for name, stem in (("BLIP", "Blip"), ("BLIP-2", "Blip2"))
    ),
    video_family("VideoMAE", "VideoMAEForVideoClassification", "VideoMAEConfig"),
    video_family("VideoMAE by its first patch", "VideoMAEForVideoClassification", "VideoMAEConfig", **FIRST_PATCH),
    video_family("VideoMAE, backbone", "VideoMAEModel", "VideoMAEConfig"),
    video_family("ViViT", "VivitForVideoClassification", "VivitConfig", tubelet_size=(2, PATCH, PATCH)),
    video_family("V-JEPA 2", "VJEPA2ForVideoClassification", "VJEPA2Config", layers=DEPTH + 2, **ANY_SIZE, **JEPA),
    video_family("V-JEPA 2, backbone", "VJEPA2Model", "VJEPA2Config", **ANY_SIZE, **JEPA),
    *(
        hf_family(name, model, timm_wrapper(model))
        for name, model in (
            ("timm's models", "TimmWrapperForImageClassification"),
            ("timm's models, backbone", "TimmWrapperModel"),
        )
    ),
]
