"""Attention that nobody can see into, by an adapter written from CONTRIBUTING.md alone; and adapters that are wrong."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import captum_vit
from captum_vit import AGCAM, DAAM, AttentionRollout, inspect
from captum_vit.access import PATCHES, Projections, TokenLayout, registry
from captum_vit.attr import METHODS
from captum_vit.errors import LayerNotRecordedError, TokenLayoutError, UnsupportedModelError
from tests.helpers import assert_close, explain, randomise
from tests.research.checks import TARGET, case, check_map
from tests.research.explicit import MAPS
from tests.research.layout import Layout, Parts, merge
from tests.walks.compiled import Attention, CompiledViT
from tests.walks.compiled_adapter import CompiledAdapter, split


def parts_of(module: Attention, x: Tensor) -> Parts:
    q, k, v = split(module.q(x), module.kv(x))
    return Parts(q, k, v, 0.4, lambda out: module.out(merge(out)))


LAYOUT = Layout(
    "a compiled kernel",
    lambda: randomise(CompiledViT()),
    {Attention: parts_of},
    grid=(2, 4),
    size=(16, 32),
    patches=(0, 2, 4, 6, 1, 3, 5, 7),
    read=(8,),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    captum_vit.register(CompiledAdapter)


def test_it_is_not_found_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(UnsupportedModelError, match=r"no attention was found.*as CONTRIBUTING.md shows"):
        AGCAM(LAYOUT.build())


@pytest.mark.parametrize("method", MAPS)
def test_maps_are_those_of_explicit_attention(method: str):
    check_map(LAYOUT, method)


@pytest.mark.parametrize("method", MAPS)
def test_also_inside_somebodys_module(method: str):
    known = case(LAYOUT)
    found = explain(METHODS[method](nn.Sequential(known.model, nn.Identity())), known.x, TARGET)
    assert_close(found, known.map(method), LAYOUT.tolerance)


class Mirrored(nn.Module):
    """Somebody's module that turns the images round."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x.flip(3))


@pytest.mark.parametrize("method", MAPS)
def test_tokens_that_an_owner_turns_round_are_put_back(method: str):
    known = case(LAYOUT)
    found = explain(METHODS[method](Mirrored(known.model)), known.x.flip(3), TARGET)
    assert_close(found, known.map(method).flip(3), LAYOUT.tolerance)


def test_what_is_seen_of_it():
    text = str(inspect(LAYOUT.build(), LAYOUT.size))
    assert "3 heads, 9 x 9" in text
    assert "readout  class token" in text


# Adapters that are wrong are refused before the first map


def layout(self: Any, change: Callable[[TokenLayout], TokenLayout], *asked: Any) -> TokenLayout:
    return change(CompiledAdapter.token_layout(self, *asked))


def other_layout(**changes: Any) -> dict[str, Any]:
    def token_layout(self: CompiledAdapter, *asked: Any) -> TokenLayout:
        return dataclasses.replace(CompiledAdapter.token_layout(self, *asked), **changes)

    return {"token_layout": token_layout}


def other_projections(**changes: Any) -> dict[str, Any]:
    def projections(self: CompiledAdapter) -> dict[str, Projections]:
        known = CompiledAdapter.projections(self)
        return {name: dataclasses.replace(each, **changes) for name, each in known.items()}

    return {"projections": projections}


def without(left_out: int) -> dict[str, Any]:
    def attention_layers(self: CompiledAdapter) -> dict[str, nn.Module]:
        known = CompiledAdapter.attention_layers(self)
        return {name: layer for i, (name, layer) in enumerate(known.items()) if i != left_out}

    return {"attention_layers": attention_layers}


WRONG = {
    "row by row": (
        other_layout(order=None),
        TokenLayoutError,
        r"\d of \d patches of CompiledViT do not lie where Wrong says",
    ),
    "rows for columns": (other_layout(grid=(4, 2)), TokenLayoutError, "only 4 of them lie on the image"),
    "patches too small": (other_layout(patch=(4, 4)), TokenLayoutError, "do not lie where Wrong says"),
    "no class token": (other_layout(prefix=0, order=None), TokenLayoutError, r"expected prefix \+ rows\*cols = 0"),
    "another readout": ({"readout": PATCHES}, UnsupportedModelError, "declares .* read from"),
    "another scale": (other_projections(scale=0.5), LayerNotRecordedError, "computes something else than softmax"),
    "q for k": (
        other_projections(split=lambda q, kv: (lambda q, k, v: (k, q, v))(*split(q, kv))),
        LayerNotRecordedError,
        "computes something else than softmax",
    ),
    "no projections": ({"projections": lambda self: {}}, LayerNotRecordedError, "computed no softmax"),
    "no last layer": (without(2), UnsupportedModelError, "declares .* read from token 0 before the patches, and it is"),
    "no middle layer": (
        without(1),
        (UnsupportedModelError, TokenLayoutError),
        "a layer is missing in its `attention_layers`|are no longer where they were",
    ),
}


@pytest.mark.parametrize("method", [AGCAM, DAAM, AttentionRollout])
@pytest.mark.parametrize("wrong", WRONG)
def test_an_adapter_that_is_wrong_is_refused(wrong: str, method: type):
    members, error, message = WRONG[wrong]
    captum_vit.register(type("Wrong", (CompiledAdapter,), members))
    with pytest.raises(error, match=message):
        explain(method(LAYOUT.build()), LAYOUT.images().float(), TARGET)
