"""LeGrad and Grad-ECLIP against what published programs print, and their formulas for each kind of attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm.models.cait import Cait
from torch import Tensor, nn

from captum_vit import Embedding, GradECLIP, LeGrad
from captum_vit.errors import OptionError, UnsupportedModelError
from tests.families.open_clip import tower
from tests.families.timm_models import torchvision_vit
from tests.helpers import (
    CLASSES,
    HEADS,
    PATCH,
    SIZE,
    WIDTH,
    assert_close,
    hf_vit,
    images,
    randomise,
    relative_error,
    timm_vit,
)
from tests.reference.published import arrays, clip_tower, vit
from tests.reference.written_out import Step, written_out

EXACT = 1e-10
TARGET = 3
Map = Callable[[Tensor], Tensor]


# what is published


@pytest.mark.parametrize(("layer", "name"), [(None, "all"), ([-2, -1], "last2")])
def test_the_mean_of_tokens_as_torchcam_has_it(layer, name):
    given, found = arrays("expected"), arrays("layers")
    expected = found[f"legrad_torchcam_{name}"]
    ours = LeGrad(vit(torch.float64), layer)
    maps = ours.attribute(given["images"].double(), given["targets"])[:, 0] / len(ours.layer_names)
    assert_close(maps, expected, EXACT)
    stretched = maps - maps.amin((1, 2), keepdim=True)
    stretched = stretched / (stretched.amax((1, 2), keepdim=True) + 1e-8)
    assert_close(stretched, found[f"legrad_torchcam_{name}_normalised"], EXACT)
    single = LeGrad(vit(), layer).attribute(given["images"], given["targets"])[:, 0] / len(ours.layer_names)
    assert_close(single.double(), expected)
    other = LeGrad(vit(), layer).attribute(given["images"], (given["targets"] + 1) % 10)[:, 0]
    assert relative_error(other.double(), expected * len(ours.layer_names)) > 1e-2


def test_the_class_token():
    given, expected = arrays("expected"), arrays("layers")["legrad_classtoken_layers_explicit"]
    model, x, target = vit(torch.float64), given["images"].double(), given["targets"]
    assert_close(LeGrad(model).attribute_flow(x, target, pooling="readout"), expected.cumsum(1), EXACT)
    some = LeGrad(model, layer=[0, 2]).attribute_flow(x, target, pooling="readout")
    assert_close(some, expected[:, [0, 2]].cumsum(1), EXACT)
    single = LeGrad(vit()).attribute_flow(given["images"], target, pooling="readout")
    assert_close(single.double(), expected.cumsum(1))
    assert relative_error(LeGrad(model).attribute_flow(x, target), expected.cumsum(1)) > 1e-2


@pytest.mark.parametrize("text", range(3))
@pytest.mark.parametrize(("layer", "name"), [(None, "all"), ([-2, -1], "last2")])
def test_the_authors_program_for_clip(layer, name, text):
    found = arrays("clip/expected")
    target = Embedding(found["text_embeddings"][text])
    layers = found[f"legrad_{name}_layers_explicit"][:, text]
    ours = LeGrad(clip_tower(torch.float64), layer)
    assert_close(ours.attribute_flow(found["images"].double(), target), layers.cumsum(1), EXACT)
    maps = ours.attribute(found["images"].double(), target, output_shape="spatial")[:, 0]
    stretched = maps - maps.amin((1, 2), keepdim=True)
    assert_close(stretched / stretched.amax((1, 2), keepdim=True), found[f"legrad_{name}"][:, text], EXACT)
    single = LeGrad(clip_tower(), layer).attribute_flow(found["images"], target)
    assert_close(single.double(), layers.cumsum(1))


# the formula, by autograd through attention that is written out


@dataclass(frozen=True)
class Case:
    """A model; `blocks`, after which tokens are read; `head`, from these (and all streams) to the scores."""

    build: Callable[[], Any]
    head: Callable[[Any, Tensor, Sequence[Tensor]], Tensor]
    blocks: Callable[[Any], Sequence[nn.Module]] = lambda m: m.blocks
    pool: bool = False
    tolerance: float = 1e-9


def timm_head(model: Any, x: Tensor, _: Any) -> Tensor:
    return model.forward_head(model.norm(x))


def hf_head(model: Any, x: Tensor, _: Any) -> Tensor:
    return model.classifier(model.vit.layernorm(x)[:, 0])


def unfused() -> nn.Module:
    model = timm_vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def eager() -> nn.Module:
    model = hf_vit()
    model.set_attn_implementation("eager")
    return model


def cait() -> nn.Module:
    settings = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}
    return randomise(Cait(num_classes=CLASSES, init_values=1.0, **settings))


CASES = {
    "fused": Case(timm_vit, timm_head),
    "step by step": Case(unfused, timm_head),
    "transformers": Case(hf_vit, hf_head, lambda m: m.vit.layers),
    "transformers, step by step": Case(eager, hf_head, lambda m: m.vit.layers, tolerance=1e-6),
    "torch's own": Case(
        torchvision_vit, lambda m, x, _: m.heads(m.encoder.ln(x)[:, 0]), lambda m: list(m.encoder.layers)
    ),
    "open_clip": Case(tower(), lambda m, x, _: m.ln_post(x[:, 0]) @ m.proj, lambda m: list(m.transformer.resblocks)),
    "mean of patches": Case(lambda: timm_vit(global_pool="avg", fc_norm=True), timm_head),
    "registers": Case(lambda: timm_vit(reg_tokens=4, no_embed_class=True), timm_head),
    "attention pool": Case(lambda: timm_vit(global_pool="map", class_token=False), timm_head, pool=True),
    "class blocks": Case(
        cait,
        lambda m, x, streams: m.head(m.norm(torch.cat([x, streams[1]], 1))[:, 0]),
        lambda m: [*m.blocks, *m.blocks_token_only],
    ),
}


def rectified(gradient: Tensor) -> Tensor:
    """The mean over heads and queries of its positive part: (B, keys)."""
    return gradient.clamp(min=0).mean((1, 2))


def legrad(case: Case, model: Any, x: Tensor, pooling: str, reduce: Map = rectified) -> list[Tensor]:
    """Of each layer, (B, keys)."""
    streams: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda m, a, out: streams.append(out)) for block in case.blocks(model)]
    with torch.enable_grad(), written_out(model) as steps:
        model(x.clone().requires_grad_())
        for hook in hooks:
            hook.remove()
        ran = list(steps)
        own = ran[: len(streams)] if len(ran) >= len(streams) else ran
        found = []
        for stream, step in zip(streams[len(streams) - len(own) :], own, strict=True):
            tokens = stream.mean(1, keepdim=True).expand_as(stream) if pooling == "mean" else stream
            steps.clear()
            score = case.head(model, tokens, streams)[:, TARGET].sum()
            node: Step = steps[0] if case.pool and pooling == "readout" else step
            found.append(reduce(torch.autograd.grad(score, node.a, retain_graph=True)[0]))
    return found


@pytest.fixture(params=CASES)
def case(request) -> Case:
    if request.param == "open_clip":
        pytest.importorskip("open_clip")
    return CASES[request.param]


def given(case: Case) -> tuple[Any, Tensor]:
    model = case.build().double()
    size = (
        (32, 48)
        if hasattr(model, "transformer")
        else (model.image_size,) * 2
        if hasattr(model, "encoder")
        else (SIZE,) * 2
    )
    return model, images(2, size).double()


@pytest.mark.parametrize("pooling", ["mean", "readout"])
def test_the_formula(case, pooling):
    model, x = given(case)
    flow = LeGrad(model).attribute_flow(x, TARGET, pooling=pooling)

    def flowing(layers: list[Tensor]) -> Tensor:
        patches = flow.shape[2] * flow.shape[3]
        return torch.stack([keys[:, -patches:] for keys in layers], 1).cumsum(1).unflatten(2, flow.shape[2:])

    assert_close(flow, flowing(legrad(case, model, x, pooling)), case.tolerance)

    def unrectified(gradient: Tensor) -> Tensor:
        return gradient.mean((1, 2))

    wrong = [
        flowing(legrad(case, model, x, pooling, unrectified)),
        flowing(legrad(case, model, x, "readout" if pooling == "mean" else "mean")),
    ]
    for other in wrong[: 1 if case.build is cait else 2]:  # whose class blocks give the class token alone
        assert relative_error(flow, other) > 1e-2


# patches that a text without an object lights up


@pytest.mark.parametrize("pooling", ["mean", "readout"])
def test_what_an_empty_prompt_lights_up(pooling):
    model = timm_vit(global_pool="map", class_token=False, num_classes=0).double()
    x, (text, nothing) = images(3).double(), images(1, (2, WIDTH)).double()[0, 0]
    ours = LeGrad(model)
    flow, lit = (ours.attribute_flow(x, Embedding(v), pooling=pooling) for v in (text, nothing))
    found = ours.attribute_flow(x, Embedding(text), pooling=pooling, empty=Embedding(nothing))

    def without(share: float, summed: Tensor = lit) -> Tensor:
        return torch.stack(
            [
                torch.stack([layer.where(n <= n.min() + share * (n.max() - n.min()), 0) for layer, n in pairs])
                for pairs in [list(zip(one, other, strict=True)) for one, other in zip(flow, summed, strict=True)]
            ]
        )

    assert_close(found, without(0.8), EXACT)
    alone = ours.attribute(x, Embedding(text), pooling=pooling, empty=Embedding(nothing))
    assert_close(alone, found[:, -1:], EXACT)
    each = torch.cat(
        [ours.attribute(one, Embedding(text), pooling=pooling, empty=Embedding(nothing)) for one in x.split(1)]
    )
    assert_close(alone, each, EXACT)
    assert relative_error(found, flow) > 1e-2
    assert relative_error(found, without(0.5)) > 1e-2
    by_layer = torch.cat([lit[:, :1], lit.diff(dim=1)], 1)
    assert relative_error(found, without(0.8, by_layer)) > 1e-2
    whole = (lit - lit.amin((0, 2, 3), keepdim=True)) / (lit - lit.amin((0, 2, 3), keepdim=True)).amax(
        (0, 2, 3), keepdim=True
    )
    assert relative_error(found, flow.where(whole <= 0.8, 0)) > 1e-2


def test_an_empty_target_that_has_a_run_of_its_own():
    model, x = timm_vit().double(), images().double()
    ours = LeGrad(model)
    by_number = ours.attribute(x, TARGET, empty=1)
    assert_close(ours.attribute(x, TARGET, empty=lambda scores: scores[:, 1]), by_number, EXACT)
    assert relative_error(ours.attribute(x, TARGET, empty=2), by_number) > 1e-2
    with pytest.raises(OptionError, match="empty is one target for all images"):
        LeGrad(timm_vit(num_classes=0)).attribute(
            images(), Embedding(torch.ones(WIDTH)), empty=Embedding(torch.ones(2, WIDTH))
        )


# Grad-ECLIP


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("text", range(3))
def test_grad_eclip_by_a_text(text, blocks):
    found = arrays("clip/expected")
    target, expected = (
        Embedding(found["text_embeddings"][text]),
        found[f"grad_eclip_multihead_explicit_n{blocks}"][:, text],
    )
    layer = None if blocks == 1 else [-2, -1]
    maps = GradECLIP(clip_tower(torch.float64), layer).attribute(found["images"].double(), target)[:, 0]
    assert_close(maps, expected, EXACT)
    assert_close(GradECLIP(clip_tower(), layer).attribute(found["images"], target)[:, 0].double(), expected)
    one_head = found[f"grad_eclip_program_n{blocks}"][:, text]  # another model than the one that is explained
    assert relative_error(maps, one_head) > 1e-2


def test_grad_eclip_by_a_class():
    given, expected = arrays("expected"), arrays("layers")["grad_eclip_multihead_explicit"]
    maps = GradECLIP(vit(torch.float64)).attribute(given["images"].double(), given["targets"])[:, 0]
    assert_close(maps, expected, EXACT)
    single = GradECLIP(vit()).attribute(given["images"], given["targets"])[:, 0]
    assert_close(single.double(), expected)


def grad_eclip(step: Step, gradient: Tensor, patches: int, *, by_head: bool = False) -> Tensor:
    """relu(sum_i lam_ij sum_k w_ik v_jk) over the queries i and the channels k of all heads: (B, patches)."""

    def merged(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def likeness(q: Tensor, k: Tensor) -> Tensor:
        cosine = (q @ k.mT) / (q.norm(dim=-1)[..., None] * k.norm(dim=-1)[..., None, :])
        cosine = cosine[..., -patches:]
        least, most = cosine.amin(-1, keepdim=True), cosine.amax(-1, keepdim=True)
        return (cosine - least) / (most - least)

    evidence = gradient @ step.v[:, :, -patches:].mT  # (B, H, M, P)
    if by_head:
        return (likeness(step.q, step.k) * evidence).sum((1, 2)).clamp(min=0)
    return (likeness(merged(step.q), merged(step.k)) * evidence.sum(1)).sum(1).clamp(min=0)


def test_the_formula_of_grad_eclip(case):
    model, x = given(case)
    targets = range(CLASSES)
    maps = torch.stack([GradECLIP(model).attribute(x, target)[:, 0] for target in targets]).flatten(2)
    right, wrong = [], []
    for target in targets:
        with torch.enable_grad(), written_out(model) as steps:
            output = model(x.clone().requires_grad_())
            score = getattr(output, "logits", output)[:, target].sum()
            (gradient,) = torch.autograd.grad(score, [steps[-1].o])
        step = Step(*(part.detach() for part in (steps[-1].q, steps[-1].k, steps[-1].v, steps[-1].a, steps[-1].o)))
        right.append(grad_eclip(step, gradient, maps.shape[2]))
        wrong.append(grad_eclip(step, gradient, maps.shape[2], by_head=True))
    assert_close(maps, torch.stack(right), case.tolerance)
    assert relative_error(maps, torch.stack(wrong)) > 1e-2


def test_scores_of_no_plain_product_are_refused():
    """Queries and keys whose product somebody shuffles are not those of the attention."""
    model = unfused()
    attention = model.blocks[-1].attn

    def shuffled(x: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = attention.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT).roll(1, 2) * attention.scale
        return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    attention.forward = shuffled
    with pytest.raises(UnsupportedModelError, match=r"compares queries and keys, and those of layer 'blocks\.2\.attn'"):
        GradECLIP(model).attribute(images(), 1)
