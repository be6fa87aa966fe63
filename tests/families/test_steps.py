"""Attention that a layer of foreign code computes step by step, and what it may do instead."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.models.convit import GPSA, ConVit
from torch import Tensor, nn

from captum_vit import AGCAM, RawAttention, TransformerAttribution, adapt
from captum_vit.capture import Inputs, Run
from captum_vit.errors import LayerNotRecordedError, UnsupportedModelError
from tests.families.t2t import Attention, SmallT2T
from tests.helpers import METHODS, assert_close, explain, images, randomise

SIZE = (64, 64)


def split(layer: Attention, qkv: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.unflatten(2, (layer.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))


def fused(layer: Attention, x: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(*split(layer, layer.qkv(x)), scale=layer.scale)
    return layer.proj(out.transpose(1, 2).flatten(2))


def by_weight(layer: Attention, x: Tensor) -> Tensor:
    q, k, v = split(layer, F.linear(x, layer.qkv.weight))
    return layer.proj(((q @ k.mT * layer.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


def twice(layer: Attention, x: Tensor) -> Tensor:
    return fused(layer, x) + Attention.forward(layer, x)


def t2t(forward=None) -> nn.Module:
    model = randomise(SmallT2T())
    for block in model.blocks:
        block.attn.forward = block.attn.forward if forward is None else partial(forward, block.attn)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_a_fused_kernel_between_the_projections_is_seen_once(method):
    x = images(2, SIZE)
    assert_close(explain(method(t2t(fused)), x), explain(method(t2t()), x))


def test_a_layer_that_computes_two_attentions_is_refused():
    with pytest.raises(LayerNotRecordedError, match=r"'blocks.0.attn' .* ran 2 times in one forward"):
        RawAttention(t2t(lambda layer, x: Attention.forward(layer, x) + Attention.forward(layer, x))).attribute(
            images(1, SIZE)
        )


@pytest.mark.parametrize("method", [AGCAM, RawAttention])
def test_projections_that_are_not_called_are_named(method):
    with pytest.raises(LayerNotRecordedError, match=r"'blocks.0.attn' computes its attention without calling the mod"):
        explain(method(t2t(by_weight)), images(1, SIZE))


def sharp(model: nn.Module) -> nn.Module:
    """With scores of some hundred."""
    for block in model.blocks:
        block.attn.qkv.weight.data[: 2 * 24] *= 10
    return model


@pytest.mark.parametrize("seed", range(4))
def test_large_scores_in_half_precision_are_no_other_attention(seed):
    x = images(4, SIZE, seed)
    assert RawAttention(sharp(t2t()).bfloat16()).attribute(x.bfloat16()).abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert RawAttention(sharp(t2t())).attribute(x).abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_attention_is_refused(dtype):
    def linear(layer: Attention, x: Tensor) -> Tensor:
        q, k, v = split(layer, layer.qkv(x))
        return layer.proj(((q @ k.mT * layer.scale).relu() @ v).transpose(1, 2).flatten(2))

    with pytest.raises(LayerNotRecordedError, match=r"computes something else than softmax"):
        RawAttention(t2t(linear).to(dtype)).attribute(images(1, SIZE).to(dtype))


def test_a_pool_step_by_step_keeps_its_values_in_no_graph():
    model = t2t()
    adapter = adapt(model)
    pooling = type("Pooling", (type(adapter),), {"cross_attention": {"blocks.1.attn": False}})(model)
    with pytest.raises(UnsupportedModelError, match=r"^blocks.1.attn: attention pools computed s"):
        Run(pooling, Inputs(images(1, SIZE)), layers=lambda readout: ["blocks.1.attn"]).gradients(1)


class Mirrored(nn.Module):
    """An owner that turns the images round."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x.flip(3))


@pytest.mark.parametrize("method", [method for method in METHODS if method is not TransformerAttribution])
def test_attention_gated_by_position_of_images_turned_round(method):
    """What the gate does depends on rows and keys, which have the order of the model there."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "num_classes": 7}
    in_double = hasattr(GPSA, "init_non_persistent_buffers")  # before, its positions stayed in float32
    dtype, tolerance = (torch.float64, 1e-9) if in_double else (torch.float32, 1e-4)
    model, x = randomise(ConVit(**shape, depth=4, local_up_to_layer=2)).to(dtype), images().to(dtype)
    assert_close(explain(method(Mirrored(model)), x.flip(3)).flip(3), explain(method(model), x), tolerance)
