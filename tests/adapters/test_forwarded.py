"""A nested adapter passes on all that the adapter inside it tells, or a reason why not."""

import inspect
from typing import Any

import pytest
from torch import nn

from captum_vit.access import Adapter, NestedAdapter, TokenLayout
from tests.properties.broken import caught

MINE = {
    "matches": "nobody looks for it: a search finds the adapter inside",
    "refusal": "the search asks the adapter inside",
    "described": "whoever asks has no adapter",
    "readout": "the owner may read other tokens, which is measured",
    "scores": "they are in what the owner returns",
    "headless": "the owner's output is the score",
    "class_names": "the owner's head may have classes of its own",
    "training": "the owner may be in train mode where the model inside is not",
}

marker = nn.Identity()
told, expected = {"layer": marker}, {"outer.layer": marker}
NAMED: dict[str, tuple[Any, Any]] = {  # with the names of layers: what the adapter inside tells, and what is passed on
    "attention_layers": (told, expected),
    "blocks": (told, expected),
    "call_with": ({"patches": marker, "shapes": marker}, {}),  # an owner that does not name these is given images
    "cross_attention": (told, expected),
    "projections": (told, expected),
    "reading_layers": (["layer"], ["outer.layer"]),
    "token_layout": (
        TokenLayout((2, 3), 1, (8, 8), grids={"layer": (1, 2)}),
        TokenLayout((2, 3), 1, (8, 8), grids={"outer.layer": (1, 2)}),
    ),
}


class Inner(Adapter):
    @classmethod
    def matches(cls, model):
        return True

    def attention_layers(self):
        return {}

    def token_layout(self, image_size, arguments):
        raise NotImplementedError


def public(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


def check_forwarded(name: str) -> None:
    """What an adapter answers alone is what the nested one answers, names of layers apart."""
    member = vars(Adapter)[name]
    answer, wanted = NAMED.get(name, (marker, marker))
    if isinstance(member, property):
        instead: Any = property(lambda self: answer)
    else:
        instead = (lambda self, *args: answer) if callable(member) else answer
    inner = type("Told", (Inner,), {name: instead})(nn.Identity())
    found = getattr(NestedAdapter(nn.Sequential(inner.model), "outer", inner), name)
    if callable(member):
        found = found(*[None] * (len(inspect.signature(member).parameters) - 1))
    assert found is wanted or (name in NAMED and found == wanted)


@pytest.mark.parametrize("name", [name for name in public(Adapter) if name not in MINE])
def test_what_the_inner_adapter_tells_is_passed_on(name):
    check_forwarded(name)


def test_no_member_is_excused_that_is_not_there():
    assert set(MINE) <= set(public(Adapter))
    assert not set(MINE) & set(public(NestedAdapter)) - {"matches"}  # which is abstract


def test_the_model_is_the_outer_one_and_the_images_go_to_the_inner():
    inner = Inner(nn.Identity())
    inner.vit = nn.Identity()
    nested = NestedAdapter(nn.Sequential(inner.model), "0", inner)
    assert nested.model is not inner.model
    assert nested.vit is inner.vit


@caught
@pytest.mark.parametrize("later", [property(lambda self: None), lambda self, images: None, 4])
def test_a_member_that_the_protocol_gets_later(monkeypatch, later):
    monkeypatch.setattr(Adapter, "later", later, raising=False)
    for name in public(Adapter):
        if name not in MINE:
            check_forwarded(name)
