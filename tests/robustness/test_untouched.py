"""The model, the input and torch's state are exactly as before after every method, in every circumstance."""

from contextlib import nullcontext, suppress

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTForImageClassification

from captum_vit import AGCAM, RawAttention
from tests.fingerprint import changes, fingerprint
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


def eager_hf(**changes) -> ViTForImageClassification:
    model = ViTForImageClassification._from_config(hf_vit(**changes).config, attn_implementation="eager")
    return randomise(model)


def unfused_timm(**changes) -> nn.Module:
    model = timm_vit(**changes)
    for block in model.blocks[::2]:
        block.attn.fused_attn = False
    return model


def with_gradients() -> nn.Module:
    model = timm_vit()
    model(images()).square().sum().backward()
    return model


def frozen() -> nn.Module:
    return timm_vit().requires_grad_(False)


def partly_training() -> nn.Module:
    model = timm_vit(proj_drop_rate=0.3, drop_path_rate=0.3)
    model.blocks[1].train()
    return model


def batch_norm_in_training() -> nn.Module:
    head = randomise(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)))
    model = nn.Sequential(timm_vit(num_classes=0), head)
    model[1][0].train()
    return model


def with_hooks() -> nn.Module:
    model = timm_vit()
    for module in (model, model.blocks[0], model.blocks[1].attn):
        module.register_forward_pre_hook(lambda *_: None)
        module.register_forward_hook(lambda *_: None, always_call=True)
        module.register_forward_hook(lambda *_, **__: None, with_kwargs=True)
        module.register_state_dict_post_hook(lambda *_: None)
    model.blocks[2].register_full_backward_hook(lambda *_: None)  # further down, torch warns of inputs without gradient
    model.blocks[2].register_full_backward_pre_hook(lambda *_: None)
    return model


def checkpointed_timm() -> nn.Module:
    model = timm_vit().train()
    model.set_grad_checkpointing(True)
    return model


def checkpointed_hf() -> nn.Module:
    model = eager_hf().train()
    for layer in model.vit.layers:
        layer.gradient_checkpointing = True
    return model


def built_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return timm_vit()


MODELS = {
    "timm": timm_vit,
    "timm-unfused": unfused_timm,
    "timm-with-gradients": with_gradients,
    "timm-frozen": frozen,
    "timm-dropout": lambda: timm_vit(proj_drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3).train(),
    "timm-partly-training": partly_training,
    "timm-with-hooks": with_hooks,
    "timm-checkpointed": checkpointed_timm,
    "timm-inference": built_in_inference_mode,
    "timm-float64": lambda: timm_vit().double(),
    "timm-bfloat16": lambda: timm_vit().bfloat16(),
    "hf": hf_vit,
    "hf-eager": eager_hf,
    "hf-dropout": lambda: eager_hf(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train(),
    "hf-checkpointed": checkpointed_hf,
    "batch-norm-training": batch_norm_in_training,
    "data-parallel": lambda: nn.DataParallel(unfused_timm()),
    "compiled": lambda: torch.compile(unfused_timm(), backend="eager"),
}
CONTEXTS = {
    "plain": nullcontext,
    "no-grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no-grad-autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def batch(model: nn.Module, count: int = 3) -> Tensor:
    return images(count).to(next(model.parameters()).dtype)


# where a graph begins inside a block that somebody listens to on the way back, torch says so to him
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_models_are_untouched(name, method):
    model = MODELS[name]()
    x = batch(model)
    before = fingerprint(model, x)
    maps = explain(method(model), x)
    assert not changes(before, fingerprint(model, x))
    assert torch.isfinite(maps).all()
    assert maps.abs().max() > 0
    flow = method(model).attribute_flow(x, [0, 1, 2] if method.class_specific else None)
    assert not changes(before, fingerprint(model, x))
    for found in (maps, flow):
        assert not found.requires_grad
        assert not found.is_inference()


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["timm", "timm-unfused", "timm-frozen", "hf-eager", "timm-inference", "timm-dropout"])
def test_contexts_are_left_as_they_were(name, method, context):
    model, x = MODELS[name](), images()
    expected = None if name == "timm-dropout" else explain(method(model), x)
    with CONTEXTS[context](), torch.no_grad() if context == "no-grad-autocast" else nullcontext():
        before = fingerprint(model, x)
        maps = explain(method(model), x)
        assert not changes(before, fingerprint(model, x))
    if expected is not None:
        assert_close(maps, expected, 0.5 if "autocast" in context else 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_other_entries_leave_the_model_alone(method):
    model, x = unfused_timm(), images(1)
    before = fingerprint(model, x)
    if method is AGCAM:
        method(model).attribute_classes(x)
        general_path(method(model), x, 1)
    if method is RawAttention:
        method(model).attribute_heads(x)
    assert not changes(before, fingerprint(model, x))


def inference_input() -> Tensor:
    with torch.inference_mode():
        return images() + 0


def leaf_input() -> Tensor:
    x = images().requires_grad_()
    x.square().sum().backward()
    return x


INPUTS = {
    "inference": inference_input,
    "leaf": leaf_input,
    "in-a-graph": lambda: leaf_input() * 2,
    "not-contiguous": lambda: images().permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
    "expanded": lambda: images(1).expand(2, -1, -1, -1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("build", [timm_vit, hf_vit])
def test_inputs_are_untouched(build, name, method):
    model, x = build(), INPUTS[name]()
    before = fingerprint(model, x)
    maps = explain(method(model), x)
    assert not changes(before, fingerprint(model, x))
    assert_close(maps, explain(method(model), x.detach().clone()), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_as_if_nothing_had_happened(method):
    """The gradients of a step, also one whose forward stands before the explanation or under the same autocast."""

    def step(explained: bool) -> list[Tensor]:
        model, x = timm_vit(), images()
        ours = method(model)
        with torch.autocast("cpu", torch.bfloat16):
            early = model(x).float().square().sum()
            if explained:
                explain(ours, x)
            late = model(x.flip(3)).float().square().sum()
        (early + late).backward()
        return [p.grad for p in model.parameters()]

    for plain, after in zip(step(False), step(True), strict=True):
        assert torch.equal(plain, after)


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_first_in_autocast_costs_no_gradient(method):
    model, x = timm_vit(), images()
    with torch.autocast("cpu", torch.bfloat16):
        explain(method(model), x)
        loss = model(x).float().square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


class Bomb(nn.Module):
    """Goes off at its n-th call."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at, self.calls = inner, at, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("bang")
        return self.inner(*args, **kwargs)


PLACES = {
    "timm-mlp": (unfused_timm, lambda model: (model.blocks[1], "mlp")),
    "timm-attention": (unfused_timm, lambda model: (model.blocks[1].attn, "proj")),
    "timm-head": (unfused_timm, lambda model: (model, "head")),
    "hf-mlp": (eager_hf, lambda model: (model.vit.layers[1], "mlp")),
    "hf-attention": (eager_hf, lambda model: (model.vit.layers[1].attention, "o_proj")),
    "dropout": (MODELS["timm-dropout"], lambda model: (model.blocks[2], "mlp")),
    "batch-norm": (batch_norm_in_training, lambda model: (model[1], "1")),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at", [1, 2])
def test_an_exception_in_the_middle_leaves_nothing_behind(place, method, at):
    build, find = PLACES[place]
    model = build()
    owner, name = find(model)
    bomb = Bomb(getattr(owner, name), at)
    setattr(owner, name, bomb)
    ours, x = method(model), images()
    before = fingerprint(model, x)
    if at == 2:  # where one explanation needs one forward, the second call belongs to the next
        with suppress(RuntimeError):
            explain(ours, x)
    if bomb.calls < at:
        with pytest.raises(RuntimeError, match="bang"):
            explain(ours, x)
    assert bomb.calls >= at
    bomb.calls = 0
    assert not changes(before, fingerprint(model, x))
    if not model.training and not any(module.training for module in model.modules()):
        bomb.at = 0
        setattr(owner, name, bomb.inner)
        assert_close(explain(ours, x), explain(method(model), x), 1e-6)
