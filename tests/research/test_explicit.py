"""The truth about the layouts holds by itself: equal scores, gradients that fit, patches where they are."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from captum_vit.attr import METHODS
from tests.helpers import assert_close, explain, relative_error, timm_vit
from tests.reference import explicit as published
from tests.research.checks import TARGET, case, differs
from tests.research.explicit import MAPS, Step, Truth, first_tensor, later, rolled, run
from tests.research.layout import Layout
from tests.research.layouts import EXPLAINED
from tests.research.torchs import TIMM

every = pytest.mark.parametrize("layout", EXPLAINED.values(), ids=EXPLAINED)


@every
def test_the_written_out_model_is_the_model(layout: Layout):
    known = case(layout)
    with torch.no_grad():
        plain = first_tensor(known.model(known.x))
    exact = 1e-12 if layout.tolerance == 1e-6 else layout.tolerance
    assert_close(known.truth.scores, plain, exact)
    assert_close(known.held.scores, plain, exact)


@every
def test_attention_and_gradients_fit(layout: Layout):
    """sum_j A dy/dA = sum_k O dy/dO in each row, since O = A V; and past the last attention nothing is held."""
    known = case(layout)
    for truth in (known.truth, known.held):
        for step, weights, outputs in zip(truth.steps, truth.weights, truth.outputs, strict=True):
            if not layout.without:
                torch.testing.assert_close(step.a.sum(-1), torch.ones_like(step.a[..., 0]))
            torch.testing.assert_close((step.a * weights).sum(-1), (step.o * outputs).sum(-1))
    torch.testing.assert_close(known.truth.weights[-1], known.held.weights[-1])
    assert relative_error(known.truth.weights[0], known.held.weights[0]) > 1e-3


@every
def test_the_score_is_read_where_it_is_said(layout: Layout):
    """With attention held, the gradient of the last layer over tokens lives on those that are read."""
    known = case(layout)
    last = max(i for i, step in enumerate(known.held.steps) if step.skip)
    sizes = known.held.outputs[last].abs().amax((0, 1, 3))
    assert torch.equal(sizes > 1e-12 * sizes.max(), layout.start()[: len(sizes)] > 0)


@every
def test_the_patches_are_where_it_is_said(layout: Layout):
    """Another pixel in the corner of a patch, which no other looks at, changes the value of its token most."""
    known = case(layout)
    x = known.x[:1].repeat(layout.count, *(1 for _ in known.x.shape[1:]))
    for index in range(layout.count):
        place = torch.unravel_index(torch.tensor(index), layout.grid)
        x[(index, slice(None), *(int(i) * size for i, size in zip(place, layout.pixels, strict=True)))] *= -1
    first = known.truth.steps[0]
    changed = (run(layout, known.model, x).steps[0].v - first.v[:1]).square().sum((1, 3)).argmax(1)
    assert (changed + later(layout, first)).tolist() == layout.tokens_of_patches


@every
def test_a_rollout_shares_one_out(layout: Layout):
    truth = case(layout).truth
    whole = rolled(truth, [step.a.mean(1) for step in truth.steps])
    torch.testing.assert_close(whole.sum(1), torch.ones(len(whole), dtype=torch.float64))
    assert whole.shape[1] == layout.extra + layout.count


@pytest.mark.parametrize("method", MAPS)
def test_a_known_model_agrees_with_the_other_reference(method: str):
    """Of timm's ViT, against the forward and formulas that the published numbers are held against."""
    known = case(Layout("timm", timm_vit, TIMM))
    scores, blocks = published.explicit_vit(known.model, known.x, detach=method == "agcam")
    weights = published.gradients(scores[:, TARGET], [block.a for block in blocks])
    outputs = published.gradients(scores[:, TARGET], [block.o for block in blocks])
    weighted = [(block.a * grad).mean(1).clamp(min=0) for block, grad in zip(blocks, weights, strict=True)]
    by_method = {
        "raw_attention": lambda: blocks[-1].a.mean(1)[:, 0],
        "rollout": lambda: published.rollout([block.a.mean(1) for block in blocks], known.layout.start()),
        "gradient_rollout": lambda: published.rollout(
            [published.discard(matrix, 0.9, keep_first=False) for matrix in weighted], known.layout.start()
        ),
        "generic_relevance": lambda: published.relevance(
            [(block.a * grad).clamp(min=0).mean(1) for block, grad in zip(blocks, weights, strict=True)],
            known.layout.start(),
        ),
        "agcam": lambda: published.agcam(blocks, weights, [0]),
        "daam": lambda: published.daam(blocks, outputs, [0]),
    }
    assert_close(known.map(method).flatten(1), by_method[method]()[:, 1:].detach(), 1e-12)
    assert_close(explain(METHODS[method](known.model), known.x, TARGET), known.map(method), 1e-12)


def turned(step: Step) -> Step:
    """Rows and columns of A exchanged, and its rows normalised."""
    a = step.a.mT / step.a.mT.sum(-1, keepdim=True)
    return replace(step, a=a, s=step.s.mT)


def early(truth: Truth) -> Truth:
    """Each layer has the attention of the one before; the first that of the last."""
    return replace(truth, steps=truth.steps[-1:] + truth.steps[:-1])


def one_more(layout: Layout) -> Layout:
    """The patches one token further than they are."""
    tokens = layout.tokens_of_patches
    return replace(layout, patches=(*tokens[1:], tokens[0]))


TWINS: dict[str, Callable[[Truth], Truth]] = {
    "the layer before": early,
    "rows for columns": lambda truth: replace(truth, steps=[turned(s) for s in truth.steps]),
    "heads in another order": lambda truth: replace(
        truth, steps=[replace(s, a=s.a.roll(1, 1), s=s.s.roll(1, 1)) for s in truth.steps]
    ),
    "patches one token on": lambda truth: replace(truth, layout=one_more(truth.layout)),
    "another row": lambda truth: replace(truth, layout=replace(truth.layout, read=(2,), reads_patches=False)),
}
BLIND = {("heads in another order", "raw_attention"), ("heads in another order", "rollout")}  # they take the mean


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("method", MAPS)
@pytest.mark.parametrize(
    "layout", [EXPLAINED[name] for name in ("DINO", "BEiT", "DINOv2", "volume")], ids=lambda x: x.name
)
def test_a_wrong_truth_would_be_seen(layout: Layout, method: str, name: str):
    known, twin = case(layout), TWINS[name]
    wrong = replace(known, truth=twin(known.truth), held=twin(known.held))
    far = differs(known, wrong, method)
    assert far < 1e-12 if (name, method) in BLIND else far > 1e-2
