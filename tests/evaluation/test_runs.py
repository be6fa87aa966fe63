"""Whole runs on the sample: rows, errors, the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image

from captum_vit import AGCAM, Explainer, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.data import open_data
from captum_vit.errors import OptionError, RunError
from captum_vit.evaluation import Evaluator, Leaderboard, Plan, evaluate, read_rows
from captum_vit.metrics import METRICS
from tests.cli.helpers import run

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
    model = explainer.loaded.model
    methods = {
        "agcam": AGCAM(model), "ig": IntegratedGradients(model),
        "mine": lambda model, images, targets: images.abs().mean(1),
    }  # fmt: skip
    rows = Evaluator(explainer, open_data("sample:2"), methods, [METRICS["localization"]()])(range(2))
    assert [row["method"] for row in rows] == ["agcam", "ig", "mine"] * 2
    assert all(np.isfinite(row["energy_inside"]) for row in rows)
    with pytest.raises(OptionError, match="a method is an attribution or a callable"):
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
