"""Conserving gradients against what the authors' programs print, and against sums written down step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import CPLRP, AttnLRP, LibraGrad
from captum_vit.access import adapt
from captum_vit.capture import PIXEL_GRADIENTS, Inputs, Rules, Run, UnderRules, cp_rules
from captum_vit.capture.ruled import Call
from captum_vit.targets import as_target
from tests.helpers import assert_close, relative_error
from tests.reference.published import arrays, vit

GAMMA = (0.25, 0.05)
MAPS: list[tuple[Any, dict[str, Any], str, str]] = [  # options, arrays over tokens and over pixels
    (CPLRP, {}, "cp_lrp_tokens_explicit", "cp_lrp"),
    (CPLRP, {"gamma": GAMMA}, "", "cp_lrp_gamma_all_linear_explicit"),
    (AttnLRP, {}, "attn_lrp_tokens_explicit", "attn_lrp_explicit"),
    (AttnLRP, {}, "attn_lrp_tokens_lxt_explicit_eps0", "attn_lrp_lxt_explicit_eps0"),
    (LibraGrad, {}, "libragrad_ixg_tokens_S0", "libragrad_ixg_pixels_S0"),
    (LibraGrad, {"score": "probability"}, "libragrad_ixg_tokens_S1", "libragrad_ixg_pixels_S1"),
]
# other constants: lxt divides by z + 1e-10, and its explicit program by 1e-6 without a sign
APART = {"attn_lrp_tokens_lxt_explicit_default_eps", "attn_lrp_lxt_explicit_default_eps"}
OTHERS = {"transformer_attribution", "generic_relevance"}


def asked(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    given = arrays("expected")
    return vit(dtype), given["images"].to(dtype), given["targets"]


def test_every_array_is_looked_at():
    compared = {name for *_, tokens, pixels in MAPS for name in (tokens, pixels)} - {""}
    assert set(arrays("relevance")) == compared | APART | OTHERS | {"cp_lrp_gamma"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("method", "options", "tokens", "pixels"), MAPS, ids=[pixels for *_, pixels in MAPS])
def test_maps(method, options, tokens, pixels, dtype, tolerance):
    model, images, targets = asked(dtype)
    found = method(model).attribute(images, targets, output_shape="input", **options)
    assert_close(found.sum(1).double(), arrays("relevance")[pixels], tolerance)
    if tokens:
        patches = arrays("relevance")[tokens][:, 1:].unflatten(1, (1, 8, 8))
        assert_close(method(model).attribute(images, targets, **options).double(), patches, tolerance)


def test_gamma_in_the_layers_that_the_program_sees():
    """Attention's projections are no modules of their own there, and so go without."""
    model, images, targets = asked(torch.float64)
    spared = {id(weight) for block in model.blocks for weight in (block.attn.qkv.weight, block.attn.proj.weight)}
    sizes = {
        tuple(weight.shape) for block in model.blocks for weight in (block.attn.qkv.weight, block.attn.proj.weight)
    }
    assert len(spared) == 8
    with_gamma, without = cp_rules(GAMMA).table, cp_rules().table

    def linear(call: Call) -> Tensor:
        weight = call.argument(1, "weight")
        return (without if tuple(weight.shape) in sizes else with_gamma)["linear"](call)

    rules = Rules("the program's", {**with_gamma, "linear": linear})
    run = Run(adapt(model), Inputs(images), {UnderRules(rules, PIXEL_GRADIENTS)})
    found = (run.under(rules).pixel_gradients(as_target(targets)) * images).sum(1)
    assert_close(found, arrays("relevance")["cp_lrp_gamma"], 1e-6)
    assert relative_error(found, arrays("relevance")["cp_lrp_gamma_all_linear_explicit"]) > 0.1


@pytest.mark.parametrize("name", sorted(APART))
def test_the_programs_own_constants_are_near(name):
    model, images, targets = asked(torch.float64)
    if "tokens" in name:
        found = AttnLRP(model).attribute(images, targets).flatten(1)
        expected = arrays("relevance")[name][:, 1:]
    else:
        found, expected = (
            AttnLRP(model).attribute(images, targets, output_shape="input").sum(1),
            arrays("relevance")[name],
        )
    assert 1e-6 < relative_error(found, expected) < 0.05
