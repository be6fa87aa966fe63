"""Every map against what the authors' published programs print for the same weights and images."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import AGCAM, DAAM, AttentionRollout, FeatureImportance, GradientRollout, RawAttention
from tests.helpers import assert_close, general_path, relative_error
from tests.reference.published import arrays, vit

ELSEWHERE = {"transformer_attribution"}  # methods that the library does not have yet
NOT_MAPS = {"images", "targets", "logits", "bank", "bank_labels"}
DISPLAYED = {"daam_flow_uint8", "daam_flow_uint8_blocknorm", "ss_daam_flow_uint8"}  # drawn, see test_display
ROLLOUTS = [(fusion, ratio) for fusion in ("mean", "max", "min") for ratio in (0.0, 0.5, 0.9)]
RATIOS = [0.0, 0.9]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return arrays("expected")


@pytest.fixture
def model() -> VisionTransformer:
    return vit()


def test_every_array_is_looked_at(published):
    rollouts = {f"rollout_{fusion}_{ratio}" for fusion, ratio in ROLLOUTS}
    rollouts |= {f"gradient_rollout_{ratio}" for ratio in RATIOS}
    direct = {"agcam", "daam_blocks", "class_attention", "peak_attention"}
    direct.add("generic_relevance")  # see test_generic_relevance
    supervised_by_bank = {"ss_importance", "ss_predicted_label", "ss_daam_blocks"}
    assert set(published) == NOT_MAPS | ELSEWHERE | DISPLAYED | rollouts | direct | supervised_by_bank


def test_logits(model, published):
    with torch.no_grad():
        assert_close(model(published["images"]), published["logits"])


@pytest.mark.parametrize("way", [AGCAM.attribute, general_path])
def test_agcam(model, published, way):
    assert_close(way(AGCAM(model), published["images"], published["targets"]), published["agcam"])


def test_agcam_of_all_classes(model, published):
    for image, target, expected in zip(published["images"], published["targets"], published["agcam"], strict=True):
        assert_close(AGCAM(model).attribute_classes(image[None], "all")[target], expected)


def test_daam(model, published):
    flow = DAAM(model).attribute_flow(published["images"], published["targets"])
    assert_close(flow, published["daam_blocks"].cumsum(1))
    assert_close(flow.diff(dim=1), published["daam_blocks"][:, 1:])


@pytest.mark.parametrize(("fusion", "ratio"), ROLLOUTS)
def test_rollout(model, published, fusion, ratio):
    maps = AttentionRollout(model).attribute(published["images"], fusion=fusion, discard_ratio=ratio)
    assert_close(maps[:, 0], published[f"rollout_{fusion}_{ratio}"])


@pytest.mark.parametrize("ratio", RATIOS)
def test_gradient_rollout(model, published, ratio):
    maps = GradientRollout(model).attribute(published["images"], published["targets"], discard_ratio=ratio)
    assert_close(maps[:, 0], published[f"gradient_rollout_{ratio}"])


def test_class_attention(model, published):
    heads = RawAttention(model).attribute_heads(published["images"])
    assert_close(heads, published["class_attention"])
    assert_close(RawAttention(model).attribute_flow(published["images"]), published["class_attention"].mean(2))
    assert_close(RawAttention(model).attribute(published["images"])[:, 0], published["class_attention"][:, -1].mean(1))


def test_peak_attention(model, published):
    assert_close(RawAttention(model).attribute_flow(published["images"], kind="peak"), published["peak_attention"])


def test_self_supervised(model, published):
    model.reset_classifier(0)
    importance = FeatureImportance(published["bank"], published["bank_labels"])
    with torch.no_grad():
        features = model(published["images"])
    assert_close(importance.weights(features), published["ss_importance"])
    assert torch.equal(importance.predict(features), published["ss_predicted_label"])
    flow = DAAM(model).attribute_flow(published["images"], importance)
    assert_close(flow, published["ss_daam_blocks"].cumsum(1))


@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_another_class_gives_another_map(method, model, published):
    names = {AGCAM: "agcam", DAAM: "daam_blocks", GradientRollout: "gradient_rollout_0.9"}
    wrong = method(model).attribute(published["images"], (published["targets"] + 1) % 10)
    expected = published[names[method]].reshape(4, -1, 8, 8).sum(1, keepdim=True)
    assert relative_error(wrong, expected) > 1e-2


@pytest.mark.parametrize(("fusion", "ratio"), ROLLOUTS[1:])
def test_options_of_the_rollout_matter(model, published, fusion, ratio):
    maps = AttentionRollout(model).attribute(published["images"])
    assert relative_error(maps[:, 0], published[f"rollout_{fusion}_{ratio}"]) > 1e-2
