"""Attention is found by tokens of few kinds as by tokens that all differ, or these decide."""

import pytest
import torch
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.capture import kinds, unknown
from captum_vit.capture.kinds import FewKinds
from captum_vit.capture.softmaxes import Softmaxes
from captum_vit.capture.unknown import FACTS, Found
from captum_vit.errors import UnsupportedModelError
from tests.benchmarks.first_call import Block, OwnViT
from tests.research.layout import Layout
from tests.research.layouts import LAYOUTS

SIZE = 64  # 16 patches and a class token: the first token and the last are of one kind
NAMES = ("attentions", "batch_dims", "_blocks", "_channels", "_features", "_size", "_tokens_first")


class Unmade(FewKinds):
    """Makes none."""

    def along(self, x: Tensor, axis: int) -> Tensor:
        return x


def found(model: nn.Module) -> dict | str:
    """What is known of a model, or why it is refused."""
    try:
        adapter = Found(model)
    except UnsupportedModelError as error:
        return str(error)
    layouts = {size: (layout.grid, layout.prefix, layout.patch) for size, layout in adapter._layouts.items()}
    return {name: vars(adapter)[name] for name in NAMES} | {"layouts": layouts}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_found_is_the_same(layout: Layout, monkeypatch):
    assert set(NAMES) | {"_layouts"} == set(FACTS)
    model = layout.build().double()
    few = found(model)
    model.register_buffer("of_another_state", torch.zeros(()), persistent=False)  # so that nothing is remembered
    monkeypatch.setattr(unknown, "FewKinds", Unmade)
    assert found(model) == few


class Small(OwnViT):
    """16 patches and a class token."""

    def __init__(self) -> None:
        super().__init__(width=24, heads=2, depth=3)
        self.place = nn.Parameter(torch.randn(1, 17, 24))
        self.image_size = SIZE


class Between(Small):
    """The score is read from what lies between each token and the next: in sum, from the last less the first."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)
        return self.head(self.blocks(x + self.place).diff(dim=1).mean(1))


class Choosy(Small):
    """Wants no two tokens that are the same."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)
        x = self.norm(self.blocks(x + self.place))
        if len(x[0].unique(dim=0)) < x.shape[1]:
            raise ValueError("two tokens are the same")
        return self.head(x[:, 0])


class Idle(Small):
    """With a block beside the others that nothing is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = Block(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1) + self.place
        return self.head(self.norm(self.blocks(x) + 0 * self.beside(x))[:, 0])


class AnySize(Small):
    """Without places."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x).flatten(2).mT)).mean(1))


def test_another_size_is_looked_at_up_to_the_first_attention():
    model = AnySize().eval()
    adapter, ran = adapt(model), []
    for block in model.blocks:
        block.register_forward_hook(lambda block, args, output: ran.append(block))
    assert adapter.token_layout((32, 80), {}).grid == (2, 5)
    assert not ran


LAYERS = ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]


def check_layers(kind: type[Small]) -> None:
    assert list(adapt(kind().eval()).attention_layers()) == LAYERS


@pytest.mark.parametrize("kind", [Small, Between, Choosy, Idle])
def test_layers(kind):
    check_layers(kind)


@pytest.mark.xfail(strict=True, raises=(UnsupportedModelError, AssertionError))
@pytest.mark.parametrize("kind", [Between, Choosy])
def test_few_kinds_alone_would_not_do(kind, monkeypatch):
    find = Found._find_on
    monkeypatch.setattr(Found, "_find_on", lambda self, images, few=None: find(self, images, few or FewKinds()))
    check_layers(kind)


class Gathered(nn.Module):
    """One head by three dimensions: 5 tokens of its own look at the patches, and the patches at these."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.softmax = nn.Parameter(torch.randn(1, 5, width)), nn.Softmax(-1)
        self.bias = nn.Parameter(torch.randn(17, 5))

    def forward(self, x: Tensor) -> Tensor:
        read = self.softmax(self.own @ x.mT) @ x
        return x + self.softmax(x @ self.own.mT + self.bias) @ read


class Aside(Small):
    """Attention of other shapes after its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = Gathered(24)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)
        return self.head(self.gathered(self.blocks(x + self.place))[:, 0])


def events_of_aside() -> int:
    model, few = Aside().eval(), FewKinds()
    finder = unknown.Finder(1, few)
    with torch.enable_grad():
        unknown.watch(model, finder, lambda: model(torch.randn(1, 3, SIZE, SIZE)))
    assert few.made
    return len(finder.events)


def test_a_softmax_is_followed_through_modules():
    assert events_of_aside() == 5


@pytest.mark.xfail(strict=True, reason="what a softmax has become is taken for tokens")
def test_a_softmax_that_is_not_told(monkeypatch):
    monkeypatch.setattr(Softmaxes, "follows", lambda self, x: False)
    test_a_softmax_is_followed_through_modules()


def test_each_kind_is_computed_once():
    few, rows = FewKinds(), []
    few.counts.add(9)
    x = few.along(torch.randn(1, 9, 3), 1)
    layer = nn.Linear(3, 2)

    def noted(x: Tensor) -> Tensor:
        rows.append(x.shape[1])
        return layer(x)

    assert torch.allclose(few.linear(noted, (x,), {}), layer(x))
    few.linear(noted, (torch.randn(1, 9, 3),), {})
    assert rows == [kinds.KINDS, 9]
