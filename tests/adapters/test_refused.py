"""Models that are refused, with an error that says why and what to do."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from captum_vit import AGCAM, DAAM, RawAttention
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.errors import LayerNotRecordedError, TokenLayoutError, UnsupportedModelError
from tests.helpers import CLASSES, WIDTH, assert_close, hf_vit, images, timm_vit


def test_two_vits_are_refused():
    pair = nn.ModuleDict({"student": timm_vit(), "teacher": hf_vit()})
    with pytest.raises(UnsupportedModelError, match=r"holds 2 Vision Transformers \(student, teacher\): pass the one"):
        AGCAM(pair)


def test_an_unknown_model_is_named_and_told_how_to_add_an_adapter():
    class Unknown(nn.Module):
        """What it computes, nobody can tell from outside."""

        def forward(self, x):
            return x.mean((2, 3))

    expected = rf"in Unknown no attention was found.* no adapter knows .*{re.escape(Unknown.__qualname__)}, .* subclass"
    with pytest.raises(UnsupportedModelError, match=expected + r".*'captum_vit.adapters'.*CONTRIBUTING.md"):
        AGCAM(Unknown())


def test_traced_and_scripted_models_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced, scripted = torch.jit.trace(timm_vit(), images()), torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match=r"traced or scripted model .* before torch.jit"):
        DAAM(scripted)
    with pytest.raises(UnsupportedModelError, match="traced or scripted"):
        DAAM(traced)


@pytest.mark.parametrize("function", [lambda x: x, "vit", None])
def test_what_is_no_module_is_refused(function):
    with pytest.raises(UnsupportedModelError, match=rf"expected the model itself, .* got {type(function).__name__}"):
        AGCAM(function)


def test_attention_of_another_kind_is_refused():
    model = timm_vit()
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"^blocks.1 computes its attention in Identity, which is no class"):
        AGCAM(model)


def test_attention_that_is_not_seen_is_an_error_not_an_empty_map():
    model = timm_vit()
    ours = RawAttention(model)
    model.blocks[1].attn.forward = lambda x, *args, **kwargs: x
    with pytest.raises(LayerNotRecordedError, match=r"in layer 'blocks.1.attn' .*, but it computed no softmax"):
        ours.attribute(images())
    twice = nn.Sequential(timm_vit(), nn.Linear(CLASSES, 2))
    twice.forward = lambda x: twice[1](twice[0](x) + twice[0](x.flip(3)))
    with pytest.raises(LayerNotRecordedError, match="ran 2 times in one forward"):
        RawAttention(twice).attribute(images())


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((2, 1, 0), r"ran as blocks.2.attn, blocks.1.attn, blocks.0.attn, .* List them as they run"),
        ((0, 2), "in layer 'blocks.1.attn' .* did not run at all, as where a block is skipped or the model ends early"),
        ((0, 1, 1, 2), "in layer 'blocks.1.attn' .* ran 2 times .* or a block is used several times"),
    ],
)
def test_blocks_that_run_otherwise_than_listed_are_refused(order: tuple[int, ...], message: str):
    model = timm_vit()
    model.blocks.forward = nn.Sequential(*(model.blocks[i] for i in order)).forward
    with pytest.raises(LayerNotRecordedError, match=message):
        RawAttention(model).attribute(images())


def registered(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A model whose attention function is somebody's own, and changes the values."""

    def attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, **_: Any) -> tuple:
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return (weights @ change(v)).transpose(1, 2).contiguous(), None

    AttentionInterface.register("somebodys", attention)
    model = hf_vit()
    model.set_attn_implementation("somebodys")
    return model


def test_attention_functions_of_others_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    expected = RawAttention(hf_vit()).attribute(images())
    assert_close(RawAttention(registered(lambda v: v)).attribute(images()), expected)
    with pytest.raises(TokenLayoutError, match="the attention function 'somebodys' is none of transformers'"):
        RawAttention(registered(lambda v: v.flip(2))).attribute(images())
    monkeypatch.setattr(HFAdapter, "foreign", ())  # then its map is of patches that stand elsewhere
    assert RawAttention(registered(lambda v: v.flip(2))).attribute(images()).isfinite().all()


def test_scores_that_are_cut_off_are_refused():
    class Cut(nn.Module):
        """Detaches its features, as no_grad alone would not."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = timm_vit(num_classes=0), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x).detach())

    with pytest.raises(UnsupportedModelError, match="are cut off from its attention layers"):
        AGCAM(Cut()).attribute(images(), 1)
