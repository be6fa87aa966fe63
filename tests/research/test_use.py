"""How such models are used: other sizes, types, modes and wrappers, and nothing of them is changed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_vit import AGCAM, DAAM, AttentionRollout, RawAttention
from captum_vit.attr import METHODS
from captum_vit.errors import UnsupportedModelError
from tests.fingerprint import fingerprint
from tests.helpers import assert_close, explain
from tests.research.checks import TARGET, case
from tests.research.explicit import MAPS, run
from tests.research.layout import Layout
from tests.research.layouts import EXPLAINED

SOME = [
    "DINO",
    "DINOv2, in chunks",
    "BEiT",
    "Chefer",
    "einops",
    "AIM, pool",
    "baddbmm",
    "TransformerEncoder, tokens first",
]
some = pytest.mark.parametrize("layout", [EXPLAINED[name] for name in SOME], ids=SOME)
TOLERANCE = 1e-4  # in single precision


@some
@pytest.mark.parametrize("method", MAPS)
def test_single_precision_is_near(layout: Layout, method: str):
    known = case(layout)
    assert_close(
        explain(METHODS[method](layout.build()), known.x.float(), TARGET), known.map(method).float(), TOLERANCE
    )


@some
@pytest.mark.parametrize("method", MAPS)
def test_a_batch_equals_its_images(layout: Layout, method: str):
    known = case(layout)
    ours = METHODS[method](known.model)
    singles = torch.cat([explain(ours, known.x[i : i + 1], TARGET) for i in range(len(known.x))])
    assert_close(singles, known.map(method), layout.tolerance)


@some
@pytest.mark.parametrize("method", MAPS)
def test_a_flow_ends_with_the_map(layout: Layout, method: str):
    known = case(layout)
    ours = METHODS[method](known.model)
    flow = ours.attribute_flow(known.x, TARGET if ours.class_specific else None)
    assert_close(flow[:, -1:], known.map(method), layout.tolerance)
    assert flow.shape[1] == len(known.truth.steps)


@some
def test_layers_are_chosen_by_name_and_number(layout: Layout):
    known = case(layout)
    names = [step.name for step in known.truth.steps]

    def of(layer: Any) -> Tensor:
        return AGCAM(known.model, layer).attribute(known.x, TARGET)

    assert_close(of(0) + of(names[1:]), known.map("agcam"), layout.tolerance)
    assert_close(of(-1), of(names[-1]), layout.tolerance)


UNWRITTEN = [name for name in SOME if name != "Chefer"]  # whose attention keeps its weights


@pytest.mark.parametrize("name", UNWRITTEN)
@pytest.mark.parametrize("method", MAPS)
def test_nothing_is_changed(name: str, method: str):
    layout = EXPLAINED[name]
    model, x = layout.build(), layout.images().float()
    before = fingerprint(model, x)
    explain(METHODS[method](model), x, TARGET)
    assert fingerprint(model, x) == before


def with_frozen_weights(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def checkpointed(model: nn.Module) -> nn.Module:
    """Blocks whose activations are not kept."""
    for block in model.blocks:
        forward = block.forward
        block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "frozen": with_frozen_weights,
    "in a sequence": lambda model: nn.Sequential(model, nn.Identity()),
    "data parallel": nn.DataParallel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", MAPS)
def test_wrapped_and_frozen_models_are_the_same(wrapper: str, method: str):
    known = case(EXPLAINED["DeiT"])
    model = WRAPPERS[wrapper](known.layout.build().double()).eval()
    assert_close(explain(METHODS[method](model), known.x, TARGET), known.map(method), 1e-6)


@pytest.mark.parametrize("method", MAPS)
def test_checkpointed_blocks_are_explained_or_refused(method: str):
    known = case(EXPLAINED["DeiT"])
    with suppress(UnsupportedModelError):
        found = explain(METHODS[method](checkpointed(known.layout.build().double())), known.x, TARGET)
        assert_close(found, known.map(method), 1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", MAPS)
def test_without_gradients_around_the_call(context: Any, method: str):
    known = case(EXPLAINED["DeiT"])
    with context():
        found = explain(METHODS[method](known.model), known.x.clone(), TARGET)
    assert_close(found.clone(), known.map(method), 1e-6)


@pytest.mark.parametrize("method", MAPS)
def test_one_model_takes_images_of_several_sizes(method: str):
    """The grid belongs to the images, not to the model: 2 x 6 and 3 x 4 patches are as many."""
    layout = EXPLAINED["DINOv3"]
    model = layout.build().double()
    ours = METHODS[method](model)
    for grid in ((4, 4), (2, 6), (3, 4), (6, 2), (4, 4)):
        other = replace(layout, grid=grid, size=tuple(8 * count for count in grid))
        x = other.images()
        expected = MAPS[method](run(other, model, x, TARGET), run(other, model, x, TARGET, held=True))
        assert_close(explain(ours, x, TARGET), expected, 1e-6)


def test_new_weights_and_new_heads_are_looked_at():
    """What was found of a model holds no longer once its owner has changed it."""
    layout = EXPLAINED["DeiT"]
    model, x = layout.build().double(), layout.images()
    ours = DAAM(model)
    for seed in (0, 1):
        for weight in model.parameters():
            weight.data.mul_(1.1 + seed)
        truth = run(layout, model, x, TARGET)
        assert_close(ours.attribute(x, TARGET), MAPS["daam"](truth, truth), 1e-6)


class Meaned(nn.Module):
    """The same blocks, read at the mean of the patches instead of the class token."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit, self.by_mean = vit, False

    def forward(self, x: Tensor) -> Tensor:
        x = self.vit.prepare_tokens(x)
        for block in self.vit.blocks:
            x = block(x)
        x = self.vit.norm(x)
        return self.vit.head(x[:, 1:].mean(1) if self.by_mean else x[:, 0])


def test_a_readout_that_is_switched_is_followed():
    layout = EXPLAINED["DeiT"]
    model, x = Meaned(layout.build().double()).eval(), layout.images()
    for by_mean in (False, True, False):
        model.by_mean = by_mean
        other = replace(layout, read=(), reads_patches=True) if by_mean else layout
        truth = run(other, model, x, TARGET)
        assert_close(AttentionRollout(model).attribute(x), MAPS["rollout"](truth, truth), 1e-6)
        assert_close(RawAttention(model).attribute(x), MAPS["raw_attention"](truth, truth), 1e-6)
