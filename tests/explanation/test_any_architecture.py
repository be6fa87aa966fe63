"""Explanations by models that no adapter knows, from a photograph to a page."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor, pipeline

import captum_vit.pipelines  # noqa: F401 - registers the task
from captum_vit import explain, inspect, load_model
from captum_vit.access import TokenLayout
from captum_vit.access.any_model import AnyModel
from captum_vit.capture import Inputs, placed_layout
from captum_vit.errors import OptionError, UnsupportedModelError
from captum_vit.explanation.grids import finest, placed
from tests.cli.helpers import run
from tests.helpers import assert_close
from tests.reference.test_any_model import plain_net

SWIN = {"num_labels": 5, "image_size": 64, "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4}


def noise(width: int = 120, height: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_convnext", num_classes=7).eval()


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("swin")
    SwinForImageClassification(SwinConfig(**SWIN)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return f"hf/{folder}"


def test_a_picture_is_explained_at_the_cells_of_the_stem(convnext):
    found = explain(noise(), convnext)
    assert found.methods == ("attn_lrp",)
    assert found.grid == (40, 40)
    assert found.attributions[0].layers == ("stem.0",)
    assert found.attributions[0].flow.shape == (1, 40, 40)
    assert found.view.window == pytest.approx((20, 0, 100, 80), abs=3)  # the middle square, as timm's transforms cut it
    (told,) = (note for note in found.notes if "the map sums to" in note)
    assert told.startswith("AttnLRP: class")


def test_maps_of_several_grids_lie_on_the_finest(convnext):
    found = explain(noise(), convnext, method=["gradcam", "cp_lrp"], target=3)
    assert found.grid == (40, 40)
    inputs = explain_inputs(convnext)
    from captum_vit.attr import CPLRP, GradCAM

    coarse = GradCAM(convnext).attribute(inputs, 3)
    assert coarse.shape == (1, 1, 5, 5)
    enlarged = torch.nn.functional.interpolate(coarse, (40, 40), mode="bilinear", align_corners=False)[0, 0]
    by_method = {a.method: a.map for a in found.attributions}
    assert_close(by_method["gradcam"], enlarged, 1e-5)
    assert_close(by_method["cp_lrp"], CPLRP(convnext).attribute(inputs, 3)[0, 0], 1e-5)
    whole = explain(noise(), convnext, method="all", target=3)
    assert {"attn_lrp", "gradcam", "eigencam", "finercam"} <= set(whole.methods)
    assert not {"agcam", "rollout", "raw_attention"} & set(whole.methods)


def explain_inputs(model: nn.Module) -> torch.Tensor:
    from captum_vit.explanation.explaining import Explainer

    return Explainer(model).see(noise()).inputs.unsqueeze(0)


def test_a_chosen_layer_is_that_of_all_methods(convnext):
    found = explain(noise(), convnext, method=["gradcam", "cp_lrp"], layer="stages.1")
    assert {a.layers for a in found.attributions} == {("stages.1",)}
    assert found.grid == (20, 20)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"method": "agcam"}, OptionError, "agcam cannot be drawn: it reads attention or tokens"),
        ({"removals": True}, UnsupportedModelError, "has no tokens that are known"),
        ({"attention": True}, UnsupportedModelError, "without attention over image patches"),
    ],
)
def test_what_needs_tokens_is_refused(convnext, asked, error, message):
    with pytest.raises(error, match=message):
        explain(noise(), convnext, **asked)


def test_a_verdict_says_what_was_not_tested(convnext):
    torch.manual_seed(1)
    loaded = load_model("timm/test_convnext", pretrained=False)
    found = explain(noise(), loaded, method=["attn_lrp", "gradcam"], verdict=True)
    verdict = found.attributions[0].verdict
    assert verdict.finding == "untested"
    assert verdict.reason.startswith("ConvNeXt has no tokens that are known")
    assert verdict.sum == pytest.approx(
        float(found.attributions[0].map.sum()) / score_of(loaded.model, found), rel=1e-4
    )
    assert found.untrained


def score_of(model: nn.Module, found) -> float:
    with torch.no_grad():
        return float(model(explain_inputs(model))[0, found.attributions[0].target.index])


def test_maps_of_different_parts_of_the_image_are_no_one_explanation():
    whole = TokenLayout((4, 4), 0, (8.0, 8.0))
    part = TokenLayout((5, 5), 0, (6.0, 6.0))
    assert finest([whole, TokenLayout((8, 8), 0, (4.0, 4.0))], (32, 32)).grid == (8, 8)
    told = replace(whole, image_size=(32, 32))  # as a ViT within another module says it
    assert finest([told, whole], (32, 32)) is told
    with pytest.raises(OptionError, match="lie on different parts"):
        finest([told, whole], (64, 64))
    assert placed(torch.ones(1, 1, 4, 4), TokenLayout((8, 8), 0, (4.0, 4.0))).shape == (1, 1, 8, 8)
    with pytest.raises(OptionError, match="4x4 and 5x5 cells lie on different parts"):
        finest([whole, part], (32, 32))


def test_margins_that_no_cell_sees_are_left_out():
    found = explain(torch.randn(3, 34, 48), plain_net().float(), method="cp_lrp", target=1)
    assert found.grid == (8, 12)
    assert found.view.window == (0, 0, 48, 32)


def test_inspect_tells_which_methods_apply(convnext, swin):
    told = inspect(convnext)
    assert told.methods["attn_lrp"] is None
    assert told.methods["gradcam"] is None
    assert told.methods["agcam"] == "it reads attention or tokens"
    assert told.found["cells"] == "40 x 40 at stem.0"
    assert told.found["last grid"] == "5 x 5 at norm_pre"
    assert "cells    40 x 40 at stem.0" in str(told)
    net = plain_net()
    net[3] = nn.Softmax2d()
    assert inspect(net.float(), (32, 48)).methods["gradcam"] is None
    odd = plain_net()
    odd[3] = Cosine()
    refused = inspect(odd.float(), (32, 48)).methods
    assert "none for the function cos" in refused["cp_lrp"]
    assert refused["hirescam"] is None
    text = run("inspect", swin).stdout
    assert "attention runs in windows" in text
    assert "cells    16 x 16 at swin.embeddings.patch_embeddings.projection" in text


class Cosine(nn.Module):
    def forward(self, x):
        return x + torch.cos(x)


def test_the_command_explains(swin, tmp_path):
    noise().save(tmp_path / "p.png")
    out = tmp_path / "out"
    result = run("explain", tmp_path / "p.png", "--model", swin, "--method", "cp_lrp", "--out", out)
    assert "CP-LRP: LABEL_" in result.stderr
    assert "of its score of" in result.stderr
    assert (out / "p" / "report.html").exists()


def test_where_patches_lie_is_not_told_before_a_method_is_asked(convnext):
    with pytest.raises(UnsupportedModelError, match="its maps tell where they lie"):
        placed_layout(AnyModel(convnext), Inputs(torch.randn(1, 3, 96, 96)))


def test_the_pipeline_explains(swin):
    pipe = pipeline("image-attribution", model=swin[3:])
    (best, *_) = pipe(noise(), top_k=2)
    assert best["grid"].shape == (16, 16)
    assert best["map"].shape == (80, 120)
    several = pipe([noise(), noise(60, 60)], method="gradcam", batch_size=2)
    assert [each[0]["grid"].shape for each in several] == [(8, 8), (8, 8)]
    with pytest.raises(UnsupportedModelError, match="in windows"):
        pipe(noise(), method="agcam")
