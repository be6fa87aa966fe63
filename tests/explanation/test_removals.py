"""Scores without parts of an image: measured ones, estimated ones, and how wrong these are said to be."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from captum_vit import Explanation, Removals, explain, load_model, sample
from captum_vit.access import Readout, adapt
from captum_vit.capture import Inputs, Run
from captum_vit.capture.subsets import Subsets
from captum_vit.errors import ExplanationLoadError, InputError, OptionError, UnsupportedModelError
from captum_vit.explained import Label
from captum_vit.explanation.asking import Wanted
from captum_vit.explanation.explaining import Explainer
from captum_vit.explanation.judging import asked_of
from captum_vit.explanation.removing import removals_of, removed_sets
from captum_vit.explanation.saving import MANIFEST
from captum_vit.removals import packed, regions, regions_of, shares_of, unpacked
from captum_vit.sample.hard import Plan
from captum_vit.targets import Classes, Output
from tests.families.table import FAMILIES
from tests.fingerprint import changes, fingerprint
from tests.helpers import images as drawn

GRID = (6, 7)  # each patch is a region


def scene(seed: int = 15) -> Image.Image:
    return Image.fromarray(sample.draw_scene(seed, objects=2, size=64).image)


def hard_scene(seed: int) -> Image.Image:
    return Image.fromarray(Plan.draw(seed, objects=2).render(192).images[0])


def scattered(grid: tuple[int, int], count: int, seed: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, *grid, generator=draw) < torch.rand(count, 1, 1, generator=draw)


def additive(kept: Tensor) -> Tensor:
    """What each patch adds to the score is there with it."""
    return kept.double() @ torch.linspace(-0.5, 1, GRID[0] * GRID[1], dtype=torch.float64) - 2


def in_pairs(kept: Tensor) -> Tensor:
    """A patch adds what it adds where its neighbour is there too."""
    together = (kept[..., ::2] & kept[..., 1::2]).double()
    return together @ torch.linspace(-0.7, 1, GRID[0] * GRID[1] // 2, dtype=torch.float64) - 2


def measured_of(rule: Callable[[Tensor], Tensor]) -> Removals:
    """Of a model of two classes whose first has log-odds by a rule of the patches that are there."""

    def on_tokens(kept: Tensor, target: Any, *, batch: int) -> Tensor:
        scores = torch.stack([rule(kept), torch.zeros(len(kept))], 1)
        return target.score(Output(None, scores))[None]

    whole = Output(None, torch.stack([rule(torch.ones(1, 42, dtype=torch.bool)), torch.zeros(1)], 1))
    run: Any = SimpleNamespace(
        layout=SimpleNamespace(grid=GRID), readout=Readout(), on_tokens=on_tokens, scores=whole.scores
    )
    loaded = replace(load_model("sample"), multi_label=False)
    [found] = removals_of(run, [Wanted(Classes(0), [Label(0, "one", 0.5)])], lambda target: whole, loaded)
    return found["one"]


@pytest.mark.parametrize(
    "rule", [additive, pytest.param(in_pairs, marks=pytest.mark.xfail(strict=True, raises=AssertionError))]
)
def test_of_an_additive_score_the_estimate_is_exact(rule: Callable[[Tensor], Tensor]):
    """And is said to be; of one in pairs it is not."""
    found = measured_of(rule)
    others = scattered(GRID, 50)
    assert found.odds
    assert found.base == pytest.approx(float(rule(torch.ones(1, 42, dtype=torch.bool)).sigmoid()), abs=1e-6)
    assert [found.score_without(each) for each in others] == pytest.approx(
        rule(~others.flatten(1)).sigmoid().tolist(), abs=1e-4
    )
    assert found.estimate.error_90 < 1e-4


def test_of_a_score_in_pairs_the_error_is_told():
    assert measured_of(in_pairs).estimate.error_90 > 0.01


def test_the_order_of_choices_is_that_of_the_scores():
    """Of each region of an additive score the coefficient is what its patch adds."""
    found = measured_of(additive)
    assert found.estimate.coefficients == pytest.approx(
        (-torch.linspace(-0.5, 1, 42, dtype=torch.float64)).tolist(), abs=1e-3
    )


def by_hand(told: dict[str, Any], patches: Tensor) -> float:
    """The score as a page computes it, from numbers, words and lists alone."""
    (rows, cols), (down, across) = told["grid"], told["regions"]

    def shares(bits: list[bool]) -> list[float]:
        taken, sizes = [0] * (down * across), [0] * (down * across)
        for place, bit in enumerate(bits):
            region = place // cols * down // rows * across + place % cols * across // cols
            taken[region] += bit
            sizes[region] += 1
        return [a / b for a, b in zip(taken, sizes, strict=True)]

    def bits(word: str) -> list[bool]:
        return [bool(int(word[place // 4], 16) >> (3 - place % 4) & 1) for place in range(rows * cols)]

    own = patches.flatten().tolist()
    measured = [value for word, value in zip(told["removed"], told["values"], strict=True) if bits(word) == own]
    value = measured[0] if measured else told["values"][0]
    if not measured:
        x = shares(own)
        value += sum(a * b for a, b in zip(told["coefficients"], x, strict=True))
        for word, weight in zip(told["removed"], told["weights"], strict=True):
            far = sum((a - b) ** 2 for a, b in zip(shares(bits(word)), x, strict=True))
            value += weight * math.exp(-far / (2 * told["reach"] ** 2))
    return 1 / (1 + math.exp(-value)) if told["odds"] else value


@pytest.mark.parametrize("model", ["sample", "sample/hard"])
def test_a_page_computes_the_same(model: str):
    found = explain(scene(), model, removals=True).removals
    for removals in found.values():
        told = json.loads(json.dumps(removals.to_dict()))
        for patches in [*scattered(removals.grid, 10), *removals.removed[::20]]:
            assert by_hand(told, patches) == pytest.approx(removals.score_without(patches), abs=1e-9)


def test_measured_scores_are_told_as_the_model_gives_them():
    found = explain(scene(), target="cross", removals=True).removals["cross"]
    assert not found.painted
    own = [found.score_without(each) for each in found.removed]
    assert own == pytest.approx(found.values.sigmoid().tolist(), abs=1e-12)
    assert all(found.between(each) == (score, score) for each, score in zip(found.removed, own, strict=True))
    model, pixels = load_model("sample").model, load_model("sample").preprocess(scene())[None]
    place = sample.CLASSES.index("cross")
    with Run(adapt(model), Inputs(pixels)) as run:
        logits = run.on_tokens(~found.removed.flatten(1), Classes(place))[0]
    assert own == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    assert found.base == pytest.approx(explain(scene(), target="cross").targets[0].score, abs=1e-5)


def test_without_its_object_a_class_scores_less():
    """Than without as much of what is beside it; of the model with one head for all classes, too."""
    for seed in (15, 21, 22, 23):
        shown = sample.draw_scene(seed, objects=2, size=64)
        name = sample.CLASSES[shown.labels[0]]
        check_object(Image.fromarray(shown.image), "sample", name, torch.from_numpy(shown.masks[0]))


@pytest.mark.parametrize("seed", [15, 21, 23])
def test_without_its_object_a_class_of_the_hard_model_scores_less(seed: int):
    shown, model = Plan.draw(seed, objects=2).render(96), load_model("sample/hard")
    found = explain(Image.fromarray(shown.images[0]), model)
    label = found.targets[0]
    assert label.index is not None
    check_object(
        Image.fromarray(shown.images[0]), "sample/hard", label.title, torch.from_numpy(shown.masks[0, label.index])
    )


def check_object(image: Image.Image, model: str, name: str, mask: Tensor) -> None:
    removals = explain(image, model, target=name, removals=True).removals[name]
    rows, cols = removals.grid
    cells = mask.unflatten(1, (cols, -1)).unflatten(0, (rows, -1)).permute(0, 2, 1, 3).flatten(2).any(2)
    assert 0 < cells.sum() < rows * cols / 2
    mirrored = cells.flip(1) & ~cells
    without, beside = removals.score_without(cells), removals.score_without(mirrored)
    assert without < removals.base - 0.2
    assert without < beside


def fresh(image: Image.Image, model: str) -> tuple[Removals, Tensor, list[float]]:
    """Removals, and strokes by another seed with what the model says of them."""
    explainer = Explainer(model)
    asked = explainer.ask(removals=True)
    seen = explainer.see(image)
    [found] = explainer.answer([seen], asked)
    label, removals = found.targets[0], found.removals[found.targets[0].title]
    others = removed_sets(removals.grid, seed=99)
    others = torch.stack(
        [each for each in others[1 + len(regions(removals.grid)) + 1 :] if not removals.measured(each)]
    )
    with Run(explainer.adapter, Inputs(seen.inputs[None])) as run:
        target = asked_of(run, Wanted(Classes(label.index), [label]), explainer.loaded)
        values = run.on_tokens(~others.flatten(1), target)[0]
    return removals, others, values.sigmoid().tolist()


def test_the_error_is_what_it_is_said_to_be():
    """Of fresh strokes about nine of ten lie within it, about half within the median, and nine of ten in between."""
    halves, most, between, count = 0, 0, 0, 0
    pictures = [(scene(seed), "sample") for seed in (15, 21, 22, 23)] + [
        (hard_scene(seed), "sample/hard") for seed in (15, 22)
    ]
    for image, model in pictures:
        removals, others, scores = fresh(image, model)
        for patches, score in zip(others, scores, strict=True):
            wrong = abs(removals.score_without(patches) - score)
            low, high = removals.between(patches)
            assert low <= removals.score_without(patches) <= high
            halves, most = halves + (wrong <= removals.estimate.error), most + (wrong <= removals.estimate.error_90)
            between, count = between + (low <= score <= high), count + 1
    assert count > 600
    assert 0.82 <= most / count <= 0.97
    assert 0.82 <= between / count <= 0.97
    assert 0.35 <= halves / count <= 0.65


def test_it_is_right_of_a_removal_that_is_not_measured():
    """Better than to say the same whatever is removed."""
    removals, others, scores = fresh(hard_scene(15), "sample/hard")
    wrong = [abs(removals.score_without(each) - score) for each, score in zip(others, scores, strict=True)]
    same = [abs(np.median(scores) - score) for score in scores]
    assert np.mean(wrong) < 0.6 * np.mean(same)


@pytest.mark.parametrize("grid", [(3, 3), (8, 8), (14, 14), (7, 16), (16, 16), (24, 24), (37, 37)])
def test_what_is_removed(grid: tuple[int, int]):
    """Nothing, regions that never split a patch, everything, and joined strokes; each once, the same each time."""
    down, across = regions_of(grid)
    assert max(down, across) <= 8
    every = regions(grid)
    assert torch.equal(every.sum(0), torch.ones(grid, dtype=torch.long))
    sizes = every.flatten(1).sum(1)
    assert (sizes > 0).all()
    assert sizes.max() <= 2 * sizes.min() or max(grid) > 16
    sets = removed_sets(grid)
    count = down * across
    assert not sets[0].any()
    assert torch.equal(sets[1 : 1 + count], every)
    assert sets[1 + count].all()
    assert len({each.numpy().tobytes() for each in sets}) == len(sets) <= 194
    assert torch.equal(sets, removed_sets(grid))
    assert not torch.equal(sets, removed_sets(grid, seed=1))
    shares = sets[2 + count :].flatten(1).double().mean(1)
    assert 0 < shares.min() <= shares.max() <= 0.7
    assert torch.equal(torch.cat([sets[: 1 + count], sets[2 + count :]]), removed_sets(grid, empty=False))
    assert all(torch.equal(unpacked(packed(each), grid), each) for each in sets[::10])


def test_a_part_of_a_region_is_its_share():
    removed = torch.zeros(1, 14, 14, dtype=torch.bool)
    removed[0, 0, :3] = True
    shares = shares_of(removed)
    assert shares.shape == (1, 49)
    assert shares[0, :3].tolist() == [0.5, 0.25, 0]


@pytest.mark.parametrize("targets", [["cross"], ["cross", "disc", "cross/disc"]])
def test_what_they_cost(targets: list[str], monkeypatch: pytest.MonkeyPatch):
    """Rows that go through the model, shared by all targets; none where they were not asked for."""
    rows: list[int] = []
    scores = Subsets.scores

    def counted(self: Subsets, kept: Tensor, *asked: Any) -> Tensor:
        rows.append(len(self.inputs.images) * kept.shape[-2])
        return scores(self, kept, *asked)

    monkeypatch.setattr(Subsets, "scores", counted)
    assert explain(scene(), target=targets).removals == {}
    assert rows == []
    found = explain(scene(), target=targets, removals=True).removals
    assert len(found) == len(targets)
    assert sum(rows) == len(next(iter(found.values())).values) - 1 <= 193


def test_a_model_stays_as_it_was():
    loaded = load_model("sample")
    pixels = loaded.preprocess(scene())[None]
    before, drawn_before = fingerprint(loaded.model, pixels), torch.get_rng_state()
    explain(scene(), loaded, removals=True)
    assert not changes(before, fingerprint(loaded.model, pixels))
    assert torch.equal(torch.get_rng_state(), drawn_before)


def test_a_batch_equals_its_singles():
    """Also where each image has predicted classes of its own."""
    together = explain([scene(15), scene(21)], removals=True)
    for found, seed in zip(together, (15, 21), strict=True):
        alone = explain(scene(seed), removals=True).removals
        assert list(found.removals) == list(alone) == [label.title for label in found.targets]
        for title, removals in alone.items():
            assert torch.allclose(found.removals[title].values, removals.values, atol=1e-3)


def test_of_other_targets_and_of_maps_for_all():
    found = explain(scene(), method=["agcam", "rollout"], target=["cross", "cross/disc"], removals=True)
    contrast = found.removals["cross rather than disc"]
    assert (contrast.odds, contrast.unit) == (False, "logit difference")
    assert contrast.base == pytest.approx(found.targets[1].score, rel=1e-4)
    for title, target in {"cross": "cross", "cross rather than disc": "cross/disc"}.items():
        alone = explain(scene(), target=target, removals=True).removals[title]
        assert torch.allclose(found.removals[title].values, alone.values, atol=1e-4)
    assert list(found.only(target="cross").removals) == ["cross"]
    assert list(found.only("agcam").removals) == list(found.reduced(32).removals) == list(found.removals)
    assert list(explain(scene(), method="rollout", target="cross", removals=True).removals) == ["cross"]


@pytest.mark.parametrize("head", [{"num_classes": 0}, {"class_token": False, "global_pool": "avg"}])
def test_of_models_without_classes_and_without_a_class_token(head: dict[str, Any]):
    """Where the score is read from patches alone, the one without any of them is not measured."""
    torch.manual_seed(0)
    asked: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, **head}
    model = timm.models.VisionTransformer(**asked).eval()
    found = explain(drawn(1, (32, 32))[0], model, removals=True)
    [(title, removals)] = found.removals.items()
    assert removals.measured(torch.ones(8, 8, dtype=torch.bool)) == ("class_token" not in head)
    assert (title, removals.unit, removals.odds) == (
        (found.targets[0].title, "score", True) if found.targets else ("", "weighted feature", False)
    )


def test_of_a_video_there_are_none():
    run: Any = SimpleNamespace(layout=SimpleNamespace(grid=(4, 8, 8)))
    with pytest.raises(UnsupportedModelError, match=r"expected a grid \(rows, cols\), got \(4, 8, 8\)"):
        removals_of(run, [], lambda target: Output(None, torch.zeros(1, 2)), load_model("sample"))


def test_where_tokens_cannot_be_left_out_patches_are_painted_over():
    [pit] = [family for family in FAMILIES if (family.library, family.name) == ("timm", "PiT")]
    model, pixels = pit.build(), drawn(2, pit.size)
    loaded = replace(load_model("sample"), model=model, multi_label=False)
    with Run(adapt(model), Inputs(pixels)) as run:
        output = Output(None, run.scores)
        wanted = Wanted(Classes([0, 1]), [Label(0, "cat", 0.5), Label(1, "dog", 0.5)])
        found = [
            each[name]
            for each, name in zip(removals_of(run, [wanted], lambda _: output, loaded), ("cat", "dog"), strict=True)
        ]
    rows, cols = found[0].grid
    image, number = pixels[1].clone(), len(found[1].values) - 1
    assert found[1].painted
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            if found[1].removed[number, int((y + 0.5) * rows / image.shape[1]), int((x + 0.5) * cols / image.shape[2])]:
                image[:, y, x] = pixels[1].mean((1, 2))
    with torch.no_grad():
        expected = model(image[None]).double().softmax(1)[0, 1]
    assert float(found[1].values[number].sigmoid()) == pytest.approx(float(expected), abs=1e-5)


def test_why_not():
    loaded = load_model("sample")
    with pytest.raises(UnsupportedModelError, match="train mode"):
        explain(scene(), replace(loaded, model=loaded.model.train()), removals=True)
    with pytest.raises(OptionError, match="removals must be"):
        explain(scene(), removals=1)
    with pytest.raises(InputError, match="2x3 patches are too few"):
        removed_sets((2, 3))
    found = explain(scene(), target="cross", removals=True).removals["cross"]
    with pytest.raises(InputError, match=r"which patches are removed is bool \(8, 8\), got torch.bool \(4, 4\)"):
        found.score_without(torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="not finite"):
        replace(found, values=found.values * math.nan)
    with pytest.raises(InputError, match="nothing first"):
        replace(found, removed=found.removed[1:], values=found.values[1:])
    with pytest.raises(InputError, match="at least 10 removals"):
        replace(found, removed=found.removed[:67], values=found.values[:67])


@pytest.fixture(scope="module")
def full() -> Explanation:
    return explain(scene(), target=["cross", "cross/disc"], removals=True)


def test_what_is_saved_is_what_is_loaded(full: Explanation, tmp_path: Path):
    full.save(tmp_path)
    loaded = Explanation.load(tmp_path)
    assert list(loaded.removals) == list(full.removals)
    for title, removals in full.removals.items():
        other = loaded.removals[title]
        assert torch.equal(other.removed, removals.removed)
        assert torch.equal(other.values, removals.values)
        assert (other.odds, other.unit, other.painted) == (removals.odds, removals.unit, removals.painted)
        assert other.to_dict() == removals.to_dict()
    assert (tmp_path / MANIFEST).stat().st_size < 100_000
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    del manifest["removals"]  # as an earlier version wrote it
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert Explanation.load(tmp_path).removals == {}


WRONG: list[tuple[list[Any], object, str]] = [
    ([], [], "removals must be values by name"),
    (["cross"], None, "removals.cross must be values by name"),
    (["cross", "removed"], "00", "removals.cross.removed must be a list of 1 to 512"),
    (["cross", "removed"], [], "removals.cross.removed must be a list of 1 to 512"),
    (["cross", "removed"], ["0" * 16] * 513, "removals.cross.removed must be a list of 1 to 512"),
    (["cross", "removed", 1], "0" * 15, r"removals.cross.removed\[1\] must be a removal of 8x8 patches"),
    (["cross", "removed", 1], "0x" + "0" * 14, r"removals.cross.removed\[1\] must be a removal of 8x8 patches"),
    (["cross", "removed", 1], 7, r"removals.cross.removed\[1\] must be text, got 7"),
    (["cross", "removed", 0], "8" + "0" * 15, "removals.cross: expected removals bool .* nothing first"),
    (["cross", "removed"], ["0" * 16], "removals.cross.values must be a list of 1"),
    (["cross", "values"], None, "removals.cross.values must be a list of 194"),
    (["cross", "values", 3], math.nan, r"removals.cross.values\[3\] must be a finite number, got nan"),
    (["cross", "values", 3], 1e200, "removals.cross: the scores without some patches are not finite"),
    (["cross", "values", 3], True, r"removals.cross.values\[3\] must be a finite number, got True"),
    (["cross", "odds"], 1, "removals.cross.odds must be true or false"),
    (["cross", "unit"], 1, "removals.cross.unit must be text"),
    (["cross", "painted"], None, "removals.cross.painted must be true or false"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_manifest_that_somebody_edited(
    full: Explanation, tmp_path: Path, path: list[Any], value: object, message: str
):
    full.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    inner: Any = manifest
    for key in (own := ["removals", *path])[:-1]:
        inner = inner[key]
    inner[own[-1]] = value
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match=f"is damaged: {message}"):
        Explanation.load(tmp_path)


def test_what_is_told_of_the_estimate_is_computed_anew(full: Explanation, tmp_path: Path):
    """So that nobody's file says that it is better than it is."""
    full.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["removals"]["cross"] |= {"error": 0, "error_90": 0, "coefficients": [math.inf], "regions": [0, 0]}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert Explanation.load(tmp_path).removals["cross"].to_dict() == full.removals["cross"].to_dict()
