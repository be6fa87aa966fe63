"""What a map says by itself and beside others: flatness, agreement, artifacts; against loops, and with wrong twins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from captum_vit import adapt
from captum_vit.capture import TOKENS, Inputs, Run
from captum_vit.errors import InputError, OptionError
from captum_vit.metrics import (
    agreement,
    artifact_share,
    artifact_tokens,
    flatness,
    rank_agreement,
    token_norms,
    top_overlap,
    top_weights,
)
from tests.helpers import CASES, images, timm_vit
from tests.metrics.world import assert_equal
from tests.properties.broken import caught, unshrunk

seeds = st.integers(0, 2**31)


def drawn(seed: int, levels: int = 50, grid: tuple[int, int] = (4, 5)) -> torch.Tensor:
    """Three signed maps of few levels, so that there are ties."""
    draw = np.random.default_rng(seed)
    maps = draw.integers(-levels, levels, (3, *grid)).astype(np.float64)
    maps[:, 0, :2] = -levels, levels  # never constant
    return torch.from_numpy(maps)


def entropy_of(values: np.ndarray, flaw: str | None) -> float:
    values = values.ravel() if flaw == "signs kept" else np.abs(values.ravel())
    whole, found = values.sum(), 0.0
    for value in values:
        share = value / whole
        found -= share * math.log(share) if share > 0 else 0.0
    return found if flaw == "not normalised" else found / math.log(values.size)


@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in ("signs kept", "not normalised"))])
def test_flatness(flaw):
    @unshrunk
    @given(seeds)
    def check(seed):
        maps = drawn(seed)
        assert_equal(flatness(maps), [entropy_of(m, flaw) for m in maps.numpy()], 1e-12)
        assert_equal(flatness(-3 * maps), flatness(maps), 1e-12)

    check()


def test_flatness_of_known_maps():
    peak, half = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    peak[0, 1, 2], half[0, 2:] = -3, 0
    assert_equal(flatness(torch.cat([peak, half, torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])), [0, 0.75, 1, 1], 1e-12)
    assert_equal(flatness(torch.full((1, 2, 2), 1e308, dtype=torch.float64)), [1.0])
    peak[0, 0, 0] = torch.nan
    assert flatness(torch.cat([peak, half])).isnan().tolist() == [True, False]
    assert flatness(torch.ones(2, 1, 1)).isnan().all()


def overlap_of(a: np.ndarray, b: np.ndarray, share: float, flaw: str | None) -> float:
    """Without ties on the threshold: sets of numbers of cells."""
    k = max(1, int(share * a.size))
    sign = 1 if flaw == "lowest" else -1
    first, second = (set(np.argsort(sign * x.ravel(), kind="stable")[:k].tolist()) for x in (a, b))
    return len(first & second) / (len(first | second) if flaw == "of the union" else k)


@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in ("lowest", "of the union"))])
def test_overlap_of_the_highest_cells(flaw):
    @unshrunk
    @given(seeds, st.sampled_from([0.04, 0.1, 0.25, 1.0]))
    def check(seed, share):
        draw = np.random.default_rng(seed)
        a, b = (np.stack([draw.permutation(30).reshape(5, 6) * 1.0 for _ in range(3)]) for _ in range(2))
        theirs = [overlap_of(x, y, share, flaw) for x, y in zip(a, b, strict=True)]
        assert_equal(top_overlap(torch.from_numpy(a), torch.from_numpy(b), share), theirs, 1e-12)

    check()


@given(seeds, st.sampled_from([0.1, 0.3]))
def test_equal_values_share_a_place_among_the_highest(seed, share):
    a, b = drawn(seed, levels=3), drawn(seed + 1, levels=3)
    assert_equal(top_weights(a, share).sum((1, 2)), [max(1, int(20 * share))] * 3, 1e-12)
    assert_equal(top_overlap(a, a, share), [1.0] * 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    mixed = [m.flatten(1)[:, order].view_as(m) for m in (a, b)]
    assert_equal(top_overlap(*mixed, share), top_overlap(a, b, share), 1e-12)  # reading order does not decide


def test_agreement_of_several_methods():
    maps = {name: drawn(seed) for seed, name in enumerate("abc")}
    maps["a"][1] = 2  # constant
    maps["b"][2, 0, 0] = torch.nan
    found = agreement(maps, 0.25)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (one, other), (rho, top) in found.items():
        for n in range(3):
            x, y = maps[one][n].ravel(), maps[other][n].ravel()
            bad = bool((x.isnan() | y.isnan()).any()) or (one == "a" and n == 1)
            assert bool(rho[n].isnan()) is bool(top[n].isnan()) is bad
            assert bad or rho[n].item() == pytest.approx(stats.spearmanr(x, y).statistic)
            assert bad or top[n] == top_overlap(maps[one][n : n + 1], maps[other][n : n + 1], 0.25)
    assert rank_agreement(torch.ones(2, 1, 1), torch.ones(2, 1, 1)).isnan().all()
    assert top_overlap(torch.ones(2, 1, 1), torch.ones(2, 1, 1)).isnan().all()


@caught
def test_agreement_is_not_of_the_values():
    maps = {"a": drawn(1), "b": drawn(1).exp()}
    rho, _ = agreement(maps)["a", "b"]
    assert_equal(rho, [stats.pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(*maps.values(), strict=True)])


def artifacts_of(norms: np.ndarray, flaw: str | None) -> list[bool]:
    values = norms.ravel()
    middle = np.mean(values) if flaw == "mean" else np.median(values)
    spread = np.std(values) / 1.4826 if flaw == "deviation" else np.median(np.abs(values - middle))
    times = 1 if flaw == "outliers alone" else 2
    return [bool(0.6745 * (v - middle) > 3.5 * spread and v > times * middle) for v in values]


@pytest.mark.parametrize(
    "flaw", [None, *(pytest.param(f, marks=caught) for f in ("mean", "deviation", "outliers alone"))]
)
def test_artifacts(flaw):
    @unshrunk
    @given(seeds)
    def check(seed):
        draw = np.random.default_rng(seed)
        norms = draw.normal(10, 0.5, (2, 6, 6)).clip(5)
        norms[0, draw.integers(6), draw.integers(6)] = draw.choice([14, 30, 150])
        norms[1, : draw.integers(1, 3)] = draw.normal(100, 10)
        found = artifact_tokens(torch.from_numpy(norms))
        assert found.flatten(1).tolist() == [artifacts_of(n, flaw) for n in norms]

    check()


def test_share_on_artifacts():
    artifacts = torch.zeros(3, 2, 2, dtype=torch.bool)
    artifacts[0, 0, 0] = True
    maps = torch.tensor([[[3.0, -1.0], [0.0, 0.0]]]).repeat(3, 1, 1)
    maps[2] = 0
    found = artifact_share(maps, artifacts)
    assert found[:2].tolist() == [0.75, 0.0]
    assert found[2].isnan()
    assert not artifact_tokens(torch.ones(2, 3, 3)).any()
    maps[0, 0, 0] = torch.inf
    assert artifact_share(maps, artifacts)[0].isnan()


@pytest.mark.parametrize("name", ["timm-vit", "timm-dinov2-reg4", "timm-avg", "hf-dinov2-registers"])
@pytest.mark.parametrize("flaw", [None, pytest.param("prefix first", marks=caught)])
def test_norms_are_those_of_the_last_blocks_patches(name, flaw):
    case = CASES[name]
    model, x, kept = case.build(), images(), {}
    adapter = adapt(model)
    last = list(adapter.blocks().values())[-1]
    handle = last.register_forward_hook(lambda module, args, output: kept.update(out=output))
    with torch.no_grad():
        model(x)
    handle.remove()
    out = kept["out"][0] if isinstance(kept["out"], tuple) else kept["out"]
    patches = out[:, :16] if flaw else out[:, -16:]
    assert case.prefix or flaw is None
    with Run(adapter, Inputs(x), {TOKENS}) as run:
        assert_equal(token_norms(run), (patches.double() ** 2).sum(2).sqrt().view(2, 4, 4), 1e-6)


def test_what_does_not_hold():
    maps = torch.rand(2, 3, 3)
    with pytest.raises(InputError, match=r"maps that are compared lie on one grid.*\(2, 3, 3\) and \(2, 3, 4\)"):
        top_overlap(maps, torch.rand(2, 3, 4))
    with pytest.raises(InputError, match="lie on one grid"):
        agreement({"a": maps, "b": maps[:1]})
    with pytest.raises(OptionError, match="share must be a number above 0 and at most 1, got 0"):
        top_overlap(maps, maps, 0)
    with Run(adapt(timm_vit()), Inputs(images())) as run:
        assert token_norms(run).shape == (2, 4, 4)  # asked late: with a forward of its own
