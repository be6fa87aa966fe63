"""What must hold of conserving gradients on any model: they keep the score, and say where it is."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from captum_vit import CPLRP, AttnLRP, LibraGrad
from captum_vit.attr import METHODS
from captum_vit.capture import LAYER_GRADIENTS, Inputs, Run, cp_rules
from captum_vit.capture.ruled import State
from captum_vit.errors import OptionError, UnsupportedModelError
from captum_vit.unusual import ModelNote
from tests.conversion import to_hf
from tests.families.table import FAMILIES
from tests.fingerprint import changes, fingerprint
from tests.helpers import assert_close, hf_vit, images, relative_error, timm_vit

RULED = [CPLRP, AttnLRP, LibraGrad]
NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES}


def pictures(count: int = 2, seed: int = 1) -> Tensor:
    return images(count, seed=seed).double()


def unbiased(model: nn.Module) -> nn.Module:
    """Nothing is added on the way any more."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
    return model


@pytest.mark.parametrize("name", NAMED)
def test_a_score_is_accounted_for(name):
    family = NAMED[name]
    model = family.build().double()
    x = family.batch(1).double()
    for method in RULED:
        ours = method(model)
        (told,) = ours.completeness(x, 1)
        assert told.error == pytest.approx(0, abs=1e-6 * max(1, abs(told.score)))
        assert ours.attribute(x, 1).sum().item() == pytest.approx(told.map, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", RULED)
def test_an_account_without_biases_does_not_close(method, monkeypatch):
    monkeypatch.setattr(State, "added", lambda self, x, name: x)
    (told,) = method(timm_vit().double()).completeness(pictures(1), 1)
    assert abs(told.error) > 1e-3


@given(seed=st.integers(0, 1000), target=st.integers(0, 6))
def test_without_biases_maps_sum_to_the_score(seed, target):
    model, x = unbiased(timm_vit(seed, class_token=False, global_pool="avg")).double(), pictures(2, seed)
    maps = CPLRP(model).attribute(x, target)
    scores = model(x)[:, target].detach()
    assert torch.allclose(maps.sum((1, 2, 3)), scores, rtol=1e-9, atol=1e-9)
    softmaxed = AttnLRP(model).attribute(x, target).sum((1, 2, 3))
    assert not torch.allclose(softmaxed, scores, rtol=1e-3), "a softmax keeps a part"


@pytest.mark.parametrize("method", RULED)
def test_both_libraries_agree(method):
    ours, theirs = timm_vit().double(), hf_vit().double()
    theirs.load_state_dict(to_hf(ours.state_dict(), theirs))
    for options in ({}, {"gamma": (0.25, 0.05)}, {"output_shape": "input"}):
        found = [method(model).attribute(pictures(), 1, **options) for model in (ours, theirs)]
        assert_close(*found, 1e-9)


@pytest.mark.parametrize("method", RULED)
def test_layers_share_the_map_out(method):
    model, x = timm_vit(global_pool="avg", fc_norm=True).double(), pictures()
    whole = method(model).attribute(x, 1)
    each = [method(model, layer).attribute(x, 1) for layer in range(3)]
    assert_close(sum(each), whole, 1e-9)
    assert_close(method(model, [0, 2]).attribute(x, 1), each[0] + each[2], 1e-9)
    assert_close(method(model).attribute_flow(x, 1).diff(dim=1), torch.cat(each[1:], 1), 1e-9)
    assert relative_error(each[0], whole) > 1e-2


def test_gates_tell_cp_from_libragrad():
    model = timm_vit(mlp_layer=SwiGLUPacked).double()
    cp, libra = (method(model).attribute(pictures(), 1) for method in (CPLRP, LibraGrad))
    assert relative_error(cp, libra) > 1e-2
    plain = timm_vit().double()
    assert_close(CPLRP(plain).attribute(pictures(), 1), LibraGrad(plain).attribute(pictures(), 1), 1e-12)


@pytest.mark.parametrize("output_shape", ["grid", "input"])
@pytest.mark.parametrize("method", RULED)
def test_nothing_is_left_behind(method, output_shape):
    model, x = timm_vit(), images()
    ours = method(model)
    before = fingerprint(model, x)
    ours.attribute(x, 1, output_shape=output_shape)
    ours.completeness(x, 1)
    assert changes(before, fingerprint(model, x)) == []


def test_at_the_pixels_a_batch_is_its_singles_and_classes_are_their_maps():
    model, x = timm_vit().double(), pictures(3)
    ours = AttnLRP(model)
    together = ours.attribute(x, [0, 1, 2], output_shape="input")
    each = [ours.attribute(x[i : i + 1], i, output_shape="input") for i in range(3)]
    assert together.shape == x.shape
    assert_close(together, torch.cat(each), 1e-9)
    several = ours.attribute_classes(x[:1], [0, 4], output_shape="input")
    assert_close(several[:1], each[0], 1e-9)


@pytest.mark.parametrize("gamma", [0.1, (0.1,), (-1.0, 0.1), ("a", 1), (True, 1), (float("nan"), 1)])
def test_gamma_is_two_numbers(gamma):
    with pytest.raises(OptionError, match="gamma is two numbers, 0 or more"):
        CPLRP(timm_vit()).attribute(images(), 1, gamma=gamma)


def test_score_is_one_of_two_words():
    with pytest.raises(OptionError, match="score is 'logit' or 'probability', got 'softmax'"):
        LibraGrad(timm_vit()).attribute(images(), 1, score="softmax")
    with pytest.raises(OptionError, match="the model gives features"):
        LibraGrad(timm_vit(num_classes=0)).attribute(images(), 1, score="probability")


class Softmaxed(nn.Module):
    """A model that ends in a softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(-1)


class Cosine(nn.Module):
    """An activation that no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.cos(x)


def test_models_that_rules_do_not_fit_are_refused():
    told = "scores come out of softmax, which is a constant under the rules"
    with pytest.warns(ModelNote, match="outputs are probabilities"), pytest.raises(UnsupportedModelError, match=told):
        CPLRP(Softmaxed(timm_vit())).attribute(images(), 1)
    odd = timm_vit()
    odd.blocks[1].mlp.act = Cosine()
    for method in RULED:
        with pytest.raises(UnsupportedModelError, match=f"{method.title} have none for the function cos"):
            method(odd).attribute(images(), 1)
    METHODS["daam"](odd).attribute(images(), 1)
    run = Run(METHODS["agcam"](timm_vit()).adapter, Inputs(images()))
    with pytest.raises(UnsupportedModelError, match="none under rules as those of CP-LRP"):
        run.under(cp_rules()).kept.forward({LAYER_GRADIENTS})


def test_any_gradient_can_be_asked_under_rules():
    """The gradient at attention, and at what layers are given, is the rules' too, and a run without stays as it was."""
    model, x = timm_vit().double(), pictures()
    run = Run(METHODS["agcam"](model).adapter, Inputs(x))
    plain, ruled = run.gradients(1), run.under(cp_rules()).gradients(1)
    assert plain.keys() == ruled.keys()
    assert all(relative_error(ruled[name], plain[name]) > 1e-2 for name in plain)
    assert run.under(cp_rules()) is run.under(cp_rules())
    assert run.under(None) is run
    replayed, held = run.held_gradients(1), run.under(cp_rules()).held_gradients(1)
    assert all(relative_error(held[name][:, :, :1], replayed[name]) > 1e-2 for name in list(held)[:-1])
    given_ = run.under(cp_rules()).given_gradients(1)
    assert all(torch.isfinite(gradient).all() for gradient in given_.values())


def test_train_mode_draws_as_others_do():
    model: Any = timm_vit(drop_rate=0.2, proj_drop_rate=0.2).train()
    torch.manual_seed(3)
    first = CPLRP(copy.deepcopy(model)).attribute(images(), 1)
    torch.manual_seed(3)
    assert torch.equal(first, CPLRP(model).attribute(images(), 1))
    assert relative_error(first, CPLRP(model.eval()).attribute(images(), 1)) > 1e-2
