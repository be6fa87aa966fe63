"""Sanity checks: against scipy and loops, on maps and methods whose answer is known, and what they leave alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from captum_vit import AGCAM, AttentionRollout
from captum_vit.errors import InputError, OptionError
from captum_vit.metrics import (
    METRICS,
    Sanity,
    class_sensitivity,
    efficient_randomisation,
    enlarge,
    randomisation,
    sparseness,
    stability,
)
from captum_vit.metrics.cascade import complexity
from captum_vit.metrics.redrawing import stages_of
from captum_vit.metrics.similarity import correlation, rank_correlation, structural_similarity
from tests.fingerprint import changes, fingerprint
from tests.helpers import hf_vit, timm_vit
from tests.metrics.world import SCENES, assert_equal, world
from tests.properties.broken import caught

FEW = 4


def few():
    w = world()
    return w.images[:FEW], w.targets[:FEW], w.maps[:FEW]


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_correlations_and_gini_are_those_of_scipy_and_of_loops(seed, count):
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 6, (2, count, 4, 5)).astype(np.float64)
    first[:, 0, :2], second[:, 0, :2] = (0, 7), (8, 1)
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    pairs = [(x.ravel(), y.ravel()) for x, y in zip(first, second, strict=True)]
    assert_equal(correlation(a, b), [stats.pearsonr(x, y).statistic for x, y in pairs])
    assert_equal(rank_correlation(a, b), [stats.spearmanr(x, y).statistic for x, y in pairs])
    apart = [np.abs(x[:, None] - x[None]).sum() / (2 * len(x) * x.sum()) for x, _ in pairs]
    assert_equal(sparseness(-a), apart)


@caught
def test_ranks_are_not_values():
    a = torch.rand(3, 4, 4, dtype=torch.float64)
    assert_equal(rank_correlation(a, (5 * a).exp()), correlation(a, (5 * a).exp()))


def test_known_maps():
    a = torch.rand(3, 8, 8)
    peak = torch.zeros(1, 8, 8)
    peak[0, 3, 4] = 2
    assert_equal(sparseness(peak), [1 - 1 / 64])
    assert_equal(sparseness(torch.ones(2, 8, 8)), [0.0, 0.0])
    assert_equal(structural_similarity(a, a, (32, 32)), [1.0] * 3)
    assert (structural_similarity(a, 1 - a, (32, 32)) < 0).all()
    a[1, 0, 0] = torch.nan
    for found in (correlation(a, a), rank_correlation(a, a), structural_similarity(a, a, (32, 32)), sparseness(a)):
        assert found.isnan().tolist() == [False, True, False]
    with pytest.raises(InputError, match="the window of SSIM is 11 pixels wide: got images of 8x8"):
        structural_similarity(a, a, (8, 8))


def test_class_sensitivity_sees_what_depends_on_the_class():
    images, targets, maps = few()
    others = (targets + 1) % 8
    sharp = class_sensitivity(AGCAM(world().model), images, targets, others)
    given = class_sensitivity(AGCAM(world().model), images, targets, others, maps=maps)
    assert_equal(sharp, given, 1e-5)
    assert (sharp > 0.2).all()
    assert_equal(class_sensitivity(world().method, images, targets, targets), [0.0] * FEW)
    blind = class_sensitivity(AttentionRollout(world().model), images, targets, others, options={"fusion": "max"})
    assert_equal(blind, [0.0] * FEW)


@caught
def test_class_sensitivity_of_a_blind_method():
    images, targets, _ = few()
    assert (class_sensitivity(AttentionRollout(world().model), images, targets, (targets + 1) % 8) > 0.2).all()


@pytest.mark.parametrize("build", [timm_vit, hf_vit])
def test_every_weight_behind_the_embedding_is_drawn_anew_once(build):
    model = build()
    stages = stages_of(model)
    assert [name.split(".")[-1] for name in stages] == ["head", "2", "1", "0"]
    parts = [part for group in stages.values() for part in group]
    assert len({id(part) for part in parts}) == len(parts)
    drawn = {id(p) for part in parts for p in part.parameters(recurse=False)}
    kept = [name for name, p in model.named_parameters() if id(p) not in drawn]
    assert kept
    assert all("embed" in name or "token" in name for name in kept)


class Fixed:
    """A method that does not look at the model."""

    def __init__(self, model):
        self.forward_func = model

    def attribute(self, inputs, target=None):
        return torch.nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 8)


def test_randomisation():
    images, targets, maps = few()
    before, random = fingerprint(world().model, images), torch.get_rng_state()
    found = randomisation(world().method, images, targets, maps=maps)
    assert changes(before, fingerprint(world().model, images)) == []
    assert torch.equal(random, torch.get_rng_state())
    assert found.stages == ("head", *(f"blocks.{n}" for n in reversed(range(6))))
    assert found.spearman.shape == found.ssim.shape == (FEW, 7)
    assert found.spearman.mean() < 0.3
    assert found.ssim.mean() < 0.3
    again = randomisation(world().method, images[:2], targets[:2])
    assert_equal(again.spearman, found.spearman[:2], 0.02)  # ranks of nearly equal values may change places
    emprt = efficient_randomisation(world().method, images, targets, maps=maps)
    given = efficient_randomisation(world().method, images, targets, maps=maps, last=found.last)
    assert_equal(given, emprt)  # the last stage is the model with all weights drawn anew
    sizes = [enlarge(each, (64, 64)).double().numpy() for each in (maps, found.last)]
    rises = [(entropy_of(b) - entropy_of(a)) / entropy_of(a) for a, b in zip(*sizes, strict=True)]
    assert_equal(emprt, rises, 1e-9)
    assert_equal(efficient_randomisation(Fixed(world().model), images, targets), [0.0] * FEW)
    blind = randomisation(Fixed(world().model), images, targets)
    assert_equal(blind.spearman, torch.ones(FEW, 7))
    assert_equal(blind.ssim, torch.ones(FEW, 7))


def entropy_of(grid: np.ndarray, flaw: str | None = None) -> float:
    """Of the histogram of a map, value by value."""
    low, high = (0.0, 1.0) if flaw == "between 0 and 1" else (grid.min(), grid.max())
    edges = [low + i * (high - low) / 100 for i in range(101)]
    counts = [0] * 100
    for value in grid.ravel():
        counts[max(0, min(99, sum(value >= edge for edge in edges) - 1))] += 1
    shares = [count / grid.size for count in counts if count]
    return -sum(share * (np.log2(share) if flaw == "bits" else np.log(share)) for share in shares)


@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in ("between 0 and 1", "bits"))])
def test_complexity(flaw):
    maps = torch.from_numpy(np.random.default_rng(3).normal(0, 3, (3, 12, 12)).round(2))
    assert_equal(complexity(maps), [entropy_of(grid, flaw) for grid in maps.numpy()], 1e-12)
    constant = torch.ones(2, 4, 4)
    constant[1, 0, 0] = torch.nan
    method, images = Fixed(world().model), torch.zeros(2, 3, 64, 64)
    assert efficient_randomisation(method, images, 0, maps=constant, last=maps[:2, :4, :4]).isnan().all()


@caught
def test_randomisation_of_a_method_that_does_not_look_at_the_model():
    images, targets, _ = few()
    assert randomisation(Fixed(world().model), images, targets).spearman.mean() < 0.3


def test_the_model_is_left_as_it_was_after_an_exception():
    class Failing(Fixed):
        def attribute(self, inputs, target=None):
            if not torch.equal(self.forward_func.head.weight, world().model.head.weight):
                raise RuntimeError("too new")
            return super().attribute(inputs)

    images, targets, _ = few()
    before = fingerprint(world().model, images)
    with pytest.raises(RuntimeError, match="too new"):
        randomisation(Failing(world().model), images, targets)
    assert changes(before, fingerprint(world().model, images)) == []


def test_stability():
    images, targets, maps = few()
    found = stability(world().method, images, targets, samples=3)
    assert_equal(stability(world().method, images[1:2], targets[1:2], samples=3), found[1:2], 1e-4)
    assert ((found > 0) & (found < 0.5)).all()
    assert (stability(world().method, images, targets, samples=3, radius=0.5) > found).all()
    draw, largest = torch.Generator().manual_seed(0), torch.zeros(FEW)
    for _ in range(3):
        noise = (torch.rand(1, 3, 64, 64, generator=draw, dtype=torch.float64) * 2 - 1).float() * 0.02
        other = world().method.attribute(images + noise, targets)[:, 0]
        largest = torch.maximum(largest, (other - maps).flatten(1).norm(dim=1) / maps.flatten(1).norm(dim=1))
    assert_equal(found, largest.double(), 1e-5)
    bad = images.clone()
    bad[2, 0, 0, 0] = torch.nan
    assert stability(world().method, bad, targets, samples=1).isnan().tolist() == [False, False, True, False]


def test_the_class_has_every_check():
    w = world()
    case = w.case(images=w.images[:FEW], maps=w.maps[:FEW], targets=w.targets[:FEW], logits=w.logits[:FEW])
    metric = METRICS["sanity"](samples=2)
    found = metric(case)
    assert list(found) == list(metric.figures)
    assert metric.needs == {"method", "model"}
    for values in found.values():
        assert values.shape == (FEW,)
        assert values.dtype == torch.float64
        assert values.isfinite().all()
    others = w.logits[:FEW].scatter(1, case.targets[:, None], -torch.inf).argmax(1)
    assert_equal(found["class_sensitivity"], class_sensitivity(w.method, case.images, case.targets, others), 1e-5)


def test_what_does_not_hold():
    w = world()
    images, targets, _ = few()
    assert Sanity(["sparseness"]).needs == frozenset()
    assert Sanity(["sparseness"])(w.case(method=None))["sparseness"].shape == (SCENES,)
    with pytest.raises(OptionError, match="checks must be some of sparseness, class_sensitivity, randomisation"):
        Sanity(["x"])
    with pytest.raises(InputError, match="the metric needs the method of the case"):
        Sanity(["stability"])(w.case(method=None))
    with pytest.raises(InputError, match="has no forward_func that is a model"):
        randomisation(Fixed(None), images, targets)
