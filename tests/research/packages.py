"""Models of packages that the library has no adapter for: vit-pytorch and MONAI."""

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import ViT as MonaiViT
from torch import Tensor, nn
from vit_pytorch import (
    cait,
    cross_vit,
    deepvit,
    distill,
    parallel_vit,
    simple_vit,
    simple_vit_with_qk_norm,
    simple_vit_with_register_tokens,
    vit,
    vit_3d,
    vit_for_small_dataset,
)

from tests.research.layout import CLASSES, DEPTH, HEADS, PATCH, SIZE, WIDTH, Layout, Parts, merge, randomise, split

SETTINGS = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_classes": CLASSES,
    "dim": WIDTH,
    "depth": DEPTH,
    "heads": HEADS,
    "mlp_dim": 2 * WIDTH,
    "dim_head": 8,
}


def made(kind: Callable[..., nn.Module], **changes: Any) -> Callable[[], nn.Module]:
    """A small model of vit-pytorch."""
    settings = {name: value for name, value in (SETTINGS | changes).items() if value is not None}
    return lambda: randomise(kind(**settings))


def parts(module: nn.Module, x: Tensor) -> Parts:
    """Of vit-pytorch's plain attention."""
    q, k, v = (split(module.norm(x) @ weight.T) for weight in module.to_qkv.weight.chunk(3))
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: module.to_out(merge(out)))


def normalised_parts(module: nn.Module, x: Tensor) -> Parts:
    """With a norm for queries and keys instead of the scale."""
    plain = parts(module, x)
    return Parts(module.q_norm(plain.q), module.k_norm(plain.k), plain.v, 1.0, plain.finish)


def local_parts(module: nn.Module, x: Tensor) -> Parts:
    """With a temperature that is learned, and without a token's attention to itself."""
    plain = parts(module, x)
    own = torch.eye(x.shape[1], dtype=torch.bool)
    itself = torch.zeros(own.shape, dtype=x.dtype).masked_fill(own, float("-inf"))
    return Parts(plain.q, plain.k, plain.v, module.temperature.exp().item(), plain.finish, itself)


def block_parts(module: SABlock, x: Tensor, attn_mask: None = None) -> Parts:
    """Of MONAI's attention."""
    q, k, v = (split(part) for part in module.qkv(x).chunk(3, -1))
    return Parts(q, k, v, module.scale, lambda out: module.out_proj(merge(out)))


def monai(dims: int, channels: int, stem: str = "conv") -> nn.Module:
    """MONAI's ViT of images or volumes."""
    size = (32, 48) if dims == 2 else (16, 24, 32)
    return randomise(
        MonaiViT(
            channels,
            size,
            8,
            WIDTH,
            2 * WIDTH,
            DEPTH,
            HEADS,
            classification=True,
            num_classes=5,
            spatial_dims=dims,
            proj_type=stem,
        )
    )


PATCHES = {"read": (), "reads_patches": True}
VIDEO = {"image_patch_size": 8, "patch_size": None, "frames": 4, "frame_patch_size": 2}
LAYOUTS = [
    Layout("vit-pytorch ViT", made(vit.ViT), {vit.Attention: parts}),
    Layout("vit-pytorch ViT, mean", made(vit.ViT, pool="mean"), {vit.Attention: parts}, extra=0, **PATCHES),
    Layout("vit-pytorch SimpleViT", made(simple_vit.SimpleViT), {simple_vit.Attention: parts}, extra=0, **PATCHES),
    Layout("vit-pytorch DistillableViT", made(distill.DistillableViT), {vit.Attention: parts}),
    Layout("vit-pytorch parallel", made(parallel_vit.ViT), {parallel_vit.Attention: parts}),
    Layout(
        "vit-pytorch, small data",
        made(vit_for_small_dataset.ViT),
        {vit_for_small_dataset.LSA: local_parts},
        uncertain=True,
    ),
    Layout(
        "vit-pytorch, norms of q and k",
        made(simple_vit_with_qk_norm.SimpleViT),
        {simple_vit_with_qk_norm.Attention: normalised_parts},
        extra=0,
        **PATCHES,
    ),
    Layout(
        "vit-pytorch, registers last",
        made(simple_vit_with_register_tokens.SimpleViT),
        {simple_vit_with_register_tokens.Attention: parts},
        extra=4,
        patches=tuple(range(16)),
        **PATCHES,
    ),
    Layout("vit-pytorch video", made(vit_3d.ViT, **VIDEO), {vit_3d.Attention: parts}, (2, 4, 4), size=(4, 32, 32)),
    Layout("MONAI, images", lambda: monai(2, 3), {SABlock: block_parts}, (4, 6), size=(32, 48)),
    Layout("MONAI, volumes", lambda: monai(3, 1), {SABlock: block_parts}, (2, 3, 4), size=(16, 24, 32), channels=1),
    Layout(
        "MONAI, volumes by a linear stem",
        lambda: monai(3, 1, "perceptron"),
        {SABlock: block_parts},
        (2, 3, 4),
        size=(16, 24, 32),
        channels=1,
    ),
    Layout("vit-pytorch CaiT", made(cait.CaiT, cls_depth=1), refused=r"(?i)between|chang|mix|values|modif|sum"),
    Layout("vit-pytorch DeepViT", made(deepvit.DeepViT), refused=r"(?i)between|chang|mix|values|modif|sum"),
    Layout(
        "vit-pytorch CrossViT",
        lambda: randomise(
            cross_vit.CrossViT(
                image_size=SIZE,
                num_classes=CLASSES,
                sm_dim=24,
                lg_dim=36,
                sm_patch_size=8,
                lg_patch_size=16,
                sm_enc_depth=1,
                lg_enc_depth=1,
                depth=1,
            )
        ),
        refused=r"(?i)token|quer|key|patch|grid",
    ),
]
