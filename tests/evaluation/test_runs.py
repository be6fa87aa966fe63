"""Whole runs on the sample: rows, errors, the command line."""

import re
from dataclasses import replace
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
from captum_vit.errors import InputError, OptionError, RunError
from captum_vit.evaluation import Evaluator, Leaderboard, Plan, compare, evaluate, read_rows
from captum_vit.evaluation.shards import read_manifest
from captum_vit.metrics import METRICS, Case, Localization, Metric, Perturbation, perturbation
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
        "agcam": "agcam",
        "ig": IntegratedGradients,
        "mine": lambda model, images, targets: images.abs().mean(1),
    }
    rows = Evaluator(explainer, open_data("sample:2"), methods, [METRICS["localization"]()])(range(2))
    assert [row["method"] for row in rows] == ["agcam", "ig", "mine"] * 2
    assert all(np.isfinite(row["energy_inside"]) for row in rows)
    with pytest.raises(OptionError, match="a method is an attribution or a function"):
        Evaluator(explainer, open_data("sample:2"), {"no": 3}, [METRICS["localization"]()])


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

    pixels = torch.zeros(68, 68)
    pixels[30, 60] = 1
    methods = {"agcam": "agcam", "peak": lambda model, images, targets: pixels.expand(len(images), -1, -1)}
    every = [*(metric() for metric in METRICS.values()), Spy()]
    rows = Evaluator(explainer, open_data("sample:1"), methods, every, keep_maps=True)([0])
    assert not any("error" in row for row in rows), rows
    assert rows[0]["grid"] == [8, 8]
    whole, peak = seen[0].enlarged(), seen[1].enlarged()
    inner = torch.nn.functional.interpolate(seen[0].maps[None], (64, 64), mode="bilinear")[0]
    assert torch.equal(whole[:, :64, :64], inner)
    for beside in (whole[:, 64:], whole[:, :, 64:]):
        assert (beside == inner.min()).all()
    assert torch.equal(peak[0], pixels)  # a map of pixels lies on the whole input
    valid = seen[0].valid
    assert valid[0, :64, :64].all()
    assert not valid[0, 64:].any()
    assert not valid[0, :, 64:].any()
    with pytest.raises(InputError, match="unit='patch' needs inputs of whole patches"):
        Perturbation(unit="patch")(seen[0])


def test_void_pixels_do_not_count(tmp_path: Path):
    """VOC's borders and difficult things, against a loop over pixels."""
    made.voc(tmp_path / "data")
    spec = f"voc:{tmp_path / 'data'}?masks=1"
    almost = torch.ones(64, 64)
    almost[-1] = 0
    methods = {"almost": lambda model, images, targets: almost.expand(len(images), -1, -1)}
    evaluate(Plan(data=spec, methods=methods, target="predicted"), tmp_path / "run")
    found, data, void = columns(tmp_path / "run"), open_data(spec), 0
    for n, item in enumerate(data[i] for i in range(len(data))):
        at = [np.floor((np.arange(64) + 0.5) * side / 64).astype(int) for side in item.image.size[::-1]]
        mask, valid = item.masks[np.ix_(*at)], item.valid[np.ix_(*at)]
        region = almost.bool().numpy()
        share = (region & mask & valid).sum() / ((region | mask) & valid).sum()
        if not (mask & valid).any():
            assert np.isnan(found["iou"][n])
            continue
        assert found["iou"][n] == pytest.approx(share, abs=1e-6)
        void += (region & ~valid).sum()
    assert void > 0


def test_chefers_accuracy_is_that_of_the_label(tmp_path: Path):
    """Where the prediction is wrong, no perturbed image counts as right for being predicted as before."""
    plan = Plan(data="sample:8", methods="agcam", metrics="perturbation:chefer", target="predicted")
    evaluate(plan, tmp_path)
    found, data, model = columns(tmp_path), open_data("sample:8"), build()
    wrong = [i for i in range(len(data)) if found["label"][i] != found["prediction"][i]]
    assert len(wrong) >= 4
    for i in wrong[:4]:
        image, label = PREPROCESSING(data[i].image)[None], found["label"][i]
        grid = AGCAM(model).attribute(image, found["prediction"][i])[:, 0]
        truth = perturbation(model, image, grid, [label], "chefer", mean=sample.MEAN, std=sample.STD)
        assert found["negative"][i] == pytest.approx(truth["negative"].item(), abs=0.12)  # batches round otherwise


def test_a_run_in_which_all_fails_says_so(tmp_path: Path):
    (tmp_path / "data" / "images" / "disc").mkdir(parents=True)
    (tmp_path / "data" / "images" / "disc" / "a.png").write_bytes(b"no image")
    out = tmp_path / "run"
    found = run("evaluate", "--data", f"folder:{tmp_path / 'data'}", "--methods", "agcam", "--out", out, code=1)
    assert "Failed in all: 1, the rows say which" in found.stderr
    board = Leaderboard.read(out)
    assert board.methods == []
    assert board.per_class("iou") == {}
    assert board.undefined() == list(board.figures)


def test_what_a_reader_has_to_know_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No finite map of a method, items that do not count, a protocol that was published otherwise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_methods.py").write_text(
        "def nans(model, images, targets):\n    return images[:, 0] * float('nan')\n"
    )
    found = run(
        "evaluate",
        "--data",
        "sample:4",
        "--methods",
        "agcam,own_methods:nans",
        "--metrics",
        "localization,localization:agcam,perturbation:rise",
        "--out",
        "run",
        code=1,
    )
    assert "Failed: nans has no map of 8 of 8 items: OptionError: the map has 4096 of 4096 values" in found.stderr
    assert re.search(r"^nans +none +none", found.stdout, re.M)
    assert re.search(r"Note: \d of 8 items count for agcam_iou; others have no object, or none", found.stderr)
    assert "Note: perturbation:rise is published with target predicted" in found.stderr
    assert "written: run, with leaderboard.md" in found.stdout
    assert "| pointing_game by class ↑ |" in Path("run/leaderboard.md").read_text()


def test_a_folder_of_ones_own(tmp_path: Path):
    """Classes' folders without masks: what has to be asked otherwise is said."""
    for name in ("disc", "tiger"):
        (tmp_path / "own" / name).mkdir(parents=True)
        open_data("sample:1")[0].image.save(tmp_path / "own" / name / f"{name}.png")
    asked = ("evaluate", "--data", f"folder:{tmp_path / 'own'}", "--methods", "agcam", "--out")
    found = run(*asked, tmp_path / "a", code=1)
    assert "no class 'tiger' in 'sample'" in found.stderr
    assert "or explain the class that is predicted, by the target 'predicted'" in found.stderr
    assert "; --metrics perturbation needs none" in found.stderr
    assert "Without a baseline" not in found.stdout
    found = run(*asked, tmp_path / "b", "--target", "predicted", "--metrics", "perturbation")
    assert "1 method, 2 questions about 2 images" in " ".join(found.stdout.split())


def test_a_folder_stays_free_where_a_run_cannot_begin(tmp_path: Path):
    with pytest.raises(RunError, match="'<lambda>' fails on a grey image"):
        evaluate(Plan(data="sample:1", methods=[lambda model, images, targets: None]), tmp_path)
    assert evaluate(Plan(data="sample:1", methods=["agcam"]), tmp_path).methods == ["agcam"]


def test_names_for_the_classes_of_a_checkpoint(tmp_path: Path):
    folder_of_scenes(tmp_path / "data", 3)
    (tmp_path / "names.txt").write_text("\n".join(f"the {name}" for name in sample.CLASSES), encoding="utf-8")
    for kind in ("images", "masks"):
        for folder in (tmp_path / "data" / kind).iterdir():
            folder.rename(folder.with_name(f"the {folder.name}"))
    asked = ("evaluate", "--data", f"folder:{tmp_path / 'data'}", "--methods", "agcam", "--out", tmp_path / "run")
    assert "no class 'the " in run(*asked, code=1).stderr
    asked = (*asked[:-1], tmp_path / "named", "--class-names", tmp_path / "names.txt")
    assert "Failed in all: 1, " in run(*asked, code=1).stderr  # the image that is cut off
    assert "cannot read" in run(*asked[:-1], tmp_path / "none.txt", code=2).stderr


def test_what_failed_is_done_again_if_asked(tmp_path: Path):
    data = folder_of_scenes(tmp_path / "data", 5)
    damaged = sorted((data / "images").rglob("*.png"))[0]
    plan = Plan(data=f"folder:{data}", methods=("agcam",))
    assert len(evaluate(plan, tmp_path / "run", shard=2).errors) == 1
    Image.fromarray(sample.draw_scene(9, objects=1).image).save(damaged)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("rows-*")}
    assert len(evaluate(plan, tmp_path / "run", shard=2).errors) == 1
    assert evaluate(plan, tmp_path / "run", shard=2, retry=True).errors == []
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("rows-*")}
    assert sum(kept[p] != again[p] for p in kept) == 1


def test_a_run_goes_on_where_the_data_was_moved_and_in_other_batches(tmp_path: Path):
    folder_of_scenes(tmp_path / "data", 4)
    plan = Plan(data=f"folder:{tmp_path / 'data'}", methods=("agcam",), batch_size=4)
    before = evaluate(plan, tmp_path / "run", shard=2).to_markdown()
    (tmp_path / "run" / "rows-000001.parquet").unlink()
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = Plan(data=f"folder:{tmp_path / 'moved'}/", methods=("agcam",), batch_size=1)
    assert evaluate(moved, tmp_path / "run", shard=2).to_markdown() == before


def test_two_runs_are_subtracted_image_by_image(tmp_path: Path):
    for name, layer in (("all", None), ("last", [-1])):
        explainer = Explainer("sample", layer=layer)
        evaluate(Evaluator(explainer, open_data("sample:4"), ["agcam"], [Localization()]), tmp_path / name)
    one, other = (np.array(columns(tmp_path / name)["iou"]) for name in ("all", "last"))
    table = compare([tmp_path / "all", tmp_path / "last"], "iou")
    cells = [cell.split()[0] for cell in table.splitlines()[2].split("|")[2:-1]]
    expected = (one.mean(), other.mean(), (other - one).mean())
    assert [float(cell) for cell in cells] == pytest.approx(expected, abs=6e-4)
    assert abs(expected[2]) > 0.01


def test_runs_over_other_images_or_classes_are_not_subtracted(tmp_path: Path):
    evaluate(FEW, tmp_path / "a")
    evaluate(replace(FEW, target="predicted"), tmp_path / "b")
    evaluate(replace(FEW, data="sample:5"), tmp_path / "c", shard=4)
    (tmp_path / "c" / "rows-000001.parquet").unlink()
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert "second - first" not in found
    assert found.endswith("Not subtracted: the runs have other target.")
    found = compare([tmp_path / "a", tmp_path / "c"])
    assert f"{tmp_path / 'c'}: 6 of 10 items so far." in found
    assert "Not subtracted: the runs have other data." in found


def test_data_without_masks_is_told(tmp_path: Path):
    made.imagenet(tmp_path / "data", folders=True, annotations=False)
    out = str(tmp_path / "run")
    found = run(
        "evaluate",
        "--data",
        f"imagenet:{tmp_path / 'data'}",
        "--methods",
        "agcam,rollout",
        "--target",
        "predicted",
        "--metrics",
        "localization,perturbation:rise",
        "--out",
        out,
    )
    assert re.search(r"^method +deletion ↓ +insertion ↑$", found.stdout, re.M)
    assert "iou" not in found.stdout
    assert "defined for no item, as without masks or boxes: average_precision, energy_inside," in found.stderr


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's
def test_what_the_command_line_can_ask_for(tmp_path: Path):
    out = str(tmp_path / "run")
    found = run(
        "evaluate",
        "--data",
        "sample:2",
        "--methods",
        "rollout,captum.attr:Saliency",
        "--metrics",
        "localization:chefer,perturbation:chefer",
        "--option",
        "discard_ratio=0.5",
        "--option",
        "fusion=max",
        "--squash",
        "--out",
        out,
    )
    assert re.search(r"miou ↑", found.stdout)
    assert "Saliency" in found.stdout
    assert "Without a baseline nobody knows" in found.stdout
    assert re.search(r"less +\| paired, image by image", (tmp_path / "run/leaderboard.md").read_text())
    settings = read_manifest(tmp_path / "run")["settings"]
    assert settings["methods"]["rollout"]["options"] == {"discard_ratio": 0.5, "fusion": "max"}
    assert {p.name for p in (tmp_path / "run").glob("l*")} == {f"leaderboard.{kind}" for kind in ("csv", "md", "png")}
    per_class = [line.split(",")[1] for line in (tmp_path / "run" / "leaderboard.csv").read_text().splitlines()[1:]]
    assert len(set(per_class)) > 2
    for wrong, message in (
        (("--option", "fusion"), "an option is NAME=VALUE"),
        (("--figures", "iuo"), "no figure 'iuo'; there are average_precision, .*, and all; nearest: iou"),
        (("--metrics", "perturbation:x"), "preset must be one of agcam, chefer, rise, srg, tokens, got 'x'"),
        (("--metrics", "sanity:x"), "checks must be some of sparseness, .*, got 'x'"),
        (("--metrics", "localisation"), "no metric 'localisation'.*nearest: localization"),
        (("--data", "imagenet:/no/such"), "no such file or folder"),
    ):
        assert re.search(message, run("evaluate", *wrong, "--out", str(tmp_path / "no"), code=2).stderr)


def test_the_command_line(tmp_path: Path):
    given = ("--data", "sample:4", "--methods", "agcam,random", "--out", str(tmp_path / "a"))
    result = run("evaluate", *given)
    assert result.stdout.startswith("sample on sample:4; 1 method, 8 questions about 4 images; the model predicts one")
    every = run("evaluate", *given, "--figures", "all").stdout  # nothing is computed anew
    assert [line.split()[0] for line in every.splitlines() if re.match("(agcam|random) ", line)] == [
        "agcam",
        "random",
    ] * 3
    one = run("evaluate", *given, "--figures", "dice").stdout
    assert re.search(r"^method +dice ↑$", one, re.M)
    assert {"leaderboard.csv", "manifest.json"} <= {p.name for p in (tmp_path / "a").iterdir()}
    run("evaluate", "--data", "sample:4", "--methods", "daam", "--out", str(tmp_path / "b"))
    table = run("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--figure", "energy_inside").stdout
    assert table.count("\n") == 2 + 3
    assert "no method 'agcm'" in run("evaluate", "--methods", "agcm", code=2).stderr
    assert "no run in" in run("compare", str(tmp_path), code=2).stderr
    assert isinstance(Leaderboard.read(tmp_path / "a"), Leaderboard)
