"""What perturbation methods do beside their maps: draws, forwards, refusals, and where nothing is known."""

import re

import numpy as np
import pytest
import torch
from timm.models.xcit import Xcit
from torch import Tensor, nn

from captum_vit import RISE, TIS, Contrast, FeatureImportance, ScoreCAM, TokenOcclusion, ViTCX, explain, inspect
from captum_vit.attr import METHODS, find_method, in_all, vit_cx
from captum_vit.attr.clusters import clusters
from captum_vit.attr.perturbing import average
from captum_vit.capture import Run
from captum_vit.errors import LayerNotFoundError, OptionError, UnsupportedModelError
from captum_vit.explanation.explaining import Explainer
from captum_vit.models import load_model
from tests.fingerprint import changes, fingerprint
from tests.helpers import assert_close, hf_vit, images, randomise, relative_error, timm_vit

FEW = {RISE: {"masks": 5}, TIS: {"masks": 5}, ViTCX: {"distance": 0.15}, ScoreCAM: {}, TokenOcclusion: {"window": 2}}
DRAWN = [RISE, TIS, ViTCX]
every = pytest.mark.parametrize("method", FEW)


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """Rows of the forwards that a run was asked for."""
    found: list[int] = []

    def counting(name: str):
        asked = getattr(Run, name)

        def call(self, *args, **kwargs):
            answer = asked(self, *args, **kwargs)
            found.append(len(answer) if name == "on_images" else answer.shape[:2].numel())
            return answer

        monkeypatch.setattr(Run, name, call)

    counting("on_images")
    counting("on_tokens")
    return found


@pytest.mark.parametrize("method", DRAWN)
def test_a_seed_decides_the_map(method):
    ours, x = method(timm_vit()), images()
    maps = [ours.attribute(x, 1, seed=seed, **FEW[method]) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert relative_error(maps[2], maps[0]) > 1e-4


@every
def test_nothing_is_left_behind(method):
    model, x = timm_vit(), images()
    before, torch_state, numpy_state = fingerprint(model), torch.get_rng_state(), np.random.get_state()[1].copy()
    method(model).attribute(x, 1, **FEW[method])
    assert not changes(before, fingerprint(model))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


@every
def test_an_interrupt_leaves_nothing_behind(method, monkeypatch):
    model, x = timm_vit(), images()
    name = "on_tokens" if method in (TIS, TokenOcclusion) else "on_images"
    asked, calls = getattr(Run, name), []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return asked(self, *args, **kwargs)

    before = fingerprint(model)
    monkeypatch.setattr(Run, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        method(model).attribute(x, 1, batch=2, **FEW[method])
    assert not changes(before, fingerprint(model))


@every
def test_batches_of_any_size_give_the_same(method):
    ours, x = method(timm_vit().double()), images().double()
    one, many = (ours.attribute(x, [1, 4], batch=batch, **FEW[method]) for batch in (1, 100))
    assert_close(one, many, 1e-9)


@every
def test_targets_share_the_forwards(method, forwards):
    ours, x = method(timm_vit().double()), images(1).double()
    each = torch.cat([ours.attribute(x, target, **FEW[method]) for target in (1, 4, 2)])
    single = sum(forwards)
    forwards.clear()
    assert_close(ours.attribute_classes(x, [1, 4, 2], **FEW[method]), each, 1e-9)
    assert 3 * sum(forwards) == single


@pytest.mark.parametrize(
    ("method", "expected"), [(RISE, 5), (TIS, 5), (ScoreCAM, 24), (TokenOcclusion, 9 + 1), (ViTCX, None)]
)
def test_costs_in_forwards(method, expected, forwards, monkeypatch):
    masks: list[int] = []
    made = vit_cx.cluster_masks
    monkeypatch.setattr(vit_cx, "cluster_masks", lambda *a: masks.append(len(found := made(*a))) or found)
    method(timm_vit()).attribute(images(2), 1, **FEW[method])
    assert sum(forwards) == (sum(2 * count + 1 for count in masks) if expected is None else 2 * expected)


@pytest.mark.parametrize("method", [RISE, TIS, ViTCX, TokenOcclusion])
def test_a_contrast_is_the_difference(method):
    ours, x = method(timm_vit().double()), images().double()
    asked = {**FEW[method], "score": "logit"}
    there, back = (ours.attribute(x, Contrast(*pair), **asked) for pair in ((1, 4), (4, 1)))
    assert_close(there, -back, 1e-9)
    assert_close(there, ours.attribute(x, 1, **asked) - ours.attribute(x, 4, **asked), 1e-7)


def test_a_bar_is_drawn_on_request(capfd):
    ours, x = RISE(timm_vit()), images()
    quiet = ours.attribute(x, 1, masks=5)
    assert capfd.readouterr().err == ""
    assert torch.equal(ours.attribute(x, 1, masks=5, progress=True), quiet)
    assert "10/10" in capfd.readouterr().err


# where nothing is known


def test_a_place_that_no_mask_keeps_has_the_mean():
    numbers, masks = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    assert average(numbers, masks).tolist() == [[1.0, 2.0, 2.0]]
    assert (numbers.mT @ masks / masks.sum(0)).isnan().any()  # as the published program has it
    assert average(numbers[:0], masks[:0]).tolist() == [[0.0, 0.0, 0.0]]


class Blank(nn.Module):
    """Gives a constant in some channels."""

    def __init__(self, part: int) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x[..., : self.part]), x[..., self.part :]], -1)


@pytest.mark.parametrize("method", [ViTCX, ScoreCAM])
def test_constant_channels(method):
    model = timm_vit()
    model.blocks[-1].norm1 = nn.Sequential(model.blocks[-1].norm1, Blank(12))
    found = method(model, layer="blocks.2.norm1").attribute(images(), 1)
    assert torch.isfinite(found).all()
    assert found.any()
    assert vit_cx.cluster_masks(torch.ones(3, 16), 0.1).shape == (0, 16)


def test_clusters_of_one_and_of_all():
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 0.01], [0, 1]])
    assert clusters(rows, 0.1).tolist() == [0, 1, 0, 1]
    assert clusters(rows, 2.0).tolist() == [0, 0, 0, 0]
    assert clusters(rows[:1], 0.1).tolist() == [0]


# which number


def test_the_sigmoid_of_what_is_scored_for_itself():
    x, asked = images(), {"masks": 5}
    plain, several, alone = (
        hf_vit(),
        hf_vit(problem_type="multi_label_classification"),
        timm_vit(num_classes=1),
    )
    softmax, sigmoid = (RISE(plain).attribute(x, 1, score=score, **asked) for score in ("probability", "sigmoid"))
    assert relative_error(softmax, sigmoid) > 1e-2
    assert torch.equal(RISE(several).attribute(x, 1, **asked), sigmoid)
    by_hand = RISE(alone).attribute(x, lambda output: output[:, 0].sigmoid(), score="logit", **asked)
    assert_close(RISE(alone).attribute(x, **asked), by_hand, 1e-5)


def test_explain_knows_what_kind_of_scores_there_are():
    loaded = load_model("sample")
    x = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = explain(x, loaded, "rise", "cross", masks=4)
    assert found.options["rise"] == {"masks": 4, "score": "sigmoid"}
    own = RISE(loaded.model).attribute(x[None], found.targets[0].index, masks=4, score="sigmoid")
    assert_close(found.maps, own, 1e-5)
    assert Explainer(timm_vit(), preprocess=lambda image: x).ask(method="rise", masks=4).options["rise"] == {"masks": 4}


def test_features_are_no_probabilities():
    model, x = timm_vit(num_classes=0), images()
    with pytest.raises(OptionError, match="the model gives features: pass score='logit'"):
        RISE(model).attribute(x, FeatureImportance(), masks=4)
    assert RISE(model).attribute(x, FeatureImportance(), masks=4, score="logit").abs().max() > 0
    with pytest.raises(OptionError, match="is made of more than their scores: pass score='logit'"):
        RISE(timm_vit()).attribute(x, lambda output: output[:, 1], masks=4)


# where


class Cropping(nn.Module):
    """An owner that shows its model the middle of an image."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x[..., 4:36, 8:40])


@pytest.mark.parametrize("method", [TokenOcclusion, ViTCX, ScoreCAM])
def test_an_owner_that_crops(method):
    vit, x = timm_vit().double(), images(2, (40, 44)).double()
    asked = {**FEW[method], **({"occluder": "grey"} if method is TokenOcclusion else {"score": "logit"})}
    asked |= {"noise": 0.0} if method is ViTCX else {}
    inside = method(vit).attribute(x[..., 4:36, 8:40], 1, **asked)
    assert_close(method(Cropping(vit)).attribute(x, 1, **asked), inside, 1e-5)
    spatial = method(Cropping(vit)).attribute(x, 1, output_shape="spatial", **asked)
    assert spatial.shape == (2, 1, 40, 44)
    outside = torch.ones(40, 44, dtype=torch.bool)
    outside[4:36, 8:40] = False
    assert not spatial[..., outside].any()
    assert spatial[..., ~outside].any()


@pytest.mark.parametrize("method", [RISE, ViTCX])
def test_maps_of_pixels(method):
    ours, x = method(timm_vit()), images()
    grid, spatial, channels = (
        ours.attribute(x, 1, output_shape=shape, **FEW[method]) for shape in ("grid", "spatial", "input")
    )
    assert_close(nn.functional.avg_pool2d(spatial, 8), grid)
    assert_close(channels.sum(1, keepdim=True), spatial)
    assert channels.shape == x.shape
    enlarged = nn.functional.interpolate(grid, (32, 32), mode="bilinear")
    assert relative_error(spatial, enlarged) > 1e-2  # finer than the grid
    flow = ours.attribute_flow(x, 1, output_shape="spatial", **FEW[method])
    assert torch.equal(flow, spatial)


def test_what_does_not_apply():
    model, x = timm_vit(), images()
    for method in (RISE, TokenOcclusion):
        with pytest.raises(LayerNotFoundError, match="changes the input and reads no layer"):
            method(model, layer=1)
    for method, options, message in (
        (RISE, {"masks": 0}, "masks must be at least 1"),
        (RISE, {"keep": 0}, "keep must be above 0"),
        (RISE, {"seed": -1}, "seed must be at least 0"),
        (RISE, {"batch": 0}, "batch must be at least 1"),
        (RISE, {"score": "softmax"}, "score must be one of probability, sigmoid, logit"),
        (TIS, {"keep": 0.01}, "leaves none of 16 patches"),
        (TokenOcclusion, {"window": 4}, "does not leave a patch of a grid of 4 x 4"),
        (TokenOcclusion, {"occluder": "black"}, "occluder must be one of none, grey"),
        (ViTCX, {"distance": 3}, "distance must be between 0 and 2"),
    ):
        with pytest.raises(OptionError, match=message):
            method(model).attribute(x, 1, **options)


def test_where_patches_meet_in_convolutions_grey_applies():
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
    model = randomise(Xcit(**size))
    for method in (TIS, TokenOcclusion):
        with pytest.raises(UnsupportedModelError, match="cannot be left out"):
            method(model).attribute(images(), 1, **({"masks": 4} if method is TIS else {}))
    assert TokenOcclusion(model).attribute(images(), 1, window=3, occluder="grey").abs().max() > 0


# among the other methods


def test_all_leaves_out_what_is_costly():
    costly = {"rise", "tis", "vitcx", "scorecam", "token_occlusion"}
    assert {name for name, method in METHODS.items() if method.costly} == costly
    assert set(in_all()) == set(METHODS) - costly
    assert set(Explainer("sample").choose("all")) == set(in_all())
    assert find_method("ViT-CX")[1] is ViTCX
    told = str(inspect(timm_vit()))
    assert re.search("rise +yes, by name alone: 4000 forwards an image", told)
    assert Explainer("sample").choose(["all", "rise"]).keys() == {*in_all(), "rise"}
