"""Whole runs on the sample: rows, errors, the command line."""

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
from transformers import ViTConfig, ViTForImageClassification

from captum_vit import AGCAM, Explainer, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.data import open_data
from captum_vit.errors import OptionError, RunError
from captum_vit.evaluation import Evaluator, Leaderboard, Plan, evaluate, read_rows
from captum_vit.evaluation.shards import read_manifest
from captum_vit.metrics import METRICS, Case, Metric
from tests.cli.helpers import run
from tests.data import made

FEW = Plan(data="sample:6", methods=("agcam", "random"))


def columns(folder: Path) -> dict[str, list[Any]]:
    table = read_rows(folder)
    return {name: table[name].to_pylist() for name in table.column_names}


def test_rows_are_what_the_method_and_the_metric_say(tmp_path: Path):
    evaluate(FEW, tmp_path)
    found = columns(tmp_path)
    data, model = open_data("sample:6"), build()
    assert found["item"] == [i for i in range(len(data)) for _ in range(2)]
    assert found["method"] == ["agcam", "random"] * len(data)
    assert found["id"][::2] == list(data.ids)
    for i in range(len(data)):
        item = data[i]
        inputs = PREPROCESSING(item.image)[None]
        grid = AGCAM(model).attribute(inputs, target=item.target)
        place = torch.nn.functional.interpolate(grid, (64, 64), mode="bilinear")[0, 0]
        rows, cols = (np.arange(64) * 8 + 4,) * 2
        mask = torch.from_numpy(item.masks[np.ix_(rows, cols)])
        energy = (place * mask).sum() / place.sum()
        assert found["energy_inside"][2 * i] == pytest.approx(energy.item(), abs=1e-5)
        assert found["score"][2 * i] == pytest.approx(model(inputs)[0, item.target].sigmoid().item(), abs=1e-5)


def test_batches_do_not_matter(tmp_path: Path):
    evaluator = FEW.make()
    together = evaluator(range(4))
    alone = [row for i in range(4) for row in evaluator([i])]
    for a, b in zip(together, alone, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert (
                a[name] == pytest.approx(b[name], nan_ok=True, abs=1e-4)
                if isinstance(a[name], float)
                else a[name] == b[name]
            )


def test_a_run_that_is_done_does_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    evaluate(FEW, tmp_path, shard=4)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("rows-*")}
    monkeypatch.setattr(Evaluator, "__call__", lambda *_: pytest.fail("worked"))
    evaluate(FEW, tmp_path, shard=4)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("rows-*")} == before


def test_other_settings_need_another_folder(tmp_path: Path):
    evaluate(FEW, tmp_path)
    with pytest.raises(RunError, match="holds a run with other settings"):
        evaluate(Plan(data="sample:6", methods=("daam",)), tmp_path)


def test_methods_of_others_stand_beside_ours():
    explainer = Explainer("sample")
    methods = {
        "agcam": "agcam", "ig": IntegratedGradients,
        "mine": lambda model, images, targets: images.abs().mean(1),
    }  # fmt: skip
    rows = Evaluator(explainer, open_data("sample:2"), methods, [METRICS["localization"]()])(range(2))
    assert [row["method"] for row in rows] == ["agcam", "ig", "mine"] * 2
    assert all(np.isfinite(row["energy_inside"]) for row in rows)
    with pytest.raises(OptionError, match="a method is an attribution or a function"):
        Evaluator(explainer, open_data("sample:2"), {"no": 3}, [])


def folder_of_scenes(folder: Path, count: int) -> Path:
    """Images with masks in the layout of a plain folder; one image is cut off."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed in range(count):
        scene = sample.draw_scene(seed, objects=1)
        name = sample.CLASSES[scene.labels[0]]
        for kind, pixels in (("images", scene.image), ("masks", (255 * scene.masks[0]).astype(np.uint8))):
            (folder / kind / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / name / f"{seed:04d}.png")
    first = sorted((folder / "images").rglob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:200])
    return folder


def test_a_truncated_image_is_a_row_with_its_error(tmp_path: Path):
    data = folder_of_scenes(tmp_path / "data", 5)
    board = evaluate(Plan(data=f"folder:{data}", methods=("agcam",)), tmp_path / "run")
    found = columns(tmp_path / "run")
    assert found["item"] == list(range(5))
    assert [bool(error) for error in found["error"]] == [True] + [False] * 4
    assert "damaged" in found["error"][0]
    assert len(board.errors) == 1
    assert board.mean("agcam", "energy_inside").count == 4


def test_maps_end_where_the_last_whole_patch_does(tmp_path: Path):
    """68 pixels are eight patches of 8 and a rest, which no map reaches and no metric counts."""
    config = {"image_size": 68, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**config, intermediate_size=32, num_labels=8)).eval()
    crop = Compose([Resize((68, 68)), ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    explainer = Explainer(model, preprocess=crop, class_names=list(sample.CLASSES))
    seen: list[Case] = []

    class Spy(Metric):
        name, needs, figures = "spy", frozenset(), MappingProxyType({})

        def __call__(self, case):
            seen.append(case)
            return {}

    rows = Evaluator(explainer, open_data("sample:1"), ["agcam"], [Spy()], keep_maps=True)([0])
    assert rows[0]["grid"] == [8, 8]
    case = seen[0]
    assert case.maps.shape == (1, 68, 68)
    grid = torch.from_numpy(rows[0]["map"]).float().view(1, 1, 8, 8)
    inner = torch.nn.functional.interpolate(grid, (64, 64), mode="bilinear")[0, 0]
    torch.testing.assert_close(case.maps[0, :64, :64], inner, atol=1e-3 * float(inner.max()), rtol=2e-3)
    assert case.valid[0, :64, :64].all()
    assert not case.valid[0, 64:].any()
    assert not case.valid[0, :, 64:].any()


def test_data_without_masks_is_told(tmp_path: Path):
    made.imagenet(tmp_path / "data", folders=True, annotations=False)
    out = str(tmp_path / "run")
    found = run("evaluate", "--data", f"imagenet:{tmp_path / 'data'}", "--methods", "agcam,rollout", "--target",
                "predicted", "--metrics", "localization,perturbation:rise", "--out", out)  # fmt: skip
    assert "| method  | deletion ↓" in found.stdout
    assert "iou" not in found.stdout
    assert "defined for no item, as without masks or boxes: average_precision, energy_inside," in found.stderr


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's
def test_what_the_command_line_can_ask_for(tmp_path: Path):
    out = str(tmp_path / "run")
    found = run("evaluate", "--data", "sample:2", "--methods", "rollout,captum.attr:Saliency", "--metrics",
                "localization:chefer,perturbation:chefer", "--option", "discard_ratio=0.5", "--option", "fusion=max",
                "--squash", "--out", out)  # fmt: skip
    assert "chefer_miou ↑" in found.stdout
    assert "Saliency" in found.stdout
    assert "less the others, paired:" in found.stdout
    settings = read_manifest(tmp_path / "run")["settings"]
    assert settings["methods"]["rollout"]["options"] == {"discard_ratio": "0.5", "fusion": "'max'"}
    assert {p.name for p in (tmp_path / "run").glob("l*")} == {"leaderboard.csv", "leaderboard.png"}
    per_class = [line.split(",")[1] for line in (tmp_path / "run" / "leaderboard.csv").read_text().splitlines()[1:]]
    assert len(set(per_class)) > 2
    for wrong, message in (
        (("--option", "fusion"), "an option is NAME=VALUE"),
        (("--metrics", "perturbation:x"), "preset must be one of agcam, chefer, rise, got 'x'"),
        (("--metrics", "sanity:x"), "checks must be some of sparseness, .*, got 'x'"),
        (("--metrics", "localisation"), "no metric 'localisation'.*nearest: localization"),
        (("--data", "imagenet:/no/such"), "no such file or folder"),
    ):
        assert re.search(message, run("evaluate", *wrong, "--out", str(tmp_path / "no"), code=2).stderr)


def test_the_command_line(tmp_path: Path):
    result = run("evaluate", "--data", "sample:4", "--methods", "agcam,random", "--out", str(tmp_path / "a"))
    assert result.stdout.startswith("| method | ")
    assert {"leaderboard.csv", "manifest.json"} <= {p.name for p in (tmp_path / "a").iterdir()}
    run("evaluate", "--data", "sample:4", "--methods", "daam", "--out", str(tmp_path / "b"))
    table = run("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--metric", "energy_inside").stdout
    assert table.count("\n") == 2 + 3
    assert "no method 'agcm'" in run("evaluate", "--methods", "agcm", code=2).stderr
    assert "no run in" in run("compare", str(tmp_path), code=2).stderr
    assert isinstance(Leaderboard.read(tmp_path / "a"), Leaderboard)
