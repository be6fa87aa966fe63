"""The verdict of a map: what the score does without what it marks, and all else that one line says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.stats import t
from torch import Tensor, nn

import captum_vit
from captum_vit import AGCAM, CPLRP, Explanation, explain, load_model, sample
from captum_vit.access import adapt
from captum_vit.capture import Inputs, Run
from captum_vit.capture.subsets import Subsets
from captum_vit.errors import ExplanationLoadError
from captum_vit.explanation import marked
from captum_vit.explanation.marked import LogOdds, compared, without_marks
from captum_vit.figures import titles
from captum_vit.metrics.redrawing import draw_anew
from captum_vit.targets import Classes, Output
from captum_vit.untrained import looks_untrained
from captum_vit.verdicts import UNTRAINED, Verdict
from tests.families.table import FAMILIES
from tests.figures.made import explanation as made
from tests.helpers import images as drawn

SCENES = [20, pytest.param(100, marks=pytest.mark.slow)]  # how many are shown; the rule was chosen on others
TESTED = Verdict("cat", 0.98, 0.31, (0.95, 0.981), "carries", tokens=19, patches=196, draws=7)


def random_sample(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.models.VisionTransformer(**sample.CONFIG).eval()


def scenes(count: int, first: int = 100) -> Tensor:
    """Pictures of the sample as its model takes them."""
    drawn = np.stack([sample.draw_scene(first + i, objects=2).image for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def scene(seed: int = 15) -> Image.Image:
    return Image.fromarray(sample.draw_scene(seed, objects=2, size=64).image)


@pytest.mark.parametrize("count", SCENES)
def test_a_right_map_is_told_from_a_shuffled_one(count: int):
    """The map of the best class is trusted, and the same with its patches mixed is not."""
    model, images = load_model("sample").model, scenes(count)
    with torch.no_grad():
        best = model(images).argmax(1).tolist()
    own = AGCAM(model).attribute(images, target=best).flatten(1)
    draw = torch.Generator().manual_seed(1)
    mixed = torch.stack([each[torch.randperm(64, generator=draw)] for each in own])
    asked = LogOdds(Classes(best), alone=True)
    with Run(adapt(model), Inputs(images)) as run:
        whole = asked.score(Output(None, run.scores))
        found = without_marks(run, asked, whole, {"own": own, "mixed": mixed}, [Verdict("best")] * count)
    pairs = [(a.trusted, b.trusted) for a, b in zip(found["own"], found["mixed"], strict=True)]
    assert pairs.count((True, False)) >= 0.95 * count


@pytest.mark.parametrize("count", SCENES)
def test_a_random_models_verdict_is_told_from_the_trained_ones(count: int):
    """In each scene the trained one's is a finding, and that of a random model, another in each, that it is none."""
    shown, trained = [scene(100 + i) for i in range(count)], load_model("sample")
    learnt = [found.attributions[0].verdict for found in explain(shown, trained, verdict=True)]
    models = [replace(trained, model=random_sample(seed)) for seed in range(count)]
    drawn_anew = [
        explain(image, model, verdict=True).attributions[0].verdict for image, model in zip(shown, models, strict=True)
    ]
    told = [
        a is not None and b is not None and bool(a.trusted) and b.trusted is False and b.text == UNTRAINED != a.text
        for a, b in zip(learnt, drawn_anew, strict=True)
    ]
    assert sum(told) >= 0.95 * count


@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_is_told_from_the_trained_one(seed: int):
    assert not looks_untrained(load_model("sample").model)
    made, other = random_sample(seed), random_sample(seed)
    torch.manual_seed(seed)
    for module in other.modules():
        draw_anew(module)
    assert looks_untrained(made)
    assert looks_untrained(other)
    learnt = load_model("sample").model
    with torch.no_grad():
        for p in learnt.parameters():  # the numbers of the trained one, in no order
            p.copy_(p.flatten()[torch.randperm(p.numel())].view_as(p))
    assert looks_untrained(learnt)


def test_of_too_few_matrices_nothing_is_said():
    layers = [nn.Linear(64, 64) for _ in range(4)]
    assert looks_untrained(nn.Sequential(*layers))
    assert not looks_untrained(nn.Sequential(*layers[:3]))
    assert not looks_untrained(nn.Sequential(*layers[:3], nn.Linear(64, 8)))
    nn.init.zeros_(layers[3].weight)
    assert not looks_untrained(nn.Sequential(*layers))


def test_an_untrained_model_is_said_everywhere():
    found = explain(scene(), replace(load_model("sample"), model=random_sample(0)), verdict=True)
    verdict = found.attributions[0].verdict
    assert verdict is not None
    assert verdict.untrained
    assert verdict.trusted is False
    assert verdict.text == UNTRAINED
    assert found.attributions[0].warning == "model looks untrained"


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"method": "agcam"}, 8),
        ({"method": ["agcam", "rollout"]}, 16),
        ({"method": "rollout", "target": ["cross", "disc"]}, 8),
        ({"method": "agcam", "target": ["cross", "disc"]}, 16),
    ],
)
def test_a_verdict_takes_eight_forwards_a_map_at_most(
    asked: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
):
    """What a run checks once, before it leaves anything out, is not counted."""
    rows: list[int] = []
    scores = Subsets.scores

    def counted(self: Subsets, kept: Tensor, *asked: Any) -> Tensor:
        rows.append(kept.shape[:-1].numel())
        return scores(self, kept, *asked)

    monkeypatch.setattr(Subsets, "scores", counted)
    explain(scene(), verdict=False, **{"target": "cross", **asked})
    assert rows == []
    explain(scene(), verdict=True, **{"target": "cross", **asked})
    assert sum(rows) == most


def by_hand(whole: float, values: list[float]) -> tuple[float, float]:
    """The interval of one more draw, from the formula."""
    random = np.array(values[1:])
    n = len(random)
    reach = t.ppf(0.995, n - 1) * np.sqrt(random.var(ddof=1) * (1 + 1 / n))
    return random.mean() - reach, random.mean() + reach


def of_the_mean(whole: float, values: list[float]) -> tuple[float, float]:
    """Wrong: where the mean of the draws lies, not one more."""
    random = np.array(values[1:])
    reach = t.ppf(0.995, len(random) - 1) * random.std(ddof=1) / np.sqrt(len(random))
    return random.mean() - reach, random.mean() + reach


@pytest.mark.parametrize(
    "interval", [by_hand, pytest.param(of_the_mean, marks=pytest.mark.xfail(strict=True, raises=AssertionError))]
)
@pytest.mark.parametrize("draws", [3, 4, 5, 6, 7])
def test_the_interval_is_the_formula(interval: Any, draws: int):
    values = [2.0, *np.random.default_rng(0).normal(5, 1, draws)]
    found = compared(Verdict("cat"), 5.5, torch.tensor(values, dtype=torch.float64), odds=False)
    assert found.without_random == pytest.approx(interval(5.5, values), rel=1e-3)
    shares = compared(Verdict("cat"), 5.5, torch.tensor(values, dtype=torch.float64), odds=True)
    assert shares.without_random == pytest.approx(1 / (1 + np.exp(-np.array(found.without_random))), rel=1e-6)


@pytest.mark.parametrize(
    ("whole", "without", "finding"),
    [(8.0, 1.0, "carries"), (8.0, 6.0, "counts"), (8.0, 7.5, "chance"), (8.0, 7.95, "chance"), (8.0, 9.0, "against")],
)
def test_what_is_found(whole: float, without: float, finding: str):
    values = torch.tensor([without, 7.5, 7.6, 7.4, 7.5, 7.6, 7.4], dtype=torch.float64)
    assert compared(Verdict("cat"), whole, values, odds=False).finding == finding


def test_a_class_that_is_hardly_there_carries_nothing():
    values = torch.tensor([-9.0, -6.0, -6.1, -5.9, -6.0], dtype=torch.float64)
    found = compared(Verdict("cat", tokens=6, patches=64, draws=4), -6.0, values, odds=True)
    assert found.finding == "counts"
    assert "the model sees hardly any of this class here" in found.text


def test_scores_that_do_not_move_are_chance():
    """Of a model that gives a constant, whose rounding is all that differs."""
    values = torch.tensor([2.0 - 1e-6, 2.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    assert compared(Verdict("cat"), 2.0, values, odds=True).finding == "chance"


@pytest.mark.parametrize(("alone", "shares"), [(False, False), (True, False), (False, True)])
def test_log_odds(alone: bool, shares: bool):
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 4
    p = logits.sigmoid() if alone else logits.softmax(1)
    scores = p if shares else logits
    found = LogOdds(Classes([0, 3, 4]), alone, shares).score(Output(None, scores))
    own = p.double()[range(3), [0, 3, 4]]
    torch.testing.assert_close(found, (own / (1 - own)).log(), rtol=1e-4, atol=1e-4)
    if not alone and not shares:  # a logit alone is none
        assert not torch.allclose(found, logits.double()[range(3), [0, 3, 4]], atol=0.1)


@pytest.mark.parametrize(("patches", "count", "size"), [(64, 6, 8), (196, 19, 25), (9, 1, 1)])
def test_the_others_are_dealt_into_random_parts_whatever_the_batch(patches: int, count: int, size: int):
    maps = torch.rand(3, patches, generator=torch.Generator().manual_seed(0))
    kept = marked._choices(maps, count, 7)
    assert kept.shape == (3, 8, patches)
    assert ((~kept).sum(2) == torch.tensor([count] + 7 * [size])).all()
    assert ((~kept).sum(1) <= 1).all()
    for i, own in enumerate(maps):
        assert set((~kept[i, 0]).nonzero().flatten().tolist()) == set(own.topk(count).indices.tolist())
        assert torch.equal(marked._choices(maps[i : i + 1], count, 7)[0], kept[i])


def test_a_batch_equals_its_singles():
    asked: dict[str, Any] = {"method": ["agcam", "raw_attention"], "verdict": True, "target": "cross"}
    together = explain([scene(15), scene(16)], **asked)
    for one, own in zip(together, (15, 16), strict=True):
        alone = explain(scene(own), **asked)
        for title, verdict in alone.verdicts.items():
            other = one.verdicts[title]
            assert (verdict.finding, verdict.second) == (other.finding, other.second)
            assert verdict.without_random == pytest.approx(other.without_random, abs=1e-4)
            assert verdict.likeness == pytest.approx(other.likeness, abs=1e-4)


def test_what_else_is_said():
    found = explain(scene(), method=["cp_lrp", "rollout"], target="cross", verdict=True)
    model, names = load_model("sample").model, sample.CLASSES
    images = load_model("sample").preprocess(scene())[None]
    lrp, rollout = (a.verdict for a in found)
    assert lrp is not None
    assert rollout is not None
    (held,) = CPLRP(model).completeness(images, target=names.index("cross"))
    assert lrp.sum == pytest.approx(held.map / held.score, rel=1e-3)
    assert rollout.sum is None
    second = next(label for label in found.labels if label.title != "cross")
    assert lrp.second == second.title
    other = CPLRP(model).attribute(images, target=second.index).flatten()
    own = found.attributions[0].map.flatten()
    assert lrp.likeness == pytest.approx(float(torch.corrcoef(torch.stack([own, other]))[0, 1]), abs=1e-3)
    assert rollout.for_all
    assert rollout.likeness is None
    assert "one for all targets, tested with" in rollout.text
    assert (lrp.others, rollout.others) == (1, 1)
    assert lrp.agreement == rollout.agreement
    alone = explain(scene(), method="cp_lrp", target="cross", verdict=True).attributions[0].verdict
    assert alone is not None
    assert alone.agreement is None
    half = explain(scene(), method="cp_lrp", target="cross", layer=[0, 1], verdict=True).attributions[0].verdict
    assert half is not None
    assert half.sum is None, "the map of some layers claims nothing"


def test_of_two_classes_each_is_compared_with_the_other():
    found = explain(scene(), target=["cross", "disc", "cross/disc"], verdict=True)
    assert [a.verdict and a.verdict.second for a in found] == ["disc", "cross", ""]
    contrast = found.attributions[2].verdict
    assert contrast is not None
    assert contrast.unit == "logit difference"
    assert contrast.score == pytest.approx(found.attributions[2].target.score, rel=1e-4)  # type: ignore[union-attr]


def test_where_tokens_cannot_be_left_out_patches_are_painted_over():
    """Openly: the line says so, and the numbers are those of painted pictures."""
    [pit] = [family for family in FAMILIES if (family.library, family.name) == ("timm", "PiT")]
    model, images = pit.build(), drawn(2, pit.size)
    with Run(adapt(model), Inputs(images)) as run:
        rows, columns = run.layout.grid
        own = torch.rand(2, rows * columns, generator=torch.Generator().manual_seed(0))
        known = [Verdict("cat", unit="logit")] * 2
        first, second = without_marks(run, Classes(0), run.scores[:, 0], {"own": own}, known)["own"]
    assert first.painted
    assert "painted over" in first.text
    painted, height, width = images.clone(), images.shape[2], images.shape[3]
    for image, whole, marks in zip(painted, images, own, strict=True):
        marked = marks.topk(max(1, rows * columns // 10)).indices.tolist()
        for y in range(height):
            for x in range(width):  # the patch that holds the pixel's centre
                if int((y + 0.5) * rows / height) * columns + int((x + 0.5) * columns / width) in marked:
                    image[:, y, x] = whole.mean((1, 2))
    with torch.no_grad():
        expected = model(painted)[:, 0]
    assert [first.without_map, second.without_map] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_map_that_marks_nothing_is_not_tested():
    run = Run(adapt(load_model("sample").model), Inputs(scenes(1)))
    maps = {"even": torch.ones(1, 64), "broken": torch.full((1, 64), torch.nan)}
    with run:
        found = without_marks(run, Classes(0), torch.zeros(1), maps, [Verdict("disc")])
    assert (
        found["even"][0].text
        == "Not tested what the marked part does: the map is the same everywhere, and marks no part."
    )
    assert "NaN" in found["broken"][0].reason
    assert found["even"][0].trusted is None


def test_a_model_in_train_mode_has_no_verdict_and_says_why():
    model = load_model("sample").model.train()
    found = explain(scene(), replace(load_model("sample"), model=model), verdict=True).attributions[0].verdict
    assert found is not None
    assert found.finding == "untested"
    assert "train mode" in found.text


@pytest.mark.parametrize(
    ("verdict", "text", "warning"),
    [
        (TESTED, "without a random eighth it is 95.0 to 98.1 %: the marked part carries this answer.", ""),
        (replace(TESTED, finding="counts"), "counts more than chance, but the answer does not stand or fall", ""),
        (
            replace(TESTED, finding="chance", without_map=0.97),
            "to 97.0 %, no more than without a random eighth (95.0 to 98.1 %): do not trust this picture.",
            "no better than random",
        ),
        (replace(TESTED, finding="against", without_map=0.99), "speaks against", "marks what speaks against it"),
        (
            replace(TESTED, score=0.99949, without_map=0.99941),
            "falls from 99.95 % to 99.94 %; without a random",
            "",
        ),
        (replace(TESTED, painted=True), "With the marked tenth of the picture painted over the score", ""),
        (replace(TESTED, tokens=1, patches=4), "Without the marked part of the picture (1 of 4 patches)", ""),
        (replace(TESTED, flat=True), "nearly flat: it marks everything alike", "nearly flat"),
        (replace(TESTED, second="dog", likeness=0.98), 'The map of "dog" is nearly the same (correlation 0.98)', ""),
        (replace(TESTED, second="dog", likeness=0.1), 'The map of "dog" differs (correlation 0.10)', ""),
        (replace(TESTED, sum=0.871), "The map sums to 87 % of what it explains.", ""),
        (
            replace(TESTED, artifact_share=0.4, artifact_tokens=0.03),
            "40.0 % of the map lies on 3.0 % of the patches, whose tokens have an abnormal norm",
            "rests on artifacts",
        ),
        (replace(TESTED, artifact_share=0.24, artifact_tokens=0.03), "carries this answer.", ""),
        (replace(TESTED, artifact_share=0.3, artifact_tokens=0.15), "carries this answer.", ""),
        (replace(TESTED, others=1, agreement=0.5), "It agrees with the other method at 0.50", ""),
    ],
)
def test_the_line_and_the_caption(verdict: Verdict, text: str, warning: str):
    assert text in verdict.text
    assert verdict.warning == warning
    assert warning in verdict.short


def test_in_a_few_words():
    assert TESTED.short == "carries the answer: 98.0 -> 31.0 %, at random 95.0 to 98.1 %"
    assert Verdict("cat", reason="no patches").short == "not tested: no patches"
    assert replace(TESTED, untrained=True).short == "model looks untrained"


def test_planted_artifacts_are_told_beside_the_map():
    """Patches 9 and 40 are made as long as artifacts are, after the last but one block; the class token is none."""
    loaded, scale = load_model("sample"), torch.ones(65, 1).index_fill(0, torch.tensor([0, 10, 41]), 30.0)
    loaded.model.blocks[4].register_forward_hook(lambda module, args, output: output * scale)
    found = explain([scene(15), scene(16)], loaded, method=["agcam", "rollout"], target="cross", verdict=True)
    for one in found:
        for a in one:
            assert a.verdict is not None
            assert a.verdict.artifact_tokens == pytest.approx(2 / 64)
            values = a.map.abs().flatten()
            assert a.verdict.artifact_share == pytest.approx(float(values[[9, 40]].sum() / values.sum()), rel=1e-4)
    (clean,) = explain(scene(), target="cross", verdict=True).verdicts.values()
    assert (clean.artifact_tokens, clean.artifact_share, clean.rests_on_artifacts) == (0.0, 0.0, False)


def warned() -> Explanation:
    """Made by hand: one map that is no better than random, one without a verdict."""
    found = made(("agcam", "daam"))
    first, second = found.attributions
    chance = replace(TESTED, of="<b>cat</b>", finding="chance", without_map=0.97)
    return replace(found, attributions=(replace(first, verdict=chance), second))


def test_it_stands_beside_every_picture():
    found = warned()
    assert titles.lines(found.attributions[0])[-1] == ("no better than random", "")
    assert titles.heading(found.attributions[0])[1].endswith(", no better than random")
    assert len(titles.lines(found.attributions[1])) == 2
    page, inline = found.to_html(), found._repr_html_()
    assert '"judged":"no better than random"' in page
    assert "do not trust this picture" in page
    assert "do not trust this picture" in inline
    assert "<b>cat</b>" not in page + inline
    texts = [text.get_text() for text in found.plot().findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any("no better than random" in text for text in texts)


def test_it_is_saved_beside_its_map(tmp_path: Path):
    found = warned()
    found.save(tmp_path)
    assert Explanation.load(tmp_path).verdicts == found.verdicts
    manifest = json.loads((tmp_path / "explanation.json").read_text())
    assert manifest["attributions"][0]["verdict"]["text"] == found.attributions[0].verdict.text  # type: ignore[union-attr]
    for name, wrong in {
        "finding": "carries!",
        "score": None,
        "tokens": -1,
        "without_random": [1.0],
        "painted": 1,
        "flat": None,
    }.items():
        entry = {**manifest["attributions"][0]["verdict"], name: wrong}
        attributions = [{**manifest["attributions"][0], "verdict": entry}, manifest["attributions"][1]]
        (tmp_path / "explanation.json").write_text(json.dumps({**manifest, "attributions": attributions}))
        with pytest.raises(ExplanationLoadError, match=r"attributions\[0\].verdict"):
            Explanation.load(tmp_path)


def test_nothing_is_judged_unless_asked():
    found = explain(scene())
    assert found.verdicts == {}
    assert captum_vit.explain(scene(), verdict=True).verdicts.keys() == {a.title for a in found}
