"""Methods that read gradients, with rules in place of derivatives, against a forward that is written out by them."""

import pytest
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from captum_vit import DAAM, GenericRelevance
from captum_vit.errors import OptionError
from tests.conversion import to_hf
from tests.helpers import assert_close, hf_vit, images, relative_error, timm_vit
from tests.reference import explicit
from tests.reference.explicit import Attention
from tests.reference.test_formulas import DIFFERENT, SIZE, TARGET, World

NEAR = 1e-9


def part(x: Tensor, share: float) -> Tensor:
    """x, of whose gradient a share is handed on."""
    return share * x + ((1 - share) * x).detach()


def norm(x: Tensor, layer: nn.LayerNorm, held: bool) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return centred / (deviation.detach() if held else deviation) * layer.weight + layer.bias


def forward(w: World, rules: str, *, norms: bool = True, gates: bool = True) -> tuple[Tensor, list[Attention]]:
    """Scores and every block's attention, whose way back is that of CP-LRP ("cp") or AttnLRP ("attn")."""
    model, half = w.model, 0.5 if rules == "attn" else 1.0
    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(w.images)))
    x, blocks = x.detach().requires_grad_(), []
    for block in model.blocks:
        n = norm(x, block.norm1, norms)
        q, k, v = block.attn.qkv(n).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        s = part(q, half) @ part(k, half).mT * block.attn.scale
        a = s.softmax(-1)
        a = a.detach().requires_grad_() if rules == "cp" else a
        o = part(a, half) @ part(v, half)
        blocks.append(Attention(s, a, v, o, n))
        x = x + block.attn.proj(o.transpose(1, 2).flatten(2))
        hidden = block.mlp.fc1(norm(x, block.norm2, norms))
        gate = 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + block.mlp.fc2(hidden * (gate.detach() if gates else gate))
    read = norm(x[:, 0], model.norm, norms) if w.rows == [0] else norm(x[:, 1:].mean(1), model.fc_norm, norms)
    return model.head(read), blocks


def by_daam(w: World, blocks: list[Attention], grads: list[Tensor], *, signed: bool = False) -> Tensor:
    if not signed:
        return w.grid(explicit.daam(blocks, grads, w.rows))
    of_weights = [g @ b.v.mT for b, g in zip(blocks, grads, strict=True)]
    return w.grid(explicit.signed_daam(blocks, of_weights, w.rows))


def by_relevance(w: World, blocks: list[Attention], grads: list[Tensor]) -> Tensor:
    fused = [(b.a * (g @ b.v.mT)).clamp(min=0).mean(1) for b, g in zip(blocks, grads, strict=True)]
    return w.grid(explicit.relevance(fused, w.start))


EQUATIONS = {
    "daam": (DAAM, {}, by_daam),
    "daam, signed": (DAAM, {"signed": True}, lambda *given: by_daam(*given, signed=True)),
    "generic relevance": (GenericRelevance, {}, by_relevance),
}


def at_outputs(w: World, rules: str, **broken: bool) -> tuple[list[Attention], list[Tensor]]:
    """Every block's attention, and what stands in the place of the gradient at its output."""
    scores, blocks = forward(w, rules, **broken)
    return blocks, explicit.gradients(scores.gather(1, TARGET[:, None]), [b.o for b in blocks])


@pytest.mark.parametrize("readout", ["class", "mean"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_equation_under_rules(equation, readout):
    method, options, expected = EQUATIONS[equation]
    w = World(readout)
    assert_close(forward(w, "attn")[0].detach(), w.scores.detach(), NEAR)
    found = {
        rules: method(w.model).attribute(w.images, TARGET, rules=rules, **options)
        for rules in ("none", "cp", "attn", "libra")
    }
    for rules in ("cp", "attn"):
        assert_close(found[rules], expected(w, *at_outputs(w, rules)), NEAR)
        assert relative_error(found[rules], found["none"]) > DIFFERENT
    assert_close(found["libra"], found["cp"], NEAR)  # where nothing is gated
    assert relative_error(found["cp"], found["attn"]) > DIFFERENT


def with_norms_of_derivatives(w: World) -> tuple[list[Attention], list[Tensor]]:
    return at_outputs(w, "attn", norms=False)


def with_gates_of_derivatives(w: World) -> tuple[list[Attention], list[Tensor]]:
    return at_outputs(w, "attn", gates=False)


def with_constant_attention(w: World) -> tuple[list[Attention], list[Tensor]]:
    return at_outputs(w, "cp")


def with_half_at_the_output(w: World) -> tuple[list[Attention], list[Tensor]]:
    blocks, grads = at_outputs(w, "attn")
    return blocks, [g / 2 for g in grads]


@pytest.mark.parametrize(
    "wrong",
    [with_norms_of_derivatives, with_gates_of_derivatives, with_constant_attention, with_half_at_the_output],
)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_near_misses_under_rules_differ(equation, wrong):
    method, options, expected = EQUATIONS[equation]
    w = World("class")
    found = method(w.model).attribute(w.images, TARGET, rules="attn", **options)
    assert relative_error(found, expected(w, *wrong(w))) > DIFFERENT


@pytest.mark.parametrize("rules", ["cp", "attn"])
@pytest.mark.parametrize("method", [DAAM, GenericRelevance])
def test_both_libraries_agree_under_rules(method, rules):
    ours, theirs = timm_vit().double(), hf_vit().double()
    theirs.load_state_dict(to_hf(ours.state_dict(), theirs))
    x = images(3).double()
    found = method(ours).attribute(x, 1, rules=rules)
    assert_close(method(theirs).attribute(x, 1, rules=rules), found, NEAR)
    each = [method(ours).attribute(one, 1, rules=rules) for one in x.split(1)]
    assert_close(torch.cat(each), found, NEAR)


@pytest.mark.parametrize("method", [DAAM, GenericRelevance])
def test_gated_mlps_tell_libra_from_cp(method):
    model, x = timm_vit(img_size=SIZE, mlp_layer=SwiGLUPacked).double(), images(2, SIZE).double()
    ours = method(model)
    cp, libra = (ours.attribute(x, TARGET, rules=rules) for rules in ("cp", "libra"))
    assert relative_error(libra, cp) > DIFFERENT


@pytest.mark.parametrize("method", [DAAM, GenericRelevance])
@pytest.mark.parametrize("rules", ["lrp", None, ["cp"]])
def test_rules_that_are_not_there(method, rules):
    with pytest.raises(OptionError, match="rules are one of none, cp, attn, libra, got"):
        method(timm_vit()).attribute(images(), 1, rules=rules)
