"""A supported ViT inside somebody's own module, and models that are refused."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ViTForImageClassification, ViTModel

from captum_vit import AGCAM, DAAM, AttentionRollout, Readout, adapt
from captum_vit.capture import Inputs, measure_readout, untouched
from tests.helpers import (
    CLASSES,
    METHODS,
    WIDTH,
    assert_close,
    explain,
    general_path,
    hf_vit,
    images,
    randomise,
    timm_vit,
)


def probe(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(timm_vit(num_classes=0), randomise(nn.Sequential(*layers), 5)).eval()


class Lightning(nn.Module):
    """A training module around a model, with what such modules carry besides."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.loss, self.model, self.metric = nn.CrossEntropyLoss(), model, nn.BatchNorm1d(3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.model(batch)


class FrozenBackbone(nn.Module):
    """A classifier whose backbone is frozen and runs without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm_vit(num_classes=0).requires_grad_(False)
        self.head = randomise(nn.Linear(WIDTH, CLASSES), 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


class MeanOfPatches(nn.Module):
    """A head of one's own on the patches of a Hugging Face backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = hf_vit(ViTModel), randomise(nn.Linear(WIDTH, CLASSES), 5)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixel_values=pixels).last_hidden_state[:, 1:].mean(1))


class WithPatchMap(nn.Module):
    """Returns the scores and, beside them, the patches' features on their grid."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = timm_vit(num_classes=0), randomise(nn.Linear(WIDTH, CLASSES), 5)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.backbone.forward_features(x)
        grid = tokens[:, 1:].reshape(len(x), 4, 4, WIDTH)
        return self.head(tokens[:, 0]), grid


class ScaledByAllTokens(nn.Module):
    """Reads the class token, divided by a constant that all tokens have a say in."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = timm_vit(num_classes=0), randomise(nn.Linear(WIDTH, CLASSES), 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.backbone.forward_features(x)
        return self.head(tokens[:, 0] / tokens.detach().square().sum((1, 2))[:, None].sqrt())


class ResizesFirst(nn.Module):
    """Takes images of any size and brings them to the backbone's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(nn.functional.interpolate(x, (32, 32), mode="bilinear"))


NESTED = {
    "linear": (lambda: probe(nn.Linear(WIDTH, CLASSES)), Readout((0,))),
    "batch-norm": (lambda: probe(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)), Readout((0,))),
    "lightning": (lambda: Lightning(timm_vit()).eval(), Readout((0,))),
    "lightning-hf": (lambda: Lightning(hf_vit()).eval(), Readout((0,))),
    "frozen": (FrozenBackbone, Readout((0,))),
    "mean-of-patches": (MeanOfPatches, Readout((), patches=True)),
    "average-pool": (lambda: Lightning(timm_vit(global_pool="avg")).eval(), Readout((), patches=True)),
    "with-patch-map": (WithPatchMap, Readout((0,))),
    "scaled": (ScaledByAllTokens, Readout((0,))),
    "resizes": (lambda: ResizesFirst(timm_vit()), Readout((0,))),
    "two-deep": (lambda: nn.Sequential(Lightning(timm_vit(num_classes=0)), nn.Linear(WIDTH, 1)).eval(), Readout((0,))),
}


@pytest.fixture(params=NESTED)
def nested(request) -> tuple[nn.Module, Readout]:
    build, readout = NESTED[request.param]
    return build(), readout


def test_readout_is_measured(nested):
    model, readout = nested
    with untouched(adapt(model)):
        assert measure_readout(adapt(model), Inputs(images())) == readout


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(nested, method):
    model, _ = nested
    maps = explain(method(model), images(), target=0)
    assert maps.shape == (2, 1, 4, 4)
    assert torch.isfinite(maps).all()
    assert maps.abs().max() > 0
    assert_close(torch.cat([explain(method(model), x[None], target=0) for x in images()]), maps)


def test_replay_is_the_general_path(nested):
    model, _ = nested
    ours = AGCAM(model)
    assert_close(ours.attribute(images(), 0), general_path(ours, images(), 0))
    assert_close(ours.attribute_classes(images(1))[:1], general_path(ours, images(1), 0))


@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_a_constant_made_of_all_tokens_keeps_its_value(method):
    model = ScaledByAllTokens()
    plain = nn.Sequential(model.backbone, model.head)
    with torch.no_grad():
        size = model.backbone.forward_features(images()).square().sum((1, 2)).sqrt()
    assert_close(explain(method(model), images()), explain(method(plain), images()) / size[:, None, None, None])


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_backbone_is_the_same_model(method):
    model = FrozenBackbone()
    plain = nn.Sequential(model.backbone, model.head)
    assert_close(explain(method(model), images()), explain(method(plain), images()))


def test_layer_names_are_those_of_the_outer_module(nested):
    model, _ = nested
    modules = dict(model.named_modules())
    for name, layer in adapt(model).attention_layers().items():
        assert modules[name] is layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "wrap", [Lightning, nn.DataParallel, ResizesFirst, nn.Sequential, lambda m: nn.DataParallel(Lightning(m))]
)
@pytest.mark.parametrize("build", [timm_vit, hf_vit, lambda: timm_vit(global_pool="avg")])
def test_a_wrapper_changes_nothing(build, wrap, method):
    model = build()
    assert_close(explain(method(wrap(model).eval()), images()), explain(method(model), images()), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_probe_is_the_model_with_that_head(method):
    whole, headless = timm_vit(), timm_vit(num_classes=0)
    head = nn.Linear(WIDTH, CLASSES)
    head.load_state_dict(whole.head.state_dict())
    headless.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("head")})
    assert_close(explain(method(nn.Sequential(headless, head)), images()), explain(method(whole), images()), 1e-6)


class MeanTimm(VisionTransformer):
    """A timm ViT with a pooling of its own, which its settings do not show."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x[:, 1:].mean(1))


class MeanHF(ViTForImageClassification):
    """The same for Hugging Face."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(self.vit(pixel_values).last_hidden_state[:, 1:].mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_with_a_head_of_its_own_is_measured(method):
    plain = timm_vit(global_pool="avg", fc_norm=False)
    assert_close(explain(method(timm_vit(kind=MeanTimm)), images()), explain(method(plain), images()))
    hf, outer = MeanHF(hf_vit().config).eval(), MeanOfPatches()
    outer.encoder.load_state_dict(hf.vit.state_dict(), strict=False)  # it has a pooler besides
    outer.head.load_state_dict(hf.classifier.state_dict())
    assert_close(explain(method(hf), images()), explain(method(outer), images()))


@pytest.mark.parametrize("method", METHODS)
def test_compiled_models(method):
    expected = explain(method(timm_vit()), images())
    in_place = timm_vit()
    in_place.compile(backend="eager")
    for model in (torch.compile(timm_vit(), backend="eager"), in_place, torch.compile(timm_vit())):
        assert_close(explain(method(model), images()), expected, 1e-6)
        assert_close(explain(method(nn.Sequential(model)), images()), expected, 1e-6)
    hf = torch.compile(hf_vit(), backend="eager")
    assert_close(explain(method(hf), images()), explain(method(hf_vit()), images()), 1e-6)
    part = timm_vit()
    part.blocks[1] = torch.compile(part.blocks[1], backend="eager")
    assert_close(explain(method(part), images()), expected, 1e-6)


def test_a_compiled_model_still_runs_compiled_after():
    ran = []

    def backend(graph, inputs):
        ran.append(graph)
        return graph.forward

    model = torch.compile(timm_vit(), backend=backend)
    AGCAM(model).attribute(images(), 1)
    assert not ran
    model(images())
    assert ran


@pytest.mark.parametrize("method", METHODS)
def test_unfused_models_give_the_same_maps_and_stay_unfused(method):
    unfused = timm_vit()
    for block in unfused.blocks[:2]:  # mixed settings, too
        block.attn.fused_attn = False
    assert_close(explain(method(unfused), images()), explain(method(timm_vit()), images()))
    assert [block.attn.fused_attn for block in unfused.blocks] == [False, False, True]
    eager = ViTForImageClassification._from_config(hf_vit().config, attn_implementation="eager")
    eager.load_state_dict(hf_vit().state_dict())
    assert_close(explain(method(eager.eval()), images()), explain(method(hf_vit()), images()))
    assert eager.config._attn_implementation == "eager"
    assert eager.vit.layers[0].attention.config._attn_implementation == "eager"


def enable_checkpointing(model: nn.Module, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing(method):
    timm = timm_vit()
    timm.set_grad_checkpointing(True)
    assert_close(explain(method(timm), images()), explain(method(timm_vit()), images()), 1e-6)
    assert timm.grad_checkpointing
    for reentrant in (True, False):
        hf = hf_vit().train()  # without dropout; checkpointing acts in train mode only
        enable_checkpointing(hf, reentrant)
        assert_close(explain(method(hf), images()), explain(method(hf_vit()), images()), 1e-6)
        assert all(layer.gradient_checkpointing for layer in hf.vit.layers)


def test_the_same_vit_under_two_names_is_one():
    model = nn.Sequential(Lightning(timm_vit(num_classes=0)), nn.Linear(WIDTH, CLASSES))
    expected = AttentionRollout(model).attribute(images())
    model[0].alias = nn.ModuleDict({"backbone": model[0].model})
    assert_close(AttentionRollout(model).attribute(images()), expected, 1e-6)


def test_train_mode_batch_norm_is_measured_too():
    model = probe(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)).train()
    assert AGCAM(model).attribute(images(4), 1).shape == (4, 1, 4, 4)
