"""Patches that go into the blocks in an order that is drawn anew in each forward, and are left out all the same."""

from contextlib import nullcontext

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.capture import Inputs, Run, finding, leaving
from captum_vit.targets import Classes
from tests.benchmarks.first_call import OwnViT
from tests.helpers import assert_close, randomise
from tests.properties.broken import caught

SIZE, PATCHES, WIDTH, TARGET = 64, 16, 24, 1


def drawn() -> Tensor:
    return torch.multinomial(torch.ones(PATCHES), PATCHES)


class Drawn(VisionTransformer):
    """A model of timm."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE // 4, embed_dim=WIDTH, depth=3, num_heads=3, num_classes=5)

    def _pos_embed(self, x: Tensor) -> Tensor:
        x = super()._pos_embed(x)
        return torch.cat([x[:, :1], x[:, 1:][:, drawn()]], 1)

    def on(self, x: Tensor, kept: Tensor) -> Tensor:
        """Its scores of some of the patches, written out."""
        patches = (self.patch_embed(x) + self.pos_embed[:, 1:])[:, kept]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.head(self.norm(self.blocks(torch.cat([first, patches], 1)))[:, 0])


class OwnDrawn(OwnViT):
    """Of nobody's library."""

    def __init__(self) -> None:
        super().__init__(width=WIDTH, heads=3, depth=3)
        self.place = nn.Parameter(torch.randn(1, PATCHES, WIDTH))
        self.image_size = SIZE

    def forward(self, x: Tensor) -> Tensor:
        return self.on(x, drawn())

    def on(self, x: Tensor, kept: Tensor) -> Tensor:
        """Its scores of some of the patches."""
        patches = (self.embed(x).flatten(2).mT + self.place)[:, kept]
        return self.head(self.norm(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), patches], 1)))[:, 0])


def check(kind: type[nn.Module]) -> None:
    model, x = randomise(kind()).eval(), torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    kept = torch.rand(5, PATCHES, generator=torch.Generator().manual_seed(1)) > 0.5
    found = Run(adapt(model), Inputs(x)).on_tokens(kept, Classes(TARGET))
    with torch.no_grad():
        expected = torch.stack([model.on(x, choice)[:, TARGET] for choice in kept], 1)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("kind", [Drawn, OwnDrawn])
def test_what_is_left_out_is_what_was_asked(kind):
    check(kind)


@caught
def test_the_order_that_is_drawn(monkeypatch):
    monkeypatch.setattr(leaving, "InOwnOrder", nullcontext)
    check(Drawn)


@pytest.mark.xfail(strict=True, reason="attention found in one order and looked at in another")
def test_attention_found_in_the_order_that_is_drawn(monkeypatch):
    monkeypatch.setattr(finding, "in_own_order", lambda *args: None)
    check(OwnDrawn)
