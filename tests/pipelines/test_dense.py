"""The task on models of detection and segmentation: what `explain` says, as a pipeline says it."""

from typing import Any

import pytest
import torch
import transformers
from transformers import pipeline

import captum_vit.pipelines  # noqa: F401 (registers the task)
from captum_vit import explain
from captum_vit.errors import InputError
from captum_vit.targets import Query
from tests.explanation.test_dense import PHOTO
from tests.families.test_dense_targets import DPT_SEG, beit, yolos
from tests.helpers import assert_close


def made(model: Any) -> tuple[Any, Any]:
    if type(model).__name__.startswith("Yolos"):
        processor: Any = transformers.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 256})
    else:
        processor = transformers.DPTImageProcessor(size={"height": 32, "width": 32})
    return pipeline("image-attribution", model=model, image_processor=processor), processor


@pytest.mark.parametrize("build", [yolos, DPT_SEG], ids=["detection", "segmentation"])
def test_what_is_found_is_told(build):
    model = build()
    pipe, processor = made(model)
    results = pipe(PHOTO, top_k=2)
    expected = explain(PHOTO, model, preprocess=processor, top_k=2)
    assert [each["label"] for each in results] == [label.title for label in expected.targets]
    assert [each["score"] for each in results] == [label.score for label in expected.targets]
    for each, a in zip(results, expected, strict=True):
        assert (each["grid"] == a.map.numpy()).all()
        assert each["map"].shape == (64, 96)
        assert each["overlay"].tobytes() == expected.only(target=a.target).overlay().tobytes()
        assert each["marks"][0]["kind"] == ("box" if build is yolos else "outline")


def test_targets_lists_and_a_reduced_picture():
    model = yolos()
    pipe, _ = made(model)
    (asked,), (again,) = pipe([PHOTO, PHOTO], target=Query(3, "dog"), max_side=48)
    assert asked["label"] == again["label"] == "dog, query 3"
    assert asked["overlay"].size == (48, 32)
    (whole,) = pipe(PHOTO, target="query:3/dog")
    assert abs(asked["marks"][0]["left"] - whole["marks"][0]["left"] / 2) < 1e-6
    assert_close(torch.from_numpy(asked["grid"]), torch.from_numpy(whole["grid"]), 1e-6)


def test_a_checkpoint_that_is_loaded_as_another_model_is_refused(tmp_path):
    model = beit()
    model.save_pretrained(tmp_path)
    transformers.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the checkpoint is of BeitForSemanticSegmentation, and was loaded as"):
        pipeline("image-attribution", model=str(tmp_path))
    yolos().save_pretrained(tmp_path / "detector")
    processor = transformers.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 256})
    processor.save_pretrained(tmp_path / "detector")
    pipe = pipeline("image-attribution", model=str(tmp_path / "detector"))
    assert pipe(PHOTO, top_k=1)[0]["marks"][0]["kind"] == "box"
