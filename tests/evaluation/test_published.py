"""The published protocols through a whole run, from files to figures, against loops over the files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit import AGCAM, sample
from captum_vit.adapters.sample_vit import build
from captum_vit.data.imagenet import synsets
from captum_vit.evaluation import Plan, evaluate, read_rows
from tests.data.made import xml
from tests.metrics import protocols
from tests.properties.broken import caught

SIZES = [(150, 97), (80, 201), (64, 64), (131, 130)]
COUNT = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: scenes with one object, stretched to photographs of several proportions; a second box is no
    object, and a class is one of the first eight."""
    base = tmp_path_factory.mktemp("imagenet") / "ILSVRC"
    for n in range(COUNT):
        scene = sample.draw_scene(n, objects=1)
        width, height = SIZES[n % len(SIZES)]
        synset, name = synsets()[scene.labels[0]], f"ILSVRC2012_val_{n:08d}"
        folder = base / "Data/CLS-LOC/val" / synset
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).resize((width, height)).save(folder / f"{name}.JPEG", quality=95)
        ys, xs = np.nonzero(scene.masks[0])
        ends = [(xs.min(), ys.min()), (xs.max(), ys.max())]
        corners = [int(v * s / 64) for end in ends for v, s in zip(end, (width, height), strict=True)]
        things = [(synset, *corners, 0), (synset, 3, 5, 17, 11, 0)]
        xml(base / "Annotations/CLS-LOC/val" / f"{name}.xml", things, (width, height))
    return base


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run")
    metrics = ("localization:agcam", "localization:chefer", "perturbation:agcam", "perturbation:chefer")
    plan = Plan(data=f"imagenet:{root}", methods=("agcam",), metrics=metrics, preprocess="squash", batch_size=1)
    board = evaluate(plan, folder)  # one by one: in another batch maps are rounded otherwise, and equal pixels sorted
    assert board.errors == []
    return board, read_rows(folder).to_pylist()


def loop(root: Path, flaw: str | None = None):
    """(image, class, heat map, boxes as numbers of the input) of every file, in the order of the names."""
    model = build()
    method = AGCAM(model)
    for file in sorted(root.rglob("*.JPEG"), key=lambda file: file.name):
        label = synsets().index(file.parent.name)
        with Image.open(file) as opened:
            photo = opened.convert("RGB")
        raw = np.float32(np.array(photo.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)) / 255
        image = (raw - np.float32(sample.MEAN)[:, None, None]) / np.float32(sample.STD)[:, None, None]
        grid = method.attribute(torch.from_numpy(image)[None], label)
        heat = torch.nn.functional.interpolate(grid, (64, 64), mode="bilinear")[0, 0].numpy()
        boxes = []
        for line in (root / "Annotations/CLS-LOC/val" / f"{file.stem}.xml").read_text().split("<bndbox>")[1:]:
            x1, y1, x2, y2 = (int(part.split("<")[0]) for part in line.replace("min>", "max>").split("max>")[1::2])
            more = 1 if flaw == "boxes with their ends added" else 0
            box = (x1 / photo.width, y1 / photo.height, (x2 + more) / photo.width, (y2 + more) / photo.height)
            boxes.append([int(edge * 64) for edge in box])
        with torch.no_grad():
            predicted = int(model(torch.from_numpy(image)[None]).argmax())
        yield image, raw, label, predicted, heat, boxes, model


@pytest.mark.parametrize("flaw", [None, pytest.param("boxes with their ends added", marks=caught)])
def test_agcam_localization(root, run, flaw):
    board, rows = run
    theirs = [
        protocols.agcam_localization(heat, boxes, predicted, label)
        for _, _, label, predicted, heat, boxes, _ in loop(root, flaw)
    ]
    kept = [found for found in theirs if np.isfinite(found["iou"])]
    assert len(kept) >= 5
    for name in theirs[0]:
        np.testing.assert_allclose([row[f"agcam_{name}"] for row in rows], [f[name] for f in theirs], atol=1e-6)
        found = board.mean("agcam", f"agcam_{name}")
        assert found.count == len(kept)
        assert found.value == pytest.approx(np.mean([f[name] for f in kept]), abs=1e-6)


def test_perturbations(root, run):
    _, rows = run
    for row, (image, raw, label, _, heat, _, model) in zip(rows, loop(root), strict=True):
        theirs = protocols.agcam_perturbation(model, image, heat, label)
        theirs |= protocols.chefer_perturbation(model, raw, sample.MEAN, sample.STD, heat, label)
        for name, value in theirs.items():
            assert row[name] == pytest.approx(value, abs=1e-6)


def test_chefer_segmentation_of_the_whole_data_set(root, run):
    board, _ = run
    heats, masks = [], []
    files = sorted(root.rglob("*.JPEG"), key=lambda file: file.name)
    for file, (*_, heat, _, _) in zip(files, loop(root), strict=True):
        with Image.open(file) as opened:
            width, height = opened.size
        whole = np.zeros((height, width), bool)
        for line in (root / "Annotations/CLS-LOC/val" / f"{file.stem}.xml").read_text().split("<bndbox>")[1:]:
            x1, y1, x2, y2 = (int(part.split("<")[0]) for part in line.replace("min>", "max>").split("max>")[1::2])
            whole[y1 : y2 + 1, x1 : x2 + 1] = True
        at = [np.floor((np.arange(64) + 0.5) * side / 64).astype(int) for side in (height, width)]
        masks.append(whole[np.ix_(*at)])
        heats.append(heat)
    theirs = protocols.chefer_segmentation(heats, np.array(masks))
    for name, value in theirs.items():
        assert board.mean("agcam", f"chefer_{name}").value == pytest.approx(value, abs=1e-6)
        found = board.mean("agcam", f"chefer_{name}")
        assert found.low < value < found.high
