"""Metrics that share a run with the methods: by name through a whole evaluation, against their functions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from captum_vit import CPLRP, Explainer, adapt
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.capture import Inputs, Run
from captum_vit.data import open_data
from captum_vit.errors import OptionError
from captum_vit.evaluation import Evaluator, Plan, evaluate, read_rows
from captum_vit.metrics import (
    METRICS,
    Case,
    Traits,
    completeness_errors,
    flatness,
    named_metric,
    perturbation_curve,
    rank_agreement,
    saco,
)
from tests.metrics.world import assert_equal
from tests.properties.broken import caught

METHODS = ("agcam", "cp_lrp", "rollout", "random")
NAMES = ("faithfulness", "faithfulness:tokens", "traits", "sanity:emprt", "perturbation:tokens")
ITEMS = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("run")
    board = evaluate(Plan(data="sample:2", methods=METHODS, metrics=NAMES, keep_maps=True), folder)
    assert board.errors == []
    assert board.figures.keys() == {name for text in NAMES for name in named_metric(text).figures}
    assert all(figure.words.endswith("?") for figure in board.figures.values())  # kept with the run
    found = read_rows(folder).to_pylist()
    return {method: [row for row in found if row["method"] == method] for method in METHODS}


def maps_of(rows: list[dict]) -> torch.Tensor:
    return torch.stack([torch.tensor(np.array(row["map"])).view(*row["grid"]).double() for row in rows])


def column(rows: list[dict], name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in rows], dtype=torch.float64)


def test_a_run_says_what_the_functions_say(rows):
    model, data = build(), open_data("sample:2")
    images = torch.stack([PREPROCESSING(data[n].image) for n in range(ITEMS)])
    for method in ("agcam", "cp_lrp"):
        own = rows[method]
        maps, targets = maps_of(own), torch.tensor([row["target"] for row in own])
        assert_equal(column(own, "flatness"), flatness(maps), 1e-3)  # of maps kept in half precision
        for order, name in (("MoRF", "morf_tokens"), ("LeRF", "lerf_tokens")):
            levels = [i / 10 for i in range(10)]
            options = {"order": order, "levels": levels, "occluder": "tokens", "unit": "patch"}
            curve = perturbation_curve(model, images, maps, targets, **options)
            assert (column(own, name) - curve.area).abs().max() < 0.05  # half precision makes ties
        assert (column(own, "saco") - saco(model, images, maps, targets, batch_size=16)).abs().max() < 0.2
        assert column(own, "single_deletion_tokens").isfinite().all()


def test_agreement_is_with_the_other_methods_that_know_the_model(rows):
    maps = {method: maps_of(rows[method]) for method in METHODS}
    for method in ("agcam", "cp_lrp", "rollout"):
        others = [other for other in ("agcam", "cp_lrp", "rollout") if other != method]
        expected = torch.stack([rank_agreement(maps[method], maps[other]) for other in others]).mean(0)
        assert_equal(column(rows[method], "agreement_rank"), expected, 2e-3)
    assert column(rows["random"], "agreement_rank").abs().max() < 0.35
    assert column(rows["random"], "agreement_top").max() < 0.5


@caught
def test_agreement_leaves_out_baselines(rows):
    maps = {method: maps_of(rows[method]) for method in ("agcam", "cp_lrp", "rollout")}
    noise = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.stack([rank_agreement(maps["agcam"], m) for m in (maps["cp_lrp"], maps["rollout"], noise)]).mean(0)
    assert_equal(column(rows["agcam"], "agreement_rank"), expected, 2e-3)


def test_completeness_is_of_methods_that_account_for_it(rows):
    told = CPLRP(build()).completeness(
        torch.stack([PREPROCESSING(open_data("sample:2")[n].image) for n in range(ITEMS)]),
        torch.tensor([row["target"] for row in rows["cp_lrp"]]),
    )
    expected = [abs(one.score - one.map) / max(abs(one.score), abs(one.map)) for one in told]
    assert_equal(column(rows["cp_lrp"], "completeness_map"), expected, 1e-4)
    assert column(rows["cp_lrp"], "completeness_error").max() < 1e-4
    for method in ("agcam", "rollout", "random"):
        assert all(row["completeness_error"] is None or np.isnan(row["completeness_error"]) for row in rows[method])


def test_completeness_errors():
    parts = torch.tensor([[4.0, 3.0, 0.5, 0.5, 0.0], [4.0, 3.0, 0.0, 0.0, 0.0], [0.0, 1.0, -1.0, 0.5, 0.0], [0.0] * 5])
    of_map, error = completeness_errors(parts)
    assert_equal(of_map[:3], [0.25, 0.25, 1.0])
    assert_equal(error[:3], [0.0, 0.25, 0.5 / 2.5])
    assert of_map[3].isnan()
    assert error[3].isnan()


def test_what_the_metrics_ask_comes_of_the_forward_of_the_methods():
    """Norms of tokens cost no forward of their own."""
    explainer = Explainer("sample")
    calls = []
    explainer.loaded.model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    counts = []
    for metrics in ([Traits("flatness")], [Traits(["flatness", "agreement", "artifacts"])]):
        evaluator = Evaluator(explainer, open_data("sample:2"), ["agcam", "rollout"], metrics)
        evaluator([0])
        calls.clear()
        evaluator(range(ITEMS))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def test_a_method_that_fails_leaves_the_others_their_agreement(tmp_path: Path):
    seen = []

    def flaky(model, images, targets):
        seen.append(len(images))
        if len(images) > 1:
            raise RuntimeError("too many")
        return images.mean(1)

    methods = {"flaky": flaky, "agcam": "agcam", "rollout": "rollout"}
    evaluate(Plan(data="sample:1", methods=methods, metrics=("traits:agreement",), keep_maps=True), tmp_path / "run")
    found = read_rows(tmp_path / "run").to_pylist()
    assert max(seen) > 1
    maps = {row["method"]: row for row in found if row["item"] == 0}
    grids = {name: maps_of([row]) for name, row in maps.items()}
    grids["flaky"] = torch.nn.functional.avg_pool2d(grids["flaky"], 8)
    for name in methods:
        expected = np.mean([rank_agreement(grids[name], grids[o]).item() for o in methods if o != name])
        assert maps[name]["agreement_rank"] == pytest.approx(expected, abs=5e-3)


def test_what_does_not_hold():
    with pytest.raises(
        OptionError, match="checks must be some of flatness, agreement, artifacts, completeness, got 'x'"
    ):
        named_metric("traits:x")
    x, model = torch.randn(2, 3, 64, 64), build()
    with Run(adapt(model), Inputs(x)) as run:
        alone = Traits(["flatness", "agreement", "artifacts"])(
            Case(x, torch.zeros(2).long(), torch.rand(2, 8, 8), run=run)
        )
    assert alone["agreement_rank"].isnan().all()  # there are no others
    assert alone["flatness"].isfinite().all()
    for metric in (make() for make in METRICS.values()):
        assert metric.name == "localization" or all(figure.words for figure in metric.figures.values())
