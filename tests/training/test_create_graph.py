"""Maps that keep their graph: their gradients by the model's parameters are those of finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import (
    AGCAM,
    CPLRP,
    DAAM,
    AttentionRollout,
    FinerCAM,
    GradCAM,
    GradientRollout,
    LeGrad,
    RawAttention,
    attr,
)
from captum_vit.attr.captum_methods import CaptumMethod
from captum_vit.attr.finding import find_method
from captum_vit.capture import GRADIENTS, Inputs, Run
from captum_vit.errors import OptionError
from captum_vit.targets import Contrast
from tests.helpers import CLASSES, adapt, hf_vit, images, timm_vit

MODELS: dict[str, Callable[..., nn.Module]] = {"timm": timm_vit, "hf": hf_vit}
OF_RULES = "puts in place of derivatives cannot be"
OF_WEIGHTS = "hold weights, and much of what is made of them, constant"
OF_CHANGED = "made of forwards of changed images"
OF_PATHS = "a mean over forwards of darkened images"
REFUSED = {
    **dict.fromkeys(["cp_lrp", "attn_lrp", "libragrad"], OF_WEIGHTS),
    "transformer_attribution": OF_RULES,
    **dict.fromkeys(["rise", "tis", "vitcx", "scorecam", "token_occlusion"], OF_CHANGED),
    **dict.fromkeys(["beyond_intuition", "transition_attention"], OF_PATHS),
}
OURS = {name: method for name, method in attr.METHODS.items() if not issubclass(method, CaptumMethod)}
OFFERED = {name: method for name, method in OURS.items() if name not in REFUSED}
OTHERS = {  # other ways to the same maps, and other models
    "daam, signed": (DAAM, timm_vit, {"signed": True}),
    "rollout, discarding": (AttentionRollout, timm_vit, {"discard_ratio": 0.5}),
    "rollout by the strongest head": (AttentionRollout, timm_vit, {"fusion": "max"}),
    "legrad, as it is read": (LeGrad, timm_vit, {"pooling": "readout"}),
    "peak attention": (RawAttention, timm_vit, {"kind": "peak"}),
    "gradcam, elementwise": (GradCAM, timm_vit, {"weights": "elementwise"}),
    "of a mean over patches": (AGCAM, lambda: timm_vit(global_pool="avg", fc_norm=True), {}),
    "of an attention pool": (AGCAM, lambda: timm_vit(class_token=False, global_pool="map"), {}),
    "legrad of a pool": (LeGrad, lambda: timm_vit(class_token=False, global_pool="map"), {"pooling": "readout"}),
    "with registers": (GradientRollout, lambda: timm_vit(reg_tokens=4, no_embed_class=True, init_values=0.5), {}),
    "softmax in steps": (AGCAM, lambda: in_steps(timm_vit()), {}),
}


def in_steps(model: Any) -> nn.Module:
    """A model whose attention is no fused kernel."""
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


Ask = Callable[..., Tensor]


def asked(method: Any, x: Tensor, **options: Any) -> Tensor:
    return method.attribute(x, 1 if method.class_specific else None, **options)


def flow(method: Any, x: Tensor, **options: Any) -> Tensor:
    return method.attribute_flow(x, 1 if method.class_specific else None, **options)


def classes(method: Any, x: Tensor, **options: Any) -> Tensor:
    """Of numbers of several kinds, of which a function of all that the model gives has a run of its own."""
    others = [] if isinstance(method, FinerCAM) else [Contrast(2, 0), of_all]  # it compares classes
    return method.attribute_classes(x[:1], [1, 0, *others], **options)


def of_all(output: Any) -> Tensor:
    return getattr(output, "logits", output)[:, 2].square()


def differences(method: Any, x: Tensor, step: float = 1e-5, asked: Ask = asked, **options: Any) -> tuple[float, float]:
    """The derivative of a weighed sum of maps along a direction of all parameters: by the graph, and by differences."""
    weights = [p for p in method.adapter.model.parameters() if p.requires_grad]
    maps = asked(method, x, create_graph=True, **options)
    draw = torch.Generator().manual_seed(3)
    toll = torch.randn(maps.shape, generator=draw, dtype=maps.dtype)
    way = [torch.randn(p.shape, generator=draw, dtype=p.dtype) * p.detach().abs().mean() for p in weights]
    found = torch.autograd.grad((maps * toll).sum(), weights, allow_unused=True)
    ours = sum(float((g * d).sum()) for g, d in zip(found, way, strict=True) if g is not None)

    def at(place: float) -> float:
        with torch.no_grad():
            for p, d in zip(weights, way, strict=True):
                p.add_(d, alpha=place)
            value = float((asked(method, x, **options) * toll).sum())
            for p, d in zip(weights, way, strict=True):
                p.sub_(d, alpha=place)
        return value

    near, far = at(step / 2) - at(-step / 2), at(step) - at(-step)
    return ours, (8 * near - far) / (6 * step)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("method", OFFERED.values(), ids=OFFERED)
def test_the_gradient_is_that_of_finite_differences(method: Any, build: Any):
    ours, theirs = differences(method(build().double()), images().double())
    assert theirs != 0
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


@pytest.mark.parametrize(("method", "build", "options"), OTHERS.values(), ids=OTHERS)
def test_so_it_is_on_other_ways(method: Any, build: Any, options: dict):
    ours, theirs = differences(method(build().double()), images().double(), **options)
    assert theirs != 0
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


WAYS = {
    f"{name}, {ask.__name__}": (method, ask)
    for name, method in OFFERED.items()
    for ask in (flow, classes)
    if ask is flow or method.class_specific
}


@pytest.mark.parametrize(("method", "ask"), WAYS.values(), ids=WAYS)
def test_so_it_is_of_flows_and_of_several_classes(method: Any, ask: Ask):
    """In every slice, since each has weights of its own in the sum; by steps too short to cross the kink of a relu."""
    ours, theirs = differences(method(timm_vit().double()), images().double(), 1e-6, ask)
    assert theirs != 0
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


@pytest.mark.parametrize("ask", [flow, classes])
@pytest.mark.parametrize("method", [AGCAM, GradCAM, LeGrad])
def test_flows_and_classes_are_the_same_with_a_graph(method: Any, ask: Ask):
    model, x = hf_vit().double(), images().double()
    before, kept = ask(method(model), x), ask(method(model), x, create_graph=True)
    assert kept.requires_grad
    assert not before.requires_grad
    torch.testing.assert_close(kept.detach(), before, rtol=1e-9, atol=1e-9 * before.abs().max().item())
    assert all(p.grad is None for p in model.parameters())


class LastAlone(AGCAM):
    """AGCAM whose flow has a graph in its last slice alone."""

    def _maps(self, run: Run, target: Any, *, flow: bool) -> Tensor:
        maps = super()._maps(run, target, flow=flow)
        return torch.cat([maps[:, :-1].detach(), maps[:, -1:]], 1)


@pytest.mark.xfail(strict=True, reason="slices before the last have no graph")
def test_a_flow_without_the_graph_of_a_slice_would_be_seen():
    ours, theirs = differences(LastAlone(timm_vit().double()), images().double(), asked=flow)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


class FirstAlone(AGCAM):
    """AGCAM with the graph of the first of several classes alone."""

    def _class_maps(self, run: Run, targets: Any, *, flow: bool, **options: Any) -> Any:
        for part in super()._class_maps(run, targets, flow=flow, **options):
            yield torch.cat([part[:1], part[1:].detach()])


@pytest.mark.xfail(strict=True, reason="classes after the first have no graph")
def test_classes_without_the_graph_of_one_would_be_seen():
    ours, theirs = differences(FirstAlone(timm_vit().double()), images().double(), asked=classes)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


class ConstantGate(AGCAM):
    """AGCAM that lets go of a part of its graph."""

    def _maps(self, run: Run, target: Any, *, flow: bool) -> Tensor:
        with torch.no_grad():
            known = super()._maps(run, target, flow=flow)
        maps = super()._maps(run, target, flow=flow)
        return known + (maps - known) / 2


@pytest.mark.xfail(strict=True, reason="a part of the graph is missing")
def test_a_missing_part_would_be_seen():
    ours, theirs = differences(ConstantGate(timm_vit().double()), images().double())
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)


@pytest.mark.parametrize("ask", [asked, flow, classes])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_is_refused(name: str, ask: Ask):
    with pytest.raises(OptionError, match=REFUSED[name]):
        ask(OURS[name](timm_vit()), images(), create_graph=True)


@pytest.mark.parametrize("ask", [asked, classes])
def test_so_it_is_of_a_model_that_no_adapter_knows(ask: Ask):
    net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    assert ask(CPLRP(net), images()).shape[2:] == (4, 4)
    with pytest.raises(OptionError, match=OF_WEIGHTS):
        ask(CPLRP(net), images(), create_graph=True)


def test_rules_are_refused_and_so_are_captums_own():
    with pytest.raises(OptionError, match=OF_RULES):
        DAAM(timm_vit()).attribute(images(), 1, rules="cp", create_graph=True)
    with pytest.raises(OptionError, match="Captum lets go of the graph"):
        find_method("Saliency")[1](timm_vit()).attribute(images(), 1, create_graph=True)


def test_a_run_with_a_graph_tells_nothing_without_one():
    """So that no method of anybody's can be differentiated in part."""
    run = Run(adapt(timm_vit()), Inputs(images()), create_graph=True)
    with pytest.raises(OptionError, match="weights of projections"):
        run.output_weights(["blocks.0.attn"])
    with pytest.raises(OptionError, match="many forwards of changed images"):
        run.score(images())


def test_a_frozen_model_is_refused_and_a_part_of_one_is_trained():
    model = timm_vit().requires_grad_(False)
    with pytest.raises(OptionError, match="no parameter of this VisionTransformer asks for gradients"):
        DAAM(model).attribute(images(), 1, create_graph=True)
    model.double().blocks[-1].requires_grad_(True)
    ours, theirs = differences(DAAM(model), images().double())
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)
    assert all(p.grad is None for p in model.parameters())


def test_a_flag_is_a_flag():
    with pytest.raises(OptionError, match="create_graph"):
        AGCAM(timm_vit()).attribute(images(), 1, create_graph="yes")


def test_what_an_owner_cuts_out_is_asked_on_the_grid():
    class Cropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = timm_vit()

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x[:, :, 4:-4, 4:-4])

    method, x = AGCAM(Cropped()), images(size=(40, 40))
    assert method.attribute(x, 1, create_graph=True).requires_grad
    with pytest.raises(OptionError, match="output_shape='grid'"):
        method.attribute(x, 1, output_shape="spatial", create_graph=True)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("method", [AGCAM, DAAM, GradCAM, GradientRollout, LeGrad, AttentionRollout])
def test_without_it_nothing_is_held_and_nothing_changes(method: Any, build: Any):
    model, x = build(), images()
    before = asked(method(model), x)
    kept = asked(method(model), x, create_graph=True)
    after = asked(method(model), x)
    assert torch.equal(before, after)
    assert not before.requires_grad
    assert kept.requires_grad
    torch.testing.assert_close(kept.detach(), before, rtol=1e-4, atol=1e-5 * before.abs().max().item())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["agcam", "daam", "gradcam", "legrad", "rollout"])
def test_in_train_mode_dropout_is_drawn_once(name: str):
    """The gradient is that of the map with these very draws, and the process's numbers stay where they are."""
    model = timm_vit(proj_drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2, pos_drop_rate=0.2).double().train()
    method, x = OURS[name](model), images().double()
    state = torch.get_rng_state()
    first = asked(method, x, create_graph=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(asked(method, x, create_graph=True), first)
    ours, theirs = differences(method, x)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=0)
    model(x)
    assert not torch.equal(asked(method, x, create_graph=True), first), "other draws by now"


def test_map_and_scores_of_a_step_see_the_same_dropout():
    model = timm_vit(proj_drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2, pos_drop_rate=0.2).double().train()
    x = images().double()
    with Run(adapt(model), Inputs(x), {GRADIENTS}, create_graph=True) as run:
        seen = run.scores
    torch.testing.assert_close(model(x).detach(), seen)
    assert seen.shape == (2, CLASSES)
    assert not torch.allclose(model(x), seen)


def test_one_forward_does():
    model, ran = timm_vit(), []
    method = AGCAM(model)
    asked(method, images())  # the model is examined once
    model.norm_pre.forward = lambda x: ran.append(len(x)) or x
    asked(method, images())  # and anew, since somebody had a hand in it
    ran.clear()
    asked(method, images(), create_graph=True).sum().backward()
    assert ran == [2]
