"""What a model is that is no Vision Transformer, and what explains it; and why no gradient goes through another."""

import re
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention
from captum_vit.access.kinds import what_it_is, why_no_gradient
from captum_vit.errors import UnsupportedModelError
from tests.helpers import CASES, assert_close, hf_vit, images, timm_vit

CONVOLUTIONAL = "convolutional network, without attention over image patches; .* captum.attr.LayerGradCam"
PARTLY = "convolutional network with attention in a part of its layers: patches meet in convolutions"
TEXT = "it is a text model: it takes the numbers of tokens, and no patches of an image"
WINDOWS = "its attention runs in windows of the image, so that no query sees all patches"
CONVERTED = "traced, exported or converted, and its attention layers are no modules any more"


def hf(name: str, **settings: object) -> nn.Module:
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))


def small_text(name: str) -> nn.Module:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    return hf(name, vocab_size=10, **sizes)


def written_by_hand() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


MODELS = {
    "timm resnet": (lambda: timm.create_model("test_resnet"), CONVOLUTIONAL),
    "timm convnext": (lambda: timm.create_model("test_convnext"), CONVOLUTIONAL),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet"), CONVOLUTIONAL),
    "torchvision resnet": (torchvision.models.resnet18, CONVOLUTIONAL),
    "torchvision mobilenet": (torchvision.models.mobilenet_v3_small, CONVOLUTIONAL),
    "torchvision convnext": (torchvision.models.convnext_tiny, CONVOLUTIONAL),
    "a detector": (
        lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None),
        CONVOLUTIONAL,
    ),
    "transformers resnet": (lambda: hf("ResNet", hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8), CONVOLUTIONAL),
    "one's own": (written_by_hand, CONVOLUTIONAL),
    "mobilevit": (lambda: timm.create_model("mobilevit_xxs"), PARTLY),
    "mobilevit 2": (lambda: timm.create_model("mobilevitv2_050"), PARTLY),
    "torchvision swin": (torchvision.models.swin_t, WINDOWS),
    "mixer": (lambda: timm.create_model("mixer_s32_224", num_classes=2), "fully connected layers and not in attention"),
    "resmlp": (lambda: timm.create_model("resmlp_12_224"), "fully connected layers and not in attention"),
    "bert": (lambda: small_text("Bert"), TEXT),
    "llama": (lambda: small_text("Llama"), TEXT),
    "gpt": (lambda: hf("GPT2", vocab_size=10, n_embd=8, n_layer=1, n_head=2), TEXT),
    "torch": (lambda: nn.Sequential(nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, 2)), TEXT),
    "whisper": (lambda: hf("Whisper", d_model=12, encoder_layers=1, decoder_layers=1), "model of sounds"),
    "an mlp": (lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "neither attention nor patches of an image"),
    "torch.fx": (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))), CONVERTED),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_vit_is_told_in_a_sentence(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some remark on missing pad tokens
        build, told = MODELS[name]
        model = build()
    with pytest.raises(UnsupportedModelError, match=told) as error:
        AGCAM(model)
    text = str(error.value)
    assert len(text) < 400
    assert not re.search(r"adapter|CONTRIBUTING|TimmViT", text)
    assert text.startswith(f"{type(model).__name__} is not supported: ")


@pytest.mark.parametrize("name", CASES)
def test_no_vit_is_taken_for_something_else(name: str):
    assert what_it_is(CASES[name].build()) is None


class HandWritten(nn.Module):
    """Attention in plain code, under names of its own."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.a, self.b, self.c, self.fused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), fused

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT
        q, k, v = self.a(tokens), self.b(tokens), self.c(tokens)
        return F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("model", [HandWritten(True), HandWritten(False)], ids=["fused", "step by step"])
def test_attention_in_unknown_code_is_not_denied(model: nn.Module):
    """Without heads and with overlapping patches as it is: it is either looked into, or the reason is another."""
    assert what_it_is(model) is None


def dynamic(model: nn.Module) -> nn.Module:
    """Quantised as torch does it for a CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("build", [timm_vit, lambda: timm_vit(global_pool="avg"), hf_vit], ids=["token", "avg", "hf"])
@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_a_quantised_model_is_told_as_the_reason(method, build):
    with pytest.raises(UnsupportedModelError, match=r"is quantised \(.* is torch.ao.nn.quantized.dynamic.*Linear\)"):
        method(dynamic(build())).attribute(images(), 1)


@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_a_part_that_is_quantised_and_has_a_way_round_is_told_too(method):
    """The skip connection leads past an MLP, so that there is a gradient: a wrong one."""
    model = timm_vit(global_pool="avg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = {"blocks.1.mlp.fc1": torch.ao.quantization.default_dynamic_qconfig}
        model = torch.ao.quantization.quantize_dynamic(model, layer)
    with pytest.raises(UnsupportedModelError, match=r"is quantised \(blocks.1.mlp.fc1 is torch.ao.nn.quantized"):
        method(model).attribute(images(), 1)


def test_methods_without_gradients_work_on_a_quantised_model():
    for method in (AttentionRollout, RawAttention):
        assert_close(method(dynamic(timm_vit())).attribute(images()), method(timm_vit()).attribute(images()), 0.2)


class Linear4bit(nn.Linear):
    """Called as bitsandbytes calls its own."""


@pytest.mark.parametrize(
    "layer",
    [
        lambda: torch.ao.nn.quantized.dynamic.Linear(2, 2),
        lambda: torch.ao.nn.quantized.Linear(2, 2),
        lambda: torch.ao.nn.quantized.Conv2d(3, 8, 4),
        lambda: Linear4bit(2, 2),
    ],
    ids=["dynamic", "static", "convolution", "4 bits"],
)
def test_what_is_quantised_is_found_by_its_class(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = layer()
    told = why_no_gradient(nn.Sequential(nn.Linear(2, 2), made))
    assert told is not None
    assert f"(1 is {type(made).__module__}.{type(made).__name__})" in told


def test_what_is_not_quantised_is_not_blamed():
    assert why_no_gradient(timm_vit()) is None
    assert why_no_gradient(timm_vit().half()) is None
    assert why_no_gradient(nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3))) is None
