"""Adapters of somebody's own that leave a layer out: a map would be of fewer layers than the model ran."""

import pytest
import torch
from torch import Tensor, nn

import captum_vit
from captum_vit import AGCAM, AttentionRollout, RawAttention
from captum_vit.access import registry
from captum_vit.adapters.timm_vit import TimmViT
from captum_vit.capture import examine
from captum_vit.errors import UnsupportedModelError
from tests.helpers import assert_close, explain, images, timm_vit

MISSING = "attentions of all its tokens, and 1 of them in none of the layers that its adapter names: "


@pytest.fixture(autouse=True)
def _none_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def leave_out(layer: int | None, *, mixes: bool = False) -> None:
    """Registers timm's adapter without one of the layers, which says that patches meet before, or does not."""

    def attention_layers(self: TimmViT) -> dict[str, nn.Module]:
        known = TimmViT.attention_layers(self)
        return {name: module for i, (name, module) in enumerate(known.items()) if i != layer}

    members = {"attention_layers": attention_layers, "readout": None, "first_block": None, "mixes_before": mixes}
    captum_vit.register(type("Own", (TimmViT,), members))


@pytest.mark.parametrize("method", [AGCAM, AttentionRollout, RawAttention])
@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_that_is_left_out_is_named(layer, mixes, method):
    leave_out(layer, mixes=mixes)
    with pytest.raises(UnsupportedModelError, match=rf"3 {MISSING}blocks.{layer}.attn"):
        explain(method(timm_vit()), images())


def test_one_that_names_all_of_them_is_taken():
    x = images()
    expected = explain(AttentionRollout(timm_vit()), x)
    leave_out(None)
    assert_close(explain(AttentionRollout(timm_vit()), x), expected)


@pytest.mark.parametrize("method", [AGCAM, AttentionRollout])
def test_nothing_else_sees_that_the_first_one_is_left_out(monkeypatch, method):
    """What these tests are for: without the look at the whole model there is a map, and it is another."""
    x = images()
    expected = explain(method(timm_vit()), x)
    monkeypatch.setattr(examine, "check_named", lambda *_: None)
    leave_out(0, mixes=True)
    ours = explain(method(timm_vit()), x)
    assert (ours - expected).abs().max() > 1e-2 * expected.abs().max()


class Behind(nn.Module):
    """An owner whose own attention reads the tokens that come out of the ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.head = timm_vit(), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit.forward_features(x)
        return self.head(((tokens @ tokens.mT / 5).softmax(-1) @ tokens).mean(1))


def test_attention_of_an_owner_is_not_the_adapters_matter():
    torch.manual_seed(0)
    model, x = Behind().eval(), images()
    expected = AGCAM(model).attribute(x, 1)
    leave_out(None)
    assert_close(AGCAM(model).attribute(x, 1), expected)
