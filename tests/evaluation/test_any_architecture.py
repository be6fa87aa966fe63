"""Evaluations of models that no adapter knows: the methods that apply are scored, and what cannot be is refused."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.transforms import Compose, Resize, ToTensor
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from captum_vit import CPLRP, Explainer, GradCAM
from captum_vit.data import open_data
from captum_vit.errors import RunError, UnsupportedModelError
from captum_vit.evaluation import BASELINES, Evaluator
from captum_vit.evaluation.seeing import see
from captum_vit.metrics import named_metric
from tests.cli.helpers import run
from tests.helpers import assert_close, randomise

SWIN = {"num_labels": 8, "image_size": 64, "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4}
KIN = {
    "gradcam",
    "gradcam_plus_plus",
    "hirescam",
    "xgradcam",
    "layercam",
    "eigencam",
    "eigengradcam",
    "finercam",
    "cdam",
}
REFUSED = {
    "faithfulness": "has no tokens that are known",
    "perturbation:tokens": "has no tokens that are known",
    "traits:artifacts": "has no tokens that are known",
    "sanity:randomisation": "weights are drawn anew by blocks of attention",
}


def convnext(**changes) -> nn.Module:
    return randomise(timm.create_model("test_convnext", num_classes=8, **changes)).eval()


def small(side: int) -> Explainer:
    return Explainer(convnext(), preprocess=Compose([Resize((side, side)), ToTensor()]))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return small(64)


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("swin")
    randomise(SwinForImageClassification(SwinConfig(**SWIN))).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return f"hf/{folder}"


def evaluator(explainer: Explainer, metrics: list[str], methods=("gradcam", "cp_lrp"), **options) -> Evaluator:
    asked = [named_metric(name) for name in metrics]
    return Evaluator(explainer, open_data("sample:3"), methods, asked, target="predicted", **options)


def test_rows_hold_each_method_at_its_own_cells(explainer):
    asked = evaluator(explainer, ["localization", "perturbation"], keep_maps=True)
    asked.rehearse()
    rows = asked([0, 2])
    assert [(row["item"], row["method"]) for row in rows] == [(i, m) for i in (0, 2) for m in ("gradcam", "cp_lrp")]
    assert not any("error" in row for row in rows)
    assert all(np.isfinite([row["iou"], row["abpc"]]).all() for row in rows)
    model = explainer.loaded.model
    for row in rows:
        x = explainer.preprocess(asked.data[row["item"]].image)[None]
        alone = {"gradcam": GradCAM, "cp_lrp": CPLRP}[row["method"]](model).attribute(x, row["prediction"])
        assert row["grid"] == list(alone.shape[2:])
        assert_close(torch.tensor(row["map"]).double(), alone.flatten().double(), 2e-3)  # rows keep half precision
    assert rows[0]["grid"] != rows[1]["grid"], "the last grid is not the stem's"


def test_all_are_those_that_apply(explainer):
    asked = evaluator(explainer, ["localization"], "all")
    assert set(asked.entries) == KIN | {"cp_lrp", "attn_lrp", "libragrad"} | set(BASELINES)
    with pytest.raises(UnsupportedModelError, match="without attention over image patches"):
        evaluator(explainer, ["localization"], ["agcam"])


def test_what_the_model_itself_accounts_for_is_scored(explainer):
    row = evaluator(explainer, ["traits:completeness"], ["cp_lrp"])([0])[0]
    assert row["completeness_error"] == pytest.approx(0, abs=1e-4)
    assert row["completeness_map"] > 1e-3, "biases hold the rest"


@pytest.mark.parametrize("metric", REFUSED)
def test_what_asks_for_patches_or_blocks_is_refused_with_the_reason(explainer, metric):
    with pytest.raises(RunError, match=f"fails on a grey image already.*{REFUSED[metric]}"):
        evaluator(explainer, [metric], ["cp_lrp"]).rehearse()


def test_pixels_beside_the_last_whole_cell_do_not_count():
    """A stem of strides of 4 sees 48 of 50 pixels; the last grid, of 32, sees others, and is no map beside it."""
    explainer = small(50)
    one = see(0, open_data("sample:1")[0], None, explainer)
    assert one.cover == (48, 48)
    assert not one.valid[48:].any()
    rows = evaluator(explainer, ["localization"])([0])
    assert "iou" in rows[1]
    assert "lie on different parts of the image" in rows[0]["error"]


def test_the_command_evaluates(swin, tmp_path):
    asked = ["--data", "sample:2", "--methods", "gradcam,attn_lrp,random", "--metrics", "localization"]
    result = run("evaluate", "--model", swin, *asked, "--target", "predicted", "--out", tmp_path / "out")
    for name in ("gradcam", "attn_lrp", "random"):
        assert name in result.stdout
    assert (tmp_path / "out" / "leaderboard.csv").exists()
