"""What a run is asked and what is done to the model meanwhile: the map is right, or the reason is told."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import ViTModel

import captum_vit
from captum_vit import AGCAM, DAAM, Contrast, GradientRollout, adapt
from captum_vit.capture import GRADIENTS, HELD_GRADIENTS, Inputs, Run, readout_of
from captum_vit.errors import OptionError, TargetError, UnsupportedModelError
from captum_vit.targets import Classes, Output, Target, as_target
from tests.helpers import assert_close, hf_vit, images, relative_error, timm_vit


def measured(model: nn.Module, x: Tensor) -> Tensor:
    """AGCAM's map of class 1 where nothing is taken for known: the target reads the model's own output."""
    return AGCAM(model).attribute(x, lambda output: output[:, 1])


def of_patches(output) -> Tensor:
    return output.last_hidden_state[:, 1:, 3].mean(1)


@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_targets_of_more_than_the_scores_among_several(method):
    ours, x = method(hf_vit(ViTModel)), images(1)
    maps = ours.attribute_classes(x, [of_patches, 1])
    assert_close(maps[:1], ours.attribute(x, of_patches))
    assert_close(maps[1:], ours.attribute(x, 1))


def test_the_models_output_is_whole():
    model, x = hf_vit(ViTModel), images(2)
    assert_close(Run(adapt(model), Inputs(x)).outputs.last_hidden_state, model(x).last_hidden_state.detach())
    label = captum_vit.explain(x[0], model, method="agcam", target=of_patches).targets[0]
    assert label.score == pytest.approx(of_patches(model(x[:1])).item(), rel=1e-4)


@pytest.mark.parametrize("way", ["gradients", "held_gradients"])
def test_a_run_of_the_scores_is_asked_about_more(way):
    model, x = hf_vit(ViTModel), images(2)
    measured_readout = readout_of(adapt(model), Inputs(x), as_target(of_patches))
    expected = getattr(Run(adapt(model), Inputs(x), readout=measured_readout), way)(of_patches)
    run = Run(adapt(model), Inputs(x), {GRADIENTS, HELD_GRADIENTS})
    assert run.readout.declared
    for name, gradient in getattr(run, way)(of_patches).items():
        assert_close(gradient, expected[name])


class Pooled(nn.Module):
    """Reads the class token, or the patches, as it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.by = timm_vit(), "class"

    def forward(self, x: Tensor, by: str = "") -> Tensor:
        tokens = self.vit.forward_features(x)
        return self.vit.head(tokens[:, 0] if (by or self.by) == "class" else tokens[:, 1:].mean(1))


@pytest.mark.parametrize("how", ["keyword", "position", "attribute"])
def test_what_a_score_is_read_from_may_change_with_the_call(how):
    model, x = Pooled().eval(), images(2)
    AGCAM(model).attribute(x, 1)  # by its class token
    ask = {"keyword": {"forward_kwargs": {"by": "mean"}}, "position": {"additional_forward_args": ("mean",)}}.get(
        how, {}
    )
    model.by = "mean" if how == "attribute" else model.by
    fresh = Pooled().eval()
    fresh.by = "mean"
    assert_close(AGCAM(model).attribute(x, 1, **ask), AGCAM(fresh).attribute(x, 1))


def test_two_hooks_that_edit_one_after_another():
    for _ in range(5):  # the second one's tensor may take the place of the first one's in memory
        model, x = timm_vit(), images(2)
        model.norm.register_forward_hook(lambda module, args, output: output.roll(1, 1))
        model.norm.register_forward_hook(lambda module, args, output: output + 0.5)
        assert_close(AGCAM(model).attribute(x, 1), measured(model, x))


def test_a_hook_that_writes_without_a_trace_is_told():
    def write(module: nn.Module, args: tuple, output: Tensor) -> None:
        output.data.mul_(1.5)

    model = timm_vit()
    model.blocks[1].register_forward_hook(write)
    with pytest.raises(
        UnsupportedModelError, match=r"a hook on Block in VisionTransformer writes where nothing sees it"
    ):
        AGCAM(model).attribute(images(2), 1)


def test_a_hook_on_every_module_of_the_process():
    model, x = timm_vit(), images(2)
    hook = register_module_forward_hook(lambda m, args, output: output.roll(1, 1) if m is model.norm else None)
    try:
        assert_close(AGCAM(model).attribute(x, 1), measured(model, x))
    finally:
        hook.remove()


@dataclass(frozen=True)
class Constant(Target):
    """A target without a gradient."""

    def score(self, output: Output) -> Tensor:
        return output.scores.detach()[:, 0]


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_targets_without_a_gradient(pooling):
    ours = AGCAM(timm_vit(global_pool=pooling))
    for targets in ([Constant(), 1], [Constant(), Constant()], [Constant()]):
        with pytest.raises(TargetError, match="the target Constant is cut off from the scores"):
            ours.attribute_classes(images(1), targets)


def test_a_target_is_not_changed_from_outside():
    given = [1, 2]
    target = Classes(given)
    given[0] = 5
    assert target.index == [1, 2]


def test_targets_of_each_image():
    model, x = timm_vit(), list(images(2))
    for method in ("agcam", "captum.attr:InputXGradient"):
        both = captum_vit.explain(x, model, method=method, target=Contrast([1, 2], [2, 1]))
        assert [e.targets[0].title for e in both] == ["1 rather than 2", "2 rather than 1"]
        alone = [captum_vit.explain(x[i], model, method=method, target=Contrast(1 + i, 2 - i)) for i in range(2)]
        for e, other in zip(both, alone, strict=True):
            assert_close(e.maps, other.maps, 1e-4)
    found = captum_vit.explain(x, model, target=Classes([1, 2]))
    assert [e.targets[0].index for e in found] == [1, 2]
    assert captum_vit.explain(x[0], model, target=[Classes(-1), 6]).targets[0].index == 6
    with pytest.raises(TargetError, match="target out of range: the model gives 7 scores"):
        captum_vit.explain(x[0], model, target=Classes(100))


class Dense(nn.Module):
    """Scores (N, 5, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit()

    def forward(self, x: Tensor) -> Tensor:
        return self.vit.forward_features(x)[:, 1:, :5].mT.unflatten(-1, (4, 4))


def test_dense_scores():
    model, x = Dense().eval(), images(2)
    maps = AGCAM(model).attribute(x, (1, 2, 3))
    assert_close(maps, AGCAM(model).attribute(x, lambda output: output[:, 1, 2, 3]))
    with pytest.raises(UnsupportedModelError, match=r"other tokens in image 1 .* explain one image at a time"):
        AGCAM(model).attribute(x, [(0, 0, 0), (1, 2, 3)])
    assert_close(AGCAM(model).attribute(x, [(1, 2, 3), (1, 2, 3)]), maps)
    assert captum_vit.explain(x[0], model, target=[(1, 2, 3)]).targets[0].name == "(1, 2, 3)"
    for target, text in (
        (1, "a target is a tuple of 3 indices"),
        (None, r"target is needed: the model gives scores \(\d, 5, 4, 4\)"),
    ):
        with pytest.raises(TargetError, match=text):
            captum_vit.explain(x[0], model, target=target)


CAPTUMS = {
    "Attribution": "it is no attribution by itself",
    "NoiseTunnel": "it is made of attribution_method, not of a model",
    "LayerGradCam": "it gives values of a layer",
    "Occlusion": "Occlusion needs the option sliding_window_shapes",
}


@pytest.mark.parametrize("name", CAPTUMS)
def test_attributions_of_captum_that_need_more(name):
    with pytest.raises(OptionError, match=CAPTUMS[name]):
        captum_vit.explain(images(1)[0], timm_vit(), method=f"captum.attr:{name}", target=1)


def test_an_attribution_of_another_model():
    with pytest.raises(OptionError, match="it was made of another model"):
        captum_vit.explain(images(1)[0], timm_vit(), method=Saliency(timm_vit(seed=3)), target=1)


def test_an_attribution_that_is_made_keeps_no_model_alive():
    model = timm_vit()
    alive = weakref.ref(model)
    captum_vit.explain(images(1)[0], model, method=IntegratedGradients(model), n_steps=2, target=1)
    del model
    gc.collect()
    assert alive() is None


class Centred(nn.Module):
    """Puts another buffer in place of its own, as DINO's head does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, 24))

    def forward(self, x: Tensor) -> Tensor:
        self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0, keepdim=True)
        return x - self.centre


def test_a_buffer_that_is_assigned_is_put_back():
    model = timm_vit()
    model.head = nn.Sequential(Centred(), model.head)
    model.train()
    before = model.head[0].centre
    AGCAM(model).attribute(images(2), 1)
    assert model.head[0].centre is before
    assert not before.any()


def test_a_wrong_readout_would_be_seen():
    model, x = timm_vit(global_pool="avg"), images(2)
    assert relative_error(measured(model, x), AGCAM(timm_vit()).attribute(x, 1)) > 1e-2
