"""Patches taken away, from the image or from the tokens: curves, SaCo, single deletions; against loops and twins."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from captum_vit import adapt
from captum_vit.capture import Inputs, Run
from captum_vit.errors import InputError, OptionError, UnsupportedModelError
from captum_vit.metrics import (
    Case,
    Course,
    Faithfulness,
    Perturbation,
    patch_drops,
    perturbation_curve,
    saco,
    single_deletion,
)
from captum_vit.metrics.faithfulness import BY_GREY, BY_TOKENS
from tests.families.table import FAMILIES
from tests.helpers import CLASSES, timm_vit
from tests.helpers import images as drawn
from tests.metrics.world import assert_equal
from tests.properties.broken import caught

TARGETS = torch.tensor([3, 0, 3])
GRID, PATCH, CELLS = (4, 4), 8, 16


@cache
def world():
    """A model, images, and maps with ties, one of them of both signs."""
    maps = torch.randint(0, 6, (3, *GRID), generator=torch.Generator().manual_seed(4)).double()
    maps[1] -= 3
    return timm_vit().double(), drawn(3).double(), maps


def score_of(logits: torch.Tensor, label: int, kind: str) -> float:
    values = logits[0].detach().numpy()
    if kind == "softmax":
        values = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    return float(values[label])


def on_tokens(image: torch.Tensor, kept: list[int], flaw: str | None = None) -> torch.Tensor:
    """The model step by step, with some of its patches alone between embedding and blocks."""
    model = world()[0]
    patches = model.patch_embed(image[None])
    if flaw == "zeros in their place":
        patches = patches * torch.tensor([float(p in kept) for p in range(CELLS)]).view(1, -1, 1)
        kept = list(range(CELLS))
    x = torch.cat([model.cls_token, patches], 1) + model.pos_embed
    if flaw == "positions move up":
        x = torch.cat([model.cls_token, patches[:, kept]], 1) + model.pos_embed[:, : len(kept) + 1]
    else:
        x = x[:, [0, *(1 + p for p in kept)]]
    for block in model.blocks:
        x = block(x)
    return model.head(model.norm(x)[:, 0])


def in_image(image: torch.Tensor, gone: list[int], colour: torch.Tensor | float) -> torch.Tensor:
    changed = image.clone()
    for p in gone:
        y, x = p // GRID[1] * PATCH, p % GRID[1] * PATCH
        changed[:, y : y + PATCH, x : x + PATCH] = colour
    return world()[0](changed[None])


def without(image: torch.Tensor, gone: list[int], how: str, flaw: str | None = None) -> torch.Tensor:
    if how == "tokens":
        return on_tokens(image, [p for p in range(CELLS) if p not in gone], flaw)
    return in_image(image, gone, 0.0 if how == "grey" else image.mean((1, 2)).view(3, 1, 1))


def order_of(grid: np.ndarray, most_first: bool) -> list[int]:
    flat = grid.ravel()
    return sorted(range(flat.size), key=lambda p: (-flat[p] if most_first else flat[p], p))


@pytest.mark.parametrize("score", ["softmax", "logit"])
@pytest.mark.parametrize("start", ["image", "occluder"])
@pytest.mark.parametrize(
    "flaw",
    [None, *(pytest.param(f, marks=caught) for f in ("zeros in their place", "positions move up", "least first"))],
)
def test_curves_by_tokens(flaw, start, score):
    model, images, maps = world()
    levels = (0.0, 0.3, 0.5, 1.0)
    course = Course(levels=levels, occluder="tokens", unit="patch", start=start, score=score)
    curve = perturbation_curve(model, images, maps, TARGETS, course, batch_size=5)
    theirs = []
    for image, grid, label in zip(images, maps.numpy(), TARGETS.tolist(), strict=True):
        order, row = order_of(grid, flaw != "least first"), []
        for level in levels:
            taken = order[: int(CELLS * level)]
            kept = taken if start == "occluder" else [p for p in range(CELLS) if p not in taken]
            row.append(score_of(on_tokens(image, sorted(kept), flaw), label, score))
        theirs.append(row)
    assert_equal(curve.scores, torch.tensor(theirs, dtype=torch.float64), 1e-9)
    with Run(adapt(model), Inputs(images)) as run:
        assert_equal(perturbation_curve(run, images, maps, TARGETS, course).scores, curve.scores, 1e-9)


def saco_of(image, grid, label, groups, how, flaw=None) -> float:
    """Algorithm 1 of the paper, group by group and pair by pair."""
    order, flat = order_of(grid, True), grid.ravel()
    bounds = [-(-i * CELLS // groups) for i in range(groups + 1)]
    parts = [order[a:b] for a, b in pairwise(bounds)]
    whole = score_of(world()[0](image[None]), label, "softmax")
    gone = [order[:b] for b in bounds[1:]] if flaw == "one after another" else parts
    fall = [whole - score_of(without(image, g, how), label, "softmax") for g in gone]
    salience = [np.mean([flat[p] for p in part]) for part in parts]
    total = weighed = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            weight = 1.0 if flaw == "no weights" else salience[i] - salience[j]
            agrees = fall[i] < fall[j] if flaw == "upside down" else fall[i] >= fall[j]
            total, weighed = total + (weight if agrees else -weight), weighed + abs(weight)
    return total / weighed


SACO_FLAWS = ("one after another", "no weights", "upside down")


@pytest.mark.parametrize("how", ["mean", "grey", "tokens"])
@pytest.mark.parametrize("groups", [4, 5])
@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in SACO_FLAWS)])
def test_saco(flaw, groups, how):
    model, images, maps = world()
    course = Course(occluder=0.0 if how == "grey" else how, unit="patch")
    ours = saco(model, images, maps, TARGETS, course, groups=groups, batch_size=7)
    cases = zip(images, maps.numpy(), TARGETS.tolist(), strict=True)
    assert_equal(ours, [saco_of(x, m, label, groups, how, flaw) for x, m, label in cases], 1e-9)


def single_of(image, grid, label, how, flaw=None) -> float:
    fall = [-score_of(without(image, [p], how), label, "logit") for p in range(CELLS)]
    if flaw == "kept alone":
        fall = [
            score_of(without(image, [q for q in range(CELLS) if q != p], how), label, "logit") for p in range(CELLS)
        ]
    values = np.abs(grid.ravel()) if flaw == "signs lost" else grid.ravel()
    found = stats.pearsonr(values, fall) if flaw == "values" else stats.spearmanr(values, fall)
    return float(found.statistic)


@pytest.mark.parametrize("how", ["grey", "tokens"])
@pytest.mark.parametrize(
    "flaw", [None, *(pytest.param(f, marks=caught) for f in ("kept alone", "signs lost", "values"))]
)
def test_single_deletion(flaw, how):
    model, images, maps = world()
    drops = patch_drops(model, images, TARGETS, GRID, BY_GREY if how == "grey" else BY_TOKENS, batch_size=7)
    cases = zip(images, maps.numpy(), TARGETS.tolist(), strict=True)
    assert_equal(single_deletion(maps, drops), [single_of(x, m, label, how, flaw) for x, m, label in cases], 1e-9)
    assert_equal(single_deletion(drops, drops), [1.0] * 3)
    if how == "grey":  # where patches end before the image does
        wide = torch.nn.functional.pad(images, (0, 3, 0, 5), value=9.0)
        inner = patch_drops(lambda x: model(x[:, :, :32, :32]), wide, TARGETS, GRID, BY_GREY, cover=(32, 32))
        assert_equal(inner, drops, 1e-9)


def case_of(**changes) -> Case:
    model, images, maps = world()
    given = {"images": images, "targets": TARGETS, "maps": maps, "model": model}
    return Case(**(given | {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.2, 0.1)} | changes))


@pytest.mark.parametrize(
    "flaw", [None, *(pytest.param(f, marks=caught) for f in ("with the last level", "upside down"))]
)
def test_srg_over_occluders(flaw):
    model, images, maps = world()
    ours = Perturbation("srg", batch_size=16)(case_of())
    assert [name for name in ours if name.startswith("srg")] == [
        f"srg_{name}" for name in ("grey", "black", "mean", "blur", "tokens")
    ]
    levels = [i / 10 for i in range(11 if flaw == "with the last level" else 10)]
    for how in ("grey", "mean", "tokens"):
        theirs = []
        for image, grid, label in zip(images, maps.numpy(), TARGETS.tolist(), strict=True):
            areas = []
            for most_first in (flaw == "upside down", flaw != "upside down"):
                order = order_of(grid, most_first)
                gone = [order[: int(CELLS * level)] for level in levels]
                areas.append(np.mean([score_of(without(image, g, how), label, "softmax") for g in gone]))
            theirs.append(areas[0] - areas[1])
        assert_equal(ours[f"srg_{how}"], theirs, 1e-9)
    alone = Perturbation("tokens")(case_of())
    assert_equal(alone["srg_tokens"], ours["srg_tokens"], 1e-9)
    for how in ("black", "blur"):
        course = Course(levels=levels[:10], occluder=(-torch.tensor([1.0, 2, 3])).view(3, 1, 1), unit="patch")
        course = course if how == "black" else Course(levels=levels[:10], occluder="blur", unit="patch")
        morf, lerf = (perturbation_curve(model, images, maps, TARGETS, course, order=o).area for o in ("MoRF", "LeRF"))
        assert flaw or (ours[f"srg_{how}"] - (lerf - morf)).abs().max() < 1e-9


def test_drops_are_asked_once_for_all_methods(monkeypatch):
    maps, asked = world()[2], []
    plain = Run.on_tokens
    monkeypatch.setattr(Run, "on_tokens", lambda run, kept, *a, **o: (asked.append(kept), plain(run, kept, *a, **o))[1])
    case = case_of()
    found = [Faithfulness("tokens", groups=4)(replace(case, maps=m))["single_deletion_tokens"] for m in (maps, -maps)]
    assert_equal(found[0], -found[1], 1e-9)
    assert [kept.shape[1] for kept in asked] == [CELLS, 4, 4]
    other = Faithfulness("tokens")(replace(case, targets=(TARGETS + 1) % CLASSES))
    assert not torch.equal(other["single_deletion_tokens"], found[0])  # another question: other drops


@pytest.mark.parametrize("preset", ["image", "tokens"])
def test_maps_on_pixels_are_those_of_their_patches(preset):
    maps = world()[2]
    pixels = maps.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    ours, theirs = (Faithfulness(preset, groups=4)(case_of(maps=m)) for m in (pixels, maps))
    end = "_tokens" if preset == "tokens" else ""
    assert ours.keys() == {f"saco{end}", f"single_deletion{end}"} == Faithfulness(preset).figures.keys()
    assert_equal(ours[f"single_deletion{end}"], theirs[f"single_deletion{end}"], 1e-9)
    assert all(figure.words.endswith("?") for figure in Faithfulness(preset).figures.values())


def test_what_is_undefined():
    model, images, maps = world()
    maps = maps.clone()
    maps[0], maps[1, 0, 0] = 2, torch.nan
    found = Faithfulness("tokens", groups=4)(case_of(maps=maps)) | Faithfulness(groups=4)(case_of(maps=maps))
    for values in found.values():
        assert values.isnan().tolist() == [True, True, False]
    images = images.clone()
    images[0, 0, 0, 0] = torch.nan
    curve = perturbation_curve(model, images, world()[2], TARGETS, occluder="tokens", unit="patch")
    assert curve.area.isnan().tolist() == [True, False, False]
    one = torch.ones(3, 1, 1)
    assert single_deletion(one, one.double()).isnan().all()
    assert saco(model, images, one, TARGETS, Course(unit="patch")).isnan().all()


def test_what_does_not_hold():
    model, images, maps = world()
    with pytest.raises(OptionError, match="occluder='tokens' leaves out whole patches: pass unit='patch'"):
        perturbation_curve(model, images, maps, TARGETS, occluder="tokens")
    with pytest.raises(InputError, match=r"maps lie on the model's grid of \(4, 4\), got \(2, 2\)"):
        perturbation_curve(model, images, maps[:, :2, :2], TARGETS, occluder="tokens", unit="patch")
    with pytest.raises(InputError, match="tokens are seen in a model, or in a run of it on these images: got function"):
        perturbation_curve(lambda x: model(x), images, maps, TARGETS, occluder="tokens", unit="patch")
    with Run(adapt(model), Inputs(images[:2])) as run, pytest.raises(InputError, match="the run is of 2 images, and 3"):
        perturbation_curve(run, images, maps, TARGETS, occluder="tokens", unit="patch")
    with pytest.raises(OptionError, match="groups must be at least 2, so that there are pairs of them, got 1"):
        saco(model, images, maps, TARGETS, groups=1)
    with pytest.raises(OptionError, match="preset must be one of image, tokens, got 'x'"):
        Faithfulness("x")


def test_a_model_of_which_no_patch_can_be_left_out_says_why():
    """It pools its patches on the way."""
    [pit] = [family for family in FAMILIES if (family.library, family.name) == ("timm", "PiT")]
    x = drawn(1, pit.size)
    case = Case(x, torch.tensor([0]), torch.rand(1, 4, 4), model=pit.build())
    with pytest.raises(UnsupportedModelError, match=r"cannot be left out: .*pools its patches.*occlusion"):
        Perturbation("tokens")(case)
    assert Perturbation("agcam")(case)["abpc"].isfinite().all()  # in the image they can
