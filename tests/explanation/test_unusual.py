"""What nothing forbids and still is odd is told: pixels that nobody normalised, probabilities instead of logits."""

import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, Explanation, explain, load_model
from captum_vit.errors import InputError
from captum_vit.targets import FeatureImportance
from captum_vit.unusual import ModelNote, adds_up, unusual_inputs, unusual_scores


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("images", "odd"),
    [
        (noise(2, 3, 8, 8), False),
        (noise(2, 3, 8, 8).clamp(-1, 1), False),
        (noise(2, 3, 8, 8).sigmoid(), False),
        (torch.zeros(1, 3, 8, 8), False),
        (torch.ones(1, 3, 8, 8) * (noise(1, 3, 8, 8) > 0), False),  # black and white
        (255 * noise(2, 3, 8, 8).sigmoid(), True),
        ((9 * noise(2, 3, 8, 8).sigmoid()).round(), True),
        (-30 * noise(1, 3, 8, 8).abs(), True),
        (255 * noise(1, 3, 8, 8).sigmoid().half(), True),
        (torch.full((1, 3, 8, 8), float("nan")), False),  # refused elsewhere
        (torch.zeros(0, 3, 8, 8), False),
    ],
)
def test_inputs(images: Tensor, odd: bool):
    assert (unusual_inputs(images) is not None) == odd


@pytest.mark.parametrize(
    ("scores", "odd"),
    [
        (noise(4, 10), False),
        (10 * noise(4, 10), False),
        (noise(4, 10).softmax(-1), True),
        (noise(4, 2).softmax(-1), True),
        (noise(4, 1000).softmax(-1).half(), True),
        (noise(4, 10).sigmoid(), True),
        (noise(4, 2).sigmoid(), False),  # two logits may lie there
        (noise(4, 1).sigmoid(), False),
        (noise(4, 10).log_softmax(-1), False),
        (noise(4, 10, 3, 3).sigmoid(), False),
        (torch.full((1, 10), float("nan")), False),
    ],
)
def test_scores(scores: Tensor, odd: bool):
    assert (unusual_scores(scores) is not None) == odd


def test_shares_are_told_from_logits_between_0_and_1():
    assert adds_up(noise(4, 10).softmax(-1))
    assert not adds_up(noise(4, 10).sigmoid())


def small(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=classes).eval()


def test_explain_tells_it():
    raw = explain(255 * torch.rand(3, 160, 160), small(), target=1)
    assert "inputs reach from" in raw.notes[0]
    assert raw.notes[0] in repr(raw)
    assert not explain(noise(3, 160, 160), small(), target=1).notes
    soft = explain(noise(3, 160, 160), nn.Sequential(small(), nn.Softmax(-1)), target=1)
    assert "explain logits" in " ".join(soft.notes)
    odd, plain = explain([255 * torch.rand(3, 160, 160), noise(3, 160, 160)], small(), target=1)
    assert odd.notes
    assert not plain.notes


def test_fewer_names_than_classes():
    found = explain(noise(3, 160, 160), small(), target=1, class_names=["a", "b"])
    assert found.notes == ("2 class names, and the model has 10 scores: the others have none",)


def test_the_sample_model_says_what_it_knows():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    found = explain(photo)
    assert "the sample model knows drawn shapes alone; name a model for photographs" in repr(found)


def test_random_weights_are_told_everywhere(tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    loaded = load_model("timm/test_vit", pretrained=False)
    found = explain(photo, loaded, ["agcam", "rollout"], target=1)
    assert found.untrained
    assert found.model == "timm/test_vit (random weights)"
    assert [a.title for a in found] == ["AGCAM, random weights: goldfish", "attention rollout, random weights"]
    found.save(tmp_path)
    again = Explanation.load(tmp_path)
    assert again.untrained
    assert again.notes == found.notes
    assert "random weights: nothing was learnt" in again.to_html()
    assert not explain(photo).untrained


@pytest.mark.parametrize(
    "call",
    [
        lambda net, image: explain(net, image),
        lambda net, image: explain(image, image),
        lambda net, image: explain(image, np.zeros((4, 4, 3), np.uint8)),
    ],
    ids=["swapped", "an image twice", "an array"],
)
def test_what_is_no_model(call):
    photo = Image.new("RGB", (90, 60))
    with pytest.raises(
        InputError, match=r"explain\(image, model\)|a model is a name as timm/NAME, or a torch.nn.Module"
    ):
        call(small(), photo)


# --- methods by themselves, which warn once a model


def pixels(count: int = 2) -> Tensor:
    return 255 * noise(count, 3, 160, 160).sigmoid()


def heard(call) -> list[str]:
    """What a call warns of, each with the file that is named."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(each.category is ModelNote and each.filename == __file__ for each in caught)
    return [str(each.message).split()[0] for each in caught]


def test_methods_warn_once_a_model():
    net = small()
    assert heard(lambda: AGCAM(net).attribute(noise(2, 3, 160, 160), 1)) == []
    assert heard(lambda: AGCAM(net).attribute(pixels(), 1)) == ["inputs"]
    assert heard(lambda: AGCAM(net).attribute(pixels(), 1)) == []
    assert heard(lambda: AttentionRollout(net).attribute(pixels())) == []
    assert heard(lambda: AttentionRollout(small()).attribute(pixels())) == ["inputs"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda net: AGCAM(net).attribute(noise(2, 3, 160, 160), 1),
        lambda net: DAAM(net).attribute_flow(noise(2, 3, 160, 160), [1, 2]),
        lambda net: AGCAM(net).attribute_classes(noise(1, 3, 160, 160), [1, 2]),
    ],
    ids=["map", "flow", "classes"],
)
def test_methods_warn_of_probabilities(ask):
    soft = nn.Sequential(small(), nn.Softmax(-1))
    assert heard(lambda: ask(soft)) == ["outputs"]
    assert heard(lambda: ask(soft)) == []
    assert heard(lambda: ask(small())) == []


def test_where_probabilities_are_no_matter():
    soft = nn.Sequential(small(), nn.Softmax(-1))
    assert heard(lambda: AttentionRollout(soft).attribute(noise(2, 3, 160, 160))) == []
    assert heard(lambda: DAAM(soft).attribute(noise(2, 3, 160, 160), lambda output: output[:, 1].log())) == []
    features = timm.create_model("test_vit", num_classes=0).eval()
    assert heard(lambda: DAAM(features).attribute(noise(1, 3, 160, 160), FeatureImportance())) == []


def test_explain_has_it_among_its_notes_alone():
    soft = nn.Sequential(small(), nn.Softmax(-1))
    assert heard(lambda: explain(pixels(1)[0], soft, ["agcam", "daam"], target=1)) == []


def test_a_note_can_be_made_an_error():
    with pytest.raises(ModelNote, match="inputs reach from"):
        AGCAM(small()).attribute(pixels(), 1)
