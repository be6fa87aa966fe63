"""What other tools are given of an explanation is what they document, and what we draw."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import captum_vit
from captum_vit.exports import captioned, columns, heatmaps, log_images
from captum_vit.sample import CLASSES, draw_scene

TARGETS = [CLASSES[0], CLASSES[1]]


@pytest.fixture(scope="module")
def explanation():
    image = Image.fromarray(draw_scene(15, objects=2, size=128).image).crop((0, 0, 128, 96))
    return captum_vit.explain(image, method=["agcam", "cp_lrp"], target=TARGETS)


def overlays(explanation):
    """Every map on its photograph, by `only`."""
    return [np.asarray(explanation.only(a.method, a.target).overlay()) for a in explanation.attributions if a.target]


def test_heatmaps_are_of_the_photographs_size_and_span_both_signs(explanation):
    found = heatmaps(explanation)
    assert list(found) == [a.title for a in explanation.attributions]
    for told, attribution in zip(found.values(), explanation.attributions, strict=True):
        assert told["map"].shape == (96, 128)
        assert told["map"].dtype == np.float32
        low, high = told["range"]
        assert (low == -high) == attribution.signed
        assert low <= told["map"].min()
        assert high >= told["map"].max()


def dotted(explanation):
    """Two classes whose names differ by a dot."""
    first, second, *_ = [a for a in explanation.attributions if a.method == "agcam"]
    names = {first.target: "St. Bernard", second.target: "St Bernard"}
    labels = {label: replace(label, title=title) for label, title in names.items()}
    return replace(explanation, attributions=tuple(replace(a, target=labels[a.target]) for a in (first, second)))


def test_fields_of_fiftyone_have_no_dots(explanation):
    assert list(heatmaps(dotted(explanation))) == ["AGCAM: St Bernard", "AGCAM: St Bernard-2"]


@pytest.mark.slow  # by the package itself, where it is installed
def test_fiftyone_takes_the_heatmaps(explanation, tmp_path):
    fiftyone = pytest.importorskip("fiftyone")
    sample = fiftyone.Sample(filepath=str(tmp_path / "scene.png"))
    for title, told in heatmaps(dotted(explanation)).items():
        sample[title] = fiftyone.Heatmap(**told)
        kept = sample.to_dict()[title]
        assert np.array_equal(sample[title].map, told["map"])
        assert kept["range"] == told["range"]


def test_tensorboard_reads_what_was_drawn(explanation, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log_images(writer, explanation, step=3, name="scene")
    read = EventAccumulator(str(tmp_path)).Reload()
    assert len(read.Tags()["images"]) == len(explanation.attributions)
    for attribution, drawn in zip(explanation.attributions, overlays(explanation), strict=True):
        [event] = read.Images(f"scene/{attribution.title}")
        assert event.step == 3
        with Image.open(BytesIO(event.encoded_image_string)) as shown:
            assert np.array_equal(np.asarray(shown), drawn)


def test_weights_and_biases_takes_them_offline(explanation, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(dir=tmp_path, project="maps") as run:
        run.log({"maps": [wandb.Image(picture, caption=caption) for picture, caption in captioned(explanation)]})
    assert len(list(tmp_path.rglob("*.png"))) == len(explanation.attributions)


def test_a_table_of_datasets_holds_maps_and_pictures(explanation):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(columns([explanation, explanation]))
    assert len(table) == 2 * len(explanation.attributions)
    for row, attribution in zip(table, explanation.attributions, strict=False):
        assert row["method"] == attribution.method
        assert row["target"] == attribution.target.title
        assert row["score"] == pytest.approx(attribution.target.score)
        assert row["prediction"] == explanation.labels[0].title
        assert np.array_equal(np.float32(row["map"]), attribution.map.numpy())
    assert [np.asarray(row["overlay"]).tolist() for row in table.select(range(4))] == [
        drawn.tolist() for drawn in overlays(explanation)
    ]


def test_captions_name_the_image(explanation):
    told = captioned(replace(explanation, source="cat.jpg"))
    assert [caption for _, caption in told] == [f"cat.jpg, {a.title}" for a in explanation.attributions]
    assert all(np.array_equal(picture, drawn) for (picture, _), drawn in zip(told, overlays(explanation), strict=True))
