"""Models of zero-shot image classification in the pipeline: the probabilities of its own, and a map for each label."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, pipeline

from captum_vit import GradECLIP, Text, explainer
from captum_vit.errors import InputError, TargetError
from tests.families.two_towers import clip, tokenizer
from tests.helpers import assert_close, hf_vit

LABELS = ["a cat", "a sofa", "a dog"]


@pytest.fixture(scope="module")
def zero_shot():
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    parts = {"model": clip().float(), "tokenizer": tokenizer(), "image_processor": processor}
    return pipeline("zero-shot-image-classification", **parts)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    return Image.fromarray(noise)


def test_labels_and_scores_are_those_of_zero_shot_classification(zero_shot, photo):
    found = explainer(zero_shot)(photo, candidate_labels=LABELS, hypothesis_template="{}", method="grad_eclip")
    own = zero_shot(photo, candidate_labels=LABELS, hypothesis_template="{}")
    assert [each["label"] for each in found] == [each["label"] for each in own]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in own], rel=1e-4)
    pixels = zero_shot.image_processor(images=photo, return_tensors="pt")["pixel_values"]
    for each in found:
        theirs = GradECLIP(zero_shot.model).attribute(pixels, Text(each["label"], tokenizer=tokenizer()))[0, 0]
        assert_close(torch.from_numpy(each["grid"]), theirs, 1e-5)


def test_a_template_stands_around_labels(zero_shot, photo):
    pipe = explainer(zero_shot)
    around = pipe(photo, candidate_labels=["cat", "dog"], hypothesis_template="a {} on a sofa")
    own = zero_shot(photo, candidate_labels=["cat", "dog"], hypothesis_template="a {} on a sofa")
    assert [each["score"] for each in around] == pytest.approx([each["score"] for each in own], rel=1e-4)
    alone = pipe(photo, candidate_labels=["cat", "dog"], hypothesis_template="{}")
    assert [e["score"] for e in alone] != pytest.approx([e["score"] for e in around], rel=1e-3)


def test_a_text_is_a_target_of_the_pipeline(zero_shot, photo):
    (one,) = explainer(zero_shot)(photo, target=Text("a cat"))
    assert one["label"] == "“a cat”"
    assert -1 <= one["score"] <= 1


def test_what_is_no_list_of_labels_is_refused(zero_shot, photo):
    pipe = explainer(zero_shot)
    with pytest.raises(TargetError, match="say what they may show, by candidate_labels"):
        pipe(photo)
    for wrong in ("a cat", [], 3):
        with pytest.raises(InputError, match="candidate_labels is a list of texts"):
            pipe(photo, candidate_labels=wrong)
    with pytest.raises(InputError, match=r"leave target=\.\.\. out"):
        pipe(photo, candidate_labels=LABELS, target=Text("a cat"))


def test_a_classifier_takes_no_labels(zero_shot, photo):
    plain = pipeline("image-attribution", model=hf_vit(), image_processor=zero_shot.image_processor)
    with pytest.raises(InputError, match=r"ViTForImageClassification takes no texts: pass captum_vit\.explainer"):
        plain(photo, candidate_labels=LABELS)
