"""The same weights as a timm model and as one of another library give the same maps."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from transformers import (
    DeiTForImageClassificationWithTeacher,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    ViTForImageClassification,
    ViTModel,
)

from captum_vit import AGCAM, DAAM, AttentionRollout, FeatureImportance, RawAttention
from tests.conversion import to_hf, to_open_clip, to_torchvision
from tests.helpers import (
    CLASSES,
    DEPTH,
    HEADS,
    METHODS,
    PATCH,
    SIZE,
    WIDTH,
    assert_close,
    explain,
    hf_vit,
    images,
    relative_error,
    timm_vit,
)
from tests.reference.test_perturbing import FEW

DINOV2 = {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.5}


class ClassAndMean(nn.Module):
    """DINOv2's linear head on a timm backbone, entered by forward_features."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.backbone.forward_features(x)
        return self.head(torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1))


def dinov2_with_head() -> tuple[nn.Module, nn.Module]:
    backbone, head = timm_vit(num_classes=0, **DINOV2), nn.Linear(2 * WIDTH, CLASSES)
    hf = hf_vit(Dinov2WithRegistersForImageClassification, num_register_tokens=4)
    hf.load_state_dict(to_hf(backbone.state_dict(), hf) | {f"classifier.{k}": v for k, v in head.state_dict().items()})
    return ClassAndMean(backbone, head).eval(), hf


def pair(timm: nn.Module, kind: type[nn.Module], **config: int) -> tuple[nn.Module, nn.Module]:
    hf = hf_vit(kind, seed=99, **config)
    weights = to_hf(timm.state_dict(), hf)
    missing, unexpected = hf.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("pooler.") for name in missing)  # ViTModel's, which DINO checkpoints lack
    return timm, hf


def torchvision_pair() -> tuple[nn.Module, nn.Module]:
    timm = timm_vit()
    other = torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=CLASSES)
    other.load_state_dict(to_torchvision(timm.state_dict()))
    return timm, other.eval()


def open_clip_pair() -> tuple[nn.Module, nn.Module]:
    """CLIP's tower without its first norm, and a timm model without the biases that it lacks."""
    transformer = pytest.importorskip("open_clip.transformer")
    timm = timm_vit()
    nn.init.zeros_(timm.patch_embed.proj.bias)
    nn.init.zeros_(timm.head.bias)
    norm = partial(transformer.LayerNorm, eps=1e-6)
    other = transformer.VisionTransformer(
        SIZE, PATCH, WIDTH, DEPTH, HEADS, 4.0, output_dim=CLASSES, no_ln_pre=True, norm_layer=norm
    )
    other.load_state_dict(to_open_clip(timm.state_dict()))
    return timm, other.eval()


PAIRS = {
    "vit": lambda: pair(timm_vit(), ViTForImageClassification),
    "deit": lambda: pair(timm_vit(kind=VisionTransformerDistilled), DeiTForImageClassificationWithTeacher),
    "dino": lambda: pair(timm_vit(num_classes=0), ViTModel),
    "dinov2": lambda: pair(timm_vit(num_classes=0, **DINOV2), Dinov2WithRegistersModel, num_register_tokens=4),
    "dinov2-classifier": dinov2_with_head,
    "torchvision": torchvision_pair,
    "open_clip": open_clip_pair,
}


@pytest.fixture(scope="module", params=PAIRS)
def twins(request) -> tuple[nn.Module, nn.Module]:
    return PAIRS[request.param]()


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_equal(twins, method):
    timm, hf = (method(model) for model in twins)
    assert_close(explain(timm, images()), explain(hf, images()))
    target = [1, 4] if method.class_specific else None
    assert_close(timm.attribute_flow(images(), target), hf.attribute_flow(images(), target))


@pytest.mark.parametrize("method", FEW)
def test_maps_of_changed_images_are_equal(twins, method):
    """In double precision: what is put into clusters must not lie between two of them."""
    found = [
        method(copy.deepcopy(model).double()).attribute(images().double(), [1, 4], score="logit", **FEW[method])
        for model in twins
    ]
    assert_close(*found, 1e-9)


@pytest.mark.parametrize("options", [{"fusion": "max"}, {"fusion": "min"}, {"discard_ratio": 0.5}])
def test_rollouts_are_equal(twins, options):
    timm, hf = (AttentionRollout(model).attribute(images(), **options) for model in twins)
    assert_close(timm, hf)


def test_heads_and_classes_are_equal(twins):
    timm, hf = twins
    for kind in ("class", "peak"):
        assert_close(*(RawAttention(model).attribute_heads(images(), kind=kind) for model in twins))
    assert_close(AGCAM(timm).attribute_classes(images(1)), AGCAM(hf).attribute_classes(images(1)))


@pytest.mark.parametrize("kind", ["dino", "dinov2"])
def test_self_supervised_maps_are_equal(kind):
    bank, labels = torch.randn(30, WIDTH), torch.randint(0, 3, (30,))
    for importance in (FeatureImportance(), FeatureImportance(bank, labels, k=5)):
        assert_close(*(DAAM(model).attribute(images(), target=importance) for model in PAIRS[kind]()))


@pytest.mark.parametrize("method", METHODS)
def test_one_changed_weight_is_seen(method):
    timm, hf = PAIRS["vit"]()
    with torch.no_grad():
        hf.vit.layers[1].attention.k_proj.weight[0] += 0.1
    assert relative_error(explain(method(timm), images()), explain(method(hf), images())) > 1e-4
