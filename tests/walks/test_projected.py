"""Attention in steps that nobody recognises, or that is changed on its way, by adapters of a few lines."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import captum_vit
from captum_vit.access import CLASS, Projections, TokenLayout, registry
from captum_vit.attr import METHODS
from captum_vit.errors import LayerNotRecordedError, UnsupportedModelError
from tests.helpers import HEADS, PATCH, SIZE, WIDTH, assert_close, explain, images, randomise
from tests.research.changed import TalkingHeads, changed_parts
from tests.research.checks import TARGET, case
from tests.research.explicit import MAPS
from tests.research.layout import Layout, Parts
from tests.research.plain import PerHead, Plain, Projected, per_head_parts, projected_parts

SCALE = (WIDTH // HEADS) ** -0.5


class ByHand(Projected):
    """The softmax is written out."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT * SCALE).exp()
        return (weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2)


class Gated(ByHand):
    """What meets the values depends on how far the keys are."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = nn.Parameter(torch.ones(HEADS, 1, 1))

    def far(self, rows: Any = slice(None)) -> Tensor:
        """(H, R, N), smaller the farther a key is."""
        place = torch.arange(17)
        return torch.exp(-self.reach * (place[rows, None] - place).abs() / 10)

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT * SCALE).exp()
        return (weights / weights.sum(-1, keepdim=True) * self.far() @ v).transpose(1, 2).flatten(2)


class PlainAdapter(captum_vit.Adapter):
    """A class token, then patches of 8 pixels."""

    readout = CLASS

    @classmethod
    def matches(cls, model):
        return isinstance(model, Plain)

    def attention_layers(self):
        return {f"blocks.{i}.attn": block.attn for i, block in enumerate(self.model.blocks)}

    def token_layout(self, image_size, arguments):
        return TokenLayout(tuple(side // PATCH for side in image_size), 1, (PATCH, PATCH), CLASS)

    def projections(self):
        return {name: projections(layer) for name, layer in self.attention_layers().items()}


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def projections(layer: Any) -> Projections:
    if isinstance(layer, PerHead):
        inputs = [getattr(head, name) for head in layer.heads for name in ("query", "key", "value")]
        return Projections(tuple(inputs), side_by_side, layer.out_proj, SCALE)
    mix = {TalkingHeads: lambda weights, rows: layer.changed(weights), Gated: partial(far, layer)}.get(type(layer))
    inputs = (layer.q_proj, layer.k_proj, layer.v_proj)
    return Projections(inputs, lambda *parts: tuple(map(heads, parts)), layer.out_proj, SCALE, mix)


def far(layer: Gated, weights: Tensor, rows: Any) -> Tensor:
    return weights * layer.far(rows).to(weights)


def side_by_side(*parts: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts[i::3], 1) for i in range(3))


def gated_parts(module: Gated, x: Tensor) -> Parts:
    return projected_parts(module, x, change=lambda weights: weights * module.far())


def layout(attention: type[nn.Module], parts: Callable[..., Parts] = projected_parts) -> Layout:
    return Layout(f"{attention.__name__} by an adapter", lambda: randomise(Plain(attention)), {attention: parts})


LAYOUTS = {
    "softmax by hand": layout(ByHand),
    "a module a head": layout(PerHead, per_head_parts),
    "talking heads": layout(TalkingHeads, changed_parts),
    "weights by distance": layout(Gated, gated_parts),
}
CHANGED = ("talking heads", "weights by distance")  # whose scores are no longer those of the weights


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def methods(name: str) -> list[str]:
    return [method for method in MAPS if not (method == "agcam" and name in CHANGED)]


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in LAYOUTS for method in methods(name)])
def test_maps_are_those_of_explicit_attention(name: str, method: str):
    captum_vit.register(PlainAdapter)
    known = case(LAYOUTS[name])
    assert_close(explain(METHODS[method](known.model), known.x, TARGET), known.map(method), 1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_an_adapter_there_is_no_map(name: str):
    with pytest.raises(UnsupportedModelError, match=r"as CONTRIBUTING\.md shows"):
        explain(METHODS["rollout"](LAYOUTS[name].build()), images(2, (SIZE, SIZE)), TARGET)


def test_a_mix_that_is_left_out_is_seen():
    class Unmixed(PlainAdapter):
        def projections(self):
            found = super().projections().items()
            return {name: Projections(p.inputs, p.split, p.output, p.scale) for name, p in found}

    captum_vit.register(Unmixed)
    for name in CHANGED:
        with pytest.raises(LayerNotRecordedError, match="computes something else than softmax"):
            explain(METHODS["rollout"](LAYOUTS[name].build()), images(2, (SIZE, SIZE)), TARGET)
