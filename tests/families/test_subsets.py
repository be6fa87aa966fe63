"""Patches are left out exactly: `run.on_tokens` is the model on the others, written out, or refused with a reason."""

from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.capture import Inputs, Run, subsets
from captum_vit.capture.chosen import Chosen
from captum_vit.capture.leaving import Entering, Unseen, run
from captum_vit.capture.subsets import Subsets
from captum_vit.errors import UnsupportedModelError
from captum_vit.targets import Classes
from tests.families.masked import masked_scores
from tests.families.table import FAMILIES
from tests.families.without import WRITTEN
from tests.helpers import assert_close, images
from tests.properties.broken import caught
from tests.research.layouts import LAYOUTS

NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES if family.in_double}
TARGET = Classes(1)
REFUSED = {  # family -> why; these reasons stand in the documentation
    "timm: XCiT": "patches meet by cross-covariance",
    "timm: VOLO": "patches meet by outlook attention",
    "timm: PiT": "pools its patches",
    "timm: ConViT": "more than their position embedding .* ConVit fails on 8 of its 16",
    "timm: ConViT, mean of patches": "more than their position embedding .* ConVit fails on 8 of its 16",
    "own code: T2T-ViT": "patches meet before its first block",
}
TALKING = ("timm: CaiT", "timm: CaiT, mean of patches")  # weights are changed after the softmax: written out below
OWN = [
    "BEiT, wide",
    "DINOv3, wide",
    "einops",
    "kernel, mask and scale",
    "AIM, pool",
    "columns first",
    "class token last",
    "bmm",
]


def some(patches: int, share: float = 0.4) -> Tensor:
    """A choice that leaves out others in front, in the middle and at the end."""
    kept = torch.rand(patches, generator=torch.Generator().manual_seed(3)) < share
    kept[0], kept[1] = False, True
    return kept


def found(model: nn.Module, x: Tensor, kept: Tensor, **kwargs: Any) -> Tensor:
    """The first choice alone, (N,)."""
    return Run(adapt(model), Inputs(x, kwargs=kwargs)).on_tokens(kept[None], TARGET)[:, 0]


def of_class(scores: Tensor) -> Tensor:
    return scores[:, 1]


@pytest.mark.parametrize("name", NAMED)
def test_every_family(name):
    family = NAMED[name]
    model, x = family.build().double(), family.batch().double()
    run_ = Run(adapt(model), Inputs(x))
    kept = some(prod(run_.layout.grid))
    if name in REFUSED:
        with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
            run_.on_tokens(kept[None], TARGET)
        return
    both = run_.on_tokens(torch.stack([torch.ones_like(kept), kept]), TARGET)
    assert both.dtype == torch.float64
    assert_close(both[:, 0], of_class(run_.scores), 1e-10)
    assert (both[:, 1] - both[:, 0]).abs().max() > 1e-3
    if name not in TALKING:
        assert_close(both[:, 1], of_class(masked_scores(model, x, run_.layout, kept)), 1e-6)


@pytest.mark.parametrize("name", WRITTEN)
def test_as_written_out(name):
    written = WRITTEN[name]
    model, x = written.build().double(), images(2, written.size).double()
    kept = some((written.size[0] // 8) * (written.size[1] // 8))
    with torch.no_grad():
        expected = of_class(written.scores(model, x, kept.nonzero()[:, 0].tolist()))
    assert_close(found(model, x, kept), expected, 1e-6)


@pytest.mark.parametrize("name", OWN)
def test_code_of_nobodys_library(name):
    """Positions in the attention, masks, patches column by column, tokens in other shapes."""
    layout = LAYOUTS[name]
    model, x = layout.build().double(), layout.images()
    run_ = Run(adapt(model), Inputs(x))
    with run_:
        seen = replace(run_.layout, readout=run_.readout)
    kept = some(layout.count)
    assert_close(
        run_.on_tokens(kept[None], TARGET)[:, 0], of_class(masked_scores(model, x, seen, kept)), layout.tolerance
    )


def test_where_patches_go_out_is_not_known():
    layout = LAYOUTS["einops, simple"]
    with pytest.raises(UnsupportedModelError, match="no block is known out of which the patches go that are read"):
        found(layout.build().double(), layout.images(), some(layout.count))


# Ways that are wrong on purpose


class WithoutPositions(Entering):
    """The embeddings of the first patches, whichever are kept: their positions are not."""

    def listening(self, inputs, chosen):
        return super().listening(inputs, Chosen(chosen.layout, torch.arange(chosen.patches.shape[1])[None]))


class WithoutPrefix(Chosen):
    """Patches alone go in."""

    @property
    def tokens(self) -> Tensor:
        return super().tokens[:, self.layout.prefix :]


class RowsInOrder(Chosen):
    """The first rows of what blocks are given for each patch."""

    def of_rows(self, x: Any) -> Any:
        first = torch.arange(self.patches.shape[1]).expand_as(self.patches)
        return Chosen(replace(self.layout, order=None), first).of_rows(x)


class WithoutOrder(Chosen):
    """As if the model had its tokens in reading order."""

    @property
    def _order(self) -> Tensor:
        return torch.arange(self.layout.tokens)


def checked_chosen(name: str, kind: type[Chosen], way: type[Entering] = Entering) -> None:
    """A way that is wrong, held against the model written out."""
    written = WRITTEN[name]
    model, x = written.build().double(), images(1, written.size).double()
    run_ = Run(adapt(model), Inputs(x))
    kept = some(prod(run_.layout.grid))
    output = run(run_.adapter, way(run_.adapter), Inputs(x), kind.of(run_.layout, kept[None]))
    with torch.no_grad():
        expected = written.scores(model, x, kept.nonzero()[:, 0].tolist())
    assert_close(of_class(output.scores), of_class(expected), 1e-6)


@pytest.mark.parametrize("name", ["class token", "DINOv3"])
def test_the_check_of_wrong_ways(name):
    checked_chosen(name, Chosen)


@caught
@pytest.mark.parametrize(
    ("name", "kind", "way"),
    [
        ("class token", Chosen, WithoutPositions),
        ("registers, layer scale", WithoutPrefix, Entering),
        ("DINOv3", RowsInOrder, Entering),
    ],
)
def test_a_wrong_way(name, kind, way):
    checked_chosen(name, kind, way)


@caught
def test_an_order_that_is_ignored(monkeypatch):
    monkeypatch.setattr(Chosen, "_order", WithoutOrder._order)
    test_code_of_nobodys_library("columns first")


@caught
def test_a_table_of_positions_that_is_not_noticed(monkeypatch):
    """Blocks that count positions themselves take a part of the tokens, and place it wrongly."""
    monkeypatch.setattr(Subsets, "_same", lambda self, found, scores: True)
    test_code_of_nobodys_library("kernel, mask and scale")


class SeesAll(Unseen):
    """Attention does not see the others, and the mean of the patches does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.last = None


@caught
def test_a_head_that_sees_all(monkeypatch):
    monkeypatch.setattr(subsets, "Unseen", SeesAll)
    monkeypatch.setattr(Subsets, "_same", lambda self, found, scores: True)
    test_as_written_out("BEiT")


def test_a_head_that_sees_all_is_noticed(monkeypatch):
    monkeypatch.setattr(subsets, "Unseen", SeesAll)
    with pytest.raises(UnsupportedModelError, match="they are seen in other ways"):
        test_as_written_out("BEiT")
