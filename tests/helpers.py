"""Small random models, images and comparisons that the tests share."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from captum_vit import adapt, attr
from captum_vit.access import Adapter, AttentionCall
from captum_vit.attr.conserving import ConservingGradients
from captum_vit.attr.path_weighted import PathWeighted
from captum_vit.attr.token_cam import TokenCAM
from captum_vit.capture import Inputs, Run, untouched
from captum_vit.targets import as_target

# so that a new method is tested by being there; of those that read a run alike one stands for all, but in the contract
STANDING_FOR_OTHERS = (attr.CDAM, attr.EigenCAM, attr.AttnLRP, attr.TransitionAttention)
METHODS = tuple(
    method
    for method in attr.in_all().values()
    if method in STANDING_FOR_OTHERS
    or not issubclass(method, (TokenCAM, ConservingGradients, PathWeighted, attr.GenericRelevance))
)
CLASSES = 7
SIZE, PATCH, WIDTH, HEADS, DEPTH = 32, 8, 24, 3, 3


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest deviation in units of the largest expected value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Finite, of the same shape, not all zero, and equal up to `tolerance` of the largest value."""
    assert torch.isfinite(ours).all()
    assert theirs.abs().max() > 0, "an empty map equals everything"
    assert relative_error(ours, theirs) <= tolerance


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of a size that makes attention uneven; the model in eval mode."""
    draw = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draw)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "token" not in name and "pos" not in name:
                weight.copy_(normal(weight.shape) * 1.5 / math.sqrt(weight[0].numel()))
            elif weight.dim() > 1:
                weight.copy_(normal(weight.shape) * 0.5)
            else:
                weight.copy_(normal(weight.shape) * 0.2 + (0 if name.endswith("bias") else 1))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(normal(buffer.shape))
            elif name.endswith("running_var"):
                buffer.copy_(normal(buffer.shape).square() + 0.5)
    return model.eval()


def images(count: int = 2, size: tuple[int, ...] = (SIZE, SIZE), seed: int = 1) -> Tensor:
    """A batch of random images, (count, 3, *size)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def timm_vit(seed: int = 0, kind: type[VisionTransformer] = VisionTransformer, **changes: Any) -> VisionTransformer:
    """A small timm ViT, a plain one where nothing is changed."""
    settings = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": CLASSES,
    }
    return randomise(kind(**(settings | changes)), seed)


def hf_vit(kind: type[nn.Module] = ViTForImageClassification, seed: int = 0, **changes: Any) -> Any:
    """A small Hugging Face model of the given class."""
    settings = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "image_size": SIZE,
        "patch_size": PATCH,
        "num_labels": CLASSES,
        "layer_norm_eps": 1e-6,
    }
    return randomise(kind(CONFIGS[kind](**(settings | changes))), seed)


CONFIGS: dict[type, type] = {
    ViTForImageClassification: ViTConfig,
    ViTModel: ViTConfig,
    DeiTForImageClassification: DeiTConfig,
    DeiTForImageClassificationWithTeacher: DeiTConfig,
    DeiTModel: DeiTConfig,
    Dinov2ForImageClassification: Dinov2Config,
    Dinov2Model: Dinov2Config,
    Dinov2WithRegistersForImageClassification: Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel: Dinov2WithRegistersConfig,
}


@dataclass(frozen=True)
class Case:
    """A supported model: how it is built, its prefix tokens, and whether it takes other sizes and how."""

    build: Callable[[], nn.Module]
    prefix: int = 1
    headless: bool = False
    other_size: tuple[int, int] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)  # for other_size
    args: tuple[Any, ...] | None = None  # the same by position


WIDE = (24, 48)
INTERPOLATE = {"interpolate_pos_encoding": True}
CASES: dict[str, Case] = {
    "timm-vit": Case(timm_vit),
    "timm-deit-distilled": Case(lambda: timm_vit(kind=VisionTransformerDistilled), prefix=2),
    "timm-deit3": Case(lambda: timm_vit(no_embed_class=True, init_values=0.5)),
    "timm-dino": Case(lambda: timm_vit(num_classes=0), headless=True),
    "timm-dinov2": Case(lambda: timm_vit(num_classes=0, init_values=0.5), headless=True),
    "timm-dinov2-reg4": Case(lambda: timm_vit(reg_tokens=4, init_values=0.5, no_embed_class=True), prefix=5),
    "timm-reg4-gap": Case(lambda: timm_vit(reg_tokens=4, class_token=False, global_pool="avg"), prefix=4),
    "timm-avg": Case(lambda: timm_vit(global_pool="avg", fc_norm=True)),
    "timm-unpooled": Case(lambda: timm_vit(global_pool="", num_classes=0), headless=True),
    "timm-qk-norm": Case(lambda: timm_vit(qk_norm=True)),
    "timm-wide": Case(lambda: timm_vit(img_size=WIDE)),
    "timm-dynamic": Case(lambda: timm_vit(dynamic_img_size=True), other_size=WIDE),
    "timm-dynamic-distilled": Case(
        lambda: timm_vit(kind=VisionTransformerDistilled, dynamic_img_size=True), prefix=2, other_size=WIDE
    ),
    "timm-padded": Case(lambda: timm_vit(dynamic_img_size=True, dynamic_img_pad=True), other_size=(27, 45)),
    "hf-vit": Case(hf_vit, other_size=WIDE, kwargs=INTERPOLATE, args=(None, True)),
    "hf-vit-model": Case(
        lambda: hf_vit(ViTModel), headless=True, other_size=WIDE, kwargs=INTERPOLATE, args=(None, True)
    ),
    "hf-deit": Case(
        lambda: hf_vit(DeiTForImageClassification), 2, other_size=WIDE, kwargs=INTERPOLATE, args=(None, True)
    ),
    "hf-deit-teacher": Case(
        lambda: hf_vit(DeiTForImageClassificationWithTeacher), 2, other_size=WIDE, kwargs=INTERPOLATE, args=(True,)
    ),
    "hf-dinov2": Case(lambda: hf_vit(Dinov2ForImageClassification), other_size=WIDE),
    "hf-dinov2-model": Case(lambda: hf_vit(Dinov2Model), headless=True, other_size=WIDE),
    "hf-dinov2-registers": Case(
        lambda: hf_vit(Dinov2WithRegistersForImageClassification, num_register_tokens=4), 5, other_size=WIDE
    ),
    "hf-dinov2-registers-model": Case(
        lambda: hf_vit(Dinov2WithRegistersModel, num_register_tokens=4), 5, headless=True, other_size=WIDE
    ),
}


def image_size(model: nn.Module) -> tuple[int, int]:
    """The size that one of the models above was built for."""
    if isinstance(model, VisionTransformer):
        return tuple(model.patch_embed.img_size)
    size = model.config.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def explain(method: Any, x: Tensor, target: Any = 1, **options: Any) -> Tensor:
    """The map of any method on any model."""
    return method.attribute(x, target if method.class_specific else None, **options)


def whole(call: AttentionCall) -> AttentionCall:
    """All of an attention, for `Run.reduced`."""
    return call


def recorded(model: nn.Module, x: Tensor, **kwargs: Any) -> Run:
    """A forward that keeps every attention whole."""
    run = Run(adapt(model), Inputs(x, kwargs=kwargs), {whole})
    run.reduced(whole)
    return run


def called(model: nn.Module, x: Tensor, adapter: Adapter | None = None) -> Any:
    """What a model gives on images, which some are not given as such."""
    named = (adapter or adapt(model)).call_with(x)
    return model(**named) if named else model(x)


def scores_of(adapter: Adapter, x: Tensor) -> Tensor:
    """The model's scores, by a plain call."""
    with untouched(adapter), torch.no_grad():
        return adapter.scores(called(adapter.model, x, adapter))


def general_path(method: Any, x: Tensor, target: Any) -> Tensor:
    """The map of a method of ours whose gradients go back through all tokens, though a replay would do."""
    target = as_target(target)
    run = attr.start([(method, {})], Inputs(x), target)
    run.kept.may_replay = False
    with torch.no_grad():
        return run.layout.to_grid(method._maps(run, target, flow=False))
