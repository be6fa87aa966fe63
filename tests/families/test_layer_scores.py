"""The score of each layer by every way there is, and where a layer has none."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from captum_vit import LeGrad, attr
from captum_vit.capture import Inputs
from captum_vit.capture.head import Head
from captum_vit.errors import UnsupportedModelError
from captum_vit.targets import as_target
from tests.helpers import CLASSES, WIDTH, assert_close, hf_vit, images, randomise, relative_error, timm_vit

TARGET = [1, 4]


class Owner(nn.Module):
    """A head of somebody's own behind a timm ViT."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.vit, self.head = timm_vit(num_classes=0, **changes), randomise(nn.Linear(WIDTH, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vit(x))


class AsManyAsCameIn(Owner):
    """Expects as many features as images."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vit(x).reshape(len(x), WIDTH))


class SeveralDepths(Owner):
    """Reads the class token after two blocks."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit.forward_intermediates(x, indices=[1, 2], output_fmt="NLC", return_prefix_tokens=True)[1]
        return self.head(sum(prefix[:, 0] for _, prefix in tokens))


class AnEarlierDepth(Owner):
    """Reads the class token after the second block; the third has no part in the score."""

    def forward(self, x: Tensor) -> Tensor:
        (_, prefix), *_ = self.vit.forward_intermediates(
            x, indices=[1, 2], output_fmt="NLC", return_prefix_tokens=True
        )[1]
        return self.head(prefix[:, 0])


def by(way: Callable[[Any], None], model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """LeGrad's flow, by another way than the run would take."""
    method, target = LeGrad(model), as_target(TARGET)
    with attr.start([(method, options)], Inputs(x), target) as run:
        way(run)
        return run.layout.to_grid(method._maps(run, target, flow=True, **options))


def through_all_tokens(run: Any) -> None:
    run.kept.may_replay = False


@pytest.mark.parametrize("build", [timm_vit, hf_vit, lambda: timm_vit(reg_tokens=4)])
def test_a_replay_of_the_class_token_is_the_general_way(build):
    model, x = build().double(), images().double()
    flow = LeGrad(model).attribute_flow(x, TARGET, pooling="readout")
    assert_close(by(through_all_tokens, model, x, pooling="readout"), flow, 1e-9)


@pytest.mark.parametrize("pooling", ["mean", "readout"])
@pytest.mark.parametrize("build", [timm_vit, hf_vit, lambda: timm_vit(global_pool="map", class_token=False)])
def test_a_few_tokens_do_before_the_head(build, pooling, monkeypatch):
    model, x = build().double(), images().double()
    flow = LeGrad(model).attribute_flow(x, TARGET, pooling=pooling)
    monkeypatch.setattr(Head, "_few", lambda self: None)
    assert_close(by(through_all_tokens, model, x, pooling=pooling), flow, 1e-9)


@pytest.mark.parametrize("pooling", ["mean", "readout"])
def test_a_head_that_takes_no_larger_batch_runs_once_a_layer(pooling):
    x, plain, own = images().double(), Owner().double(), AsManyAsCameIn().double()
    assert_close(
        LeGrad(own).attribute_flow(x, TARGET, pooling=pooling), by(through_all_tokens, plain, x, pooling=pooling)
    )


@pytest.mark.parametrize("pooling", ["mean", "readout"])
def test_the_head_begins_where_it_reads(pooling):
    """What comes after it has no part: the model without its last block gives the same."""
    model, x = AnEarlierDepth().double(), images().double()
    short = Owner().double()
    short.load_state_dict(model.state_dict())
    short.vit.norm, short.vit.blocks = nn.Identity(), short.vit.blocks[:2]
    flow = LeGrad(model).attribute_flow(x, TARGET, pooling=pooling)
    assert flow.shape[1] == 2
    assert_close(flow, LeGrad(short).attribute_flow(x, TARGET, pooling=pooling), 1e-9)


def test_in_train_mode_all_layers_are_read_in_the_forward_that_would_come_next():
    model, x = timm_vit(proj_drop_rate=0.3, drop_path_rate=0.3).train(), images()
    torch.manual_seed(3)
    flows = [LeGrad(model).attribute_flow(x, TARGET, pooling=pooling) for pooling in ("mean", "readout") for _ in "ab"]
    for one, again in (flows[:2], flows[2:]):
        assert torch.equal(one, again)
    torch.manual_seed(4)
    assert relative_error(LeGrad(model).attribute_flow(x, TARGET), flows[0]) > 1e-2


def test_several_depths_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"reads the tokens after 2 blocks \(.*\): what it would make of one"
    ):
        LeGrad(SeveralDepths()).attribute(images(), 1)


def test_tokens_of_another_width_are_refused():
    model = randomise(timm.create_model("pit_ti_224", pretrained=False, num_classes=CLASSES))
    x = images(1, (224, 224))
    names = LeGrad(model).layer_names
    assert all(name.startswith("transformers.2.") for name in names)
    with pytest.raises(UnsupportedModelError, match="choose layers from where on they are alike"):
        LeGrad(model, layer=[0, -1]).attribute(x, 1)


def test_each_score_has_the_gradient_of_its_own_block_alone():
    """A layer's share is the same, whichever others are asked for."""
    model, x = timm_vit().double(), images().double()
    for pooling in ("mean", "readout"):
        flow = LeGrad(model).attribute_flow(x, TARGET, pooling=pooling)
        each = [LeGrad(model, layer=i).attribute(x, TARGET, pooling=pooling) for i in range(flow.shape[1])]
        assert_close(torch.cat(each, 1).cumsum(1), flow, 1e-9)
        assert all(relative_error(one, other) > 1e-2 for one, other in pairwise(each))
