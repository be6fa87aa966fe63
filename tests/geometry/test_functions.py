"""A function as preprocessing: what it does with places and colours is seen on images of grey."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from captum_vit import explain
from captum_vit.errors import OptionError, PreprocessingError
from captum_vit.preprocessing import normalised, read_preprocessing, squashed

SIZES = [(640, 480), (300, 500), (1000, 700), (224, 224), (97, 640)]
NORMAL = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STEPS = {
    "crop": [transforms.Resize(256), transforms.CenterCrop(224)],
    "squash": [transforms.Resize((224, 192))],
    "corner": [transforms.Resize(256), transforms.Lambda(lambda image: image.crop((0, 0, 200, 200)))],
    "padded": [transforms.Resize(200, max_size=224), transforms.CenterCrop((224, 448))],
}
KNOWN = {name: STEPS[name] for name in ("crop", "squash", "padded")}  # which torchvision's own names tell too


def function(steps: list[Any]) -> Any:
    whole = transforms.Compose([*steps, transforms.ToTensor(), NORMAL])
    return lambda image: whole(image)


@pytest.mark.parametrize("steps", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_view_is_that_of_the_steps(steps: list[Any], size: tuple[int, int]):
    found = read_preprocessing(function(steps)).view(size)
    expected = read_preprocessing(transforms.Compose([*steps, transforms.ToTensor(), NORMAL])).view(size)
    assert found.size == expected.size
    assert found.window == pytest.approx(expected.window, abs=0.5 + 0.002 * max(size))
    corners = np.array([[0, 0], [found.size[0] - 1, found.size[1] - 1]])
    np.testing.assert_allclose(found.to_original(corners), expected.to_original(corners), atol=0.5 + 0.002 * max(size))


def test_the_normalisation_is_seen():
    found = read_preprocessing(function(STEPS["crop"]))
    assert found.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-3)
    assert found.std == pytest.approx((0.229, 0.224, 0.225), abs=1e-3)
    assert "seen on images of grey (shorter side to 256, the middle 224 x 224 of it, mean 0.485/0.456/0.406" in str(
        found
    )
    corner = read_preprocessing(function(STEPS["corner"]))
    assert corner.view((640, 480)).window == pytest.approx((0, 0, 375, 375), abs=2)


def test_albumentations_way_of_calling(monkeypatch: pytest.MonkeyPatch):
    class Compose:
        """Called with image=, gives a dictionary with an array (H, W, C)."""

        def __call__(self, *, image: np.ndarray) -> dict[str, np.ndarray]:
            small = np.asarray(Image.fromarray(image).resize((160, 160), Image.Resampling.BILINEAR))
            return {"image": small.astype(np.float32) / 127.5 - 1}

    Compose.__module__ = "albumentations.core.composition"
    monkeypatch.setitem(sys.modules, "albumentations", ModuleType("albumentations"))
    found = read_preprocessing(Compose())
    assert found(Image.new("RGB", (300, 200), "white")).shape == (3, 160, 160)
    assert found.mean == pytest.approx((0.5, 0.5, 0.5), abs=1e-3)
    assert found.view((300, 200)).window == (0, 0, 300, 200)


def random(image: Image.Image) -> Tensor:
    return transforms.functional.to_tensor(transforms.RandomCrop(160)(image.resize((224, 224))))


NO_WAY_BACK = {
    "at random": (random, "the same image comes out in two ways|does not come out as one"),
    "mirrored": (lambda i: function(STEPS["crop"])(i).flip(-1), "does not come out as one"),
    "turned": (lambda i: function(STEPS["crop"])(i).mT, "does not come out as one"),
    "bent": (lambda i: function(STEPS["crop"])(i) ** 2, "does not come out as one"),
    "blank": (lambda i: torch.zeros(3, 160, 160), "does not come out as one"),
    "no tensor": (lambda i: i, "<lambda> makes Image of an image: it has to give a tensor of floats"),
    "whole numbers": (lambda i: torch.zeros(3, 9, 9, dtype=torch.uint8), "<lambda> makes torch.uint8 of an image"),
    "several": (lambda i: torch.zeros(1, 3, 9, 9), r"<lambda> makes a tensor of shape \(1, 3, 9, 9\) of an image"),
    "no numbers": (lambda i: torch.full((3, 9, 9), torch.nan), "<lambda> makes NaN of an image"),
    "failing": (lambda i: 1 / 0, r"ZeroDivisionError: division by zero \(on a plain image\)"),
}


@pytest.mark.parametrize(("prepare", "message"), NO_WAY_BACK.values(), ids=NO_WAY_BACK)
def test_what_no_map_can_be_led_back_through(prepare: Any, message: str):
    torch.manual_seed(0)
    with pytest.raises(PreprocessingError, match=message):
        read_preprocessing(prepare)


def test_explain_takes_a_function():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3).eval()
    steps = [transforms.Resize(168), transforms.CenterCrop(160), transforms.ToTensor(), NORMAL]
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    whole = transforms.Compose(steps)
    found = explain(photo, model, preprocess=lambda image: whole(image))
    expected = explain(photo, model, preprocess=whole)
    torch.testing.assert_close(found.maps, expected.maps)
    assert found.view.window == pytest.approx(expected.view.window, abs=1.5)


def test_another_normalisation():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    own = read_preprocessing(timm.create_model("test_vit"))
    other = normalised(own, [0.485, 0.456, 0.406], [0.25])
    back = other(photo) * torch.tensor(0.25) + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(back, own(photo) * 0.5 + 0.5)
    assert other.view(photo.size) == own.view(photo.size)
    assert (other.mean, other.std) == ((0.485, 0.456, 0.406), (0.25, 0.25, 0.25))
    assert normalised(own, None, None) is own
    assert squashed(other).mean == other.mean
    with pytest.raises(OptionError, match="mean has one value, or one for each of 3 channels, got 2"):
        normalised(own, [0.1, 0.2], None)
    with pytest.raises(OptionError, match="std must be above 0"):
        normalised(own, None, [0.0])
