"""Every image processor of transformers: a map goes back right, or the processor is refused."""

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from captum_vit.errors import PreprocessingError
from captum_vit.geometry import View
from captum_vit.preprocessing import Preprocessing, read_preprocessing
from captum_vit.probing import check_view

NEEDS_ARGUMENTS = {"TimmWrapperImageProcessor"}  # read with its own transforms, in test_processors.py
NAMES = sorted(
    {n for backends in IMAGE_PROCESSOR_MAPPING_NAMES.values() for n in backends.values() if n} - NEEDS_ARGUMENTS
)
BACKBONES = (
    "ViT",
    "DeiT",
    "Beit",
    "Bit",
    "CLIP",
    "Siglip",
    "Siglip2",
    "DINOv3ViT",
    "ChineseCLIP",
    "Blip",
    "Flava",
    "EfficientNet",
)
SILENTLY_WRONG = ("Levit", "PPLCNet", "Owlv2", "Janus", "DeepseekVL", "Llama4", "Perceiver")
SIZE = 600, 400
SIDE = 40
SQUARES = (159.5, 119.5), (419.5, 299.5)  # off the centre, on both sides of it; within a centre crop


def of(name: str) -> Any:
    return getattr(transformers, f"{name}ImageProcessor")()


def photo(squares: tuple[tuple[float, float], ...]) -> Image.Image:
    """White squares on black, around their centres."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for x, y in squares:
        left, top = int(x + 0.5) - SIDE // 2, int(y + 0.5) - SIDE // 2
        picture[top : top + SIDE, left : left + SIDE] = 255
    return Image.fromarray(picture)


def misplaced(preprocess: Preprocessing) -> float:
    """How far from where it is a square is shown on the image, in pixels of it."""
    view = preprocess.view(SIZE)
    empty = preprocess(photo(()))
    errors = []
    for square in SQUARES:
        weight = (preprocess(photo((square,))) - empty).mean(0).double().numpy()
        assert weight.shape[::-1] == view.size
        rows, columns = (np.arange(side) for side in weight.shape)
        centre = np.array([(weight * columns).sum(), (weight * rows[:, None]).sum()]) / weight.sum()
        errors.append(np.abs(view.to_original(centre) - square).max())
    return max(errors)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "transformers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_right_or_refused(name: str):
    try:
        processor = getattr(transformers, name)()
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])
    try:
        preprocess = read_preprocessing(processor)
    except PreprocessingError as error:
        refusal = str(error)
    else:
        assert misplaced(preprocess) <= 1
        return
    assert f"{name} is not known: " in refusal
    assert "pass preprocess=captum_vit.Preprocessing(prepare, view)" in refusal


@pytest.mark.parametrize("name", BACKBONES)
def test_those_of_backbones_are_known(name: str):
    assert misplaced(read_preprocessing(of(name))) <= 1


@pytest.mark.parametrize("name", SILENTLY_WRONG)
def test_those_that_do_other_than_their_attributes_say(name: str):
    with pytest.raises(PreprocessingError, match=r"it makes \d+x\d+ pixels|do not lie where its attributes say"):
        read_preprocessing(of(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BridgeTower", "it crops to {'shortest_edge': 288}"),
        ("Fuyu", "(on a plain image)"),
        ("LlavaNext", "it makes 7 images of one"),
        ("Qwen2VL", "it makes 308 images of one"),
        ("ConvNext", "it has crop_pct"),
    ],
)
def test_what_the_refusal_says(name: str, message: str):
    with pytest.raises(PreprocessingError, match=re.escape(message)):
        read_preprocessing(of(name))


class Flipped(transformers.ViTImageProcessor):
    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().resize(image, *args, **kwargs).flip(-1)


class Transposed(transformers.ViTImageProcessor):
    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().resize(image, *args, **kwargs).mT


class Shifted(transformers.ViTImageProcessor):
    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().resize(image, *args, **kwargs).roll(3, -2)


class Wide(transformers.ViTImageProcessor):
    """Does as it says to upright images alone."""

    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        part = image if image.shape[-2] > image.shape[-1] else image[..., : image.shape[-1] // 2]
        return super().resize(part, *args, **kwargs)


class Blank(transformers.ViTImageProcessor):
    def resize(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros_like(super().resize(*args, **kwargs))


@pytest.mark.parametrize("kind", [Flipped, Transposed, Shifted, Wide, Blank])
def test_broken_on_purpose(kind: type):
    with pytest.raises(PreprocessingError, match=f"goes back through {kind.__name__} is not known"):
        read_preprocessing(kind())


def test_a_brightness_is_not_taken_for_a_place():
    """On a ramp, brighter looks as further on."""
    processor = transformers.ViTImageProcessor(rescale_factor=1 / 200, do_normalize=False)
    preprocess = read_preprocessing(processor)
    assert misplaced(preprocess) <= 1


def test_a_normalisation_that_is_not_as_told_is_not_passed_on():
    assert read_preprocessing(transformers.ViTImageProcessor()).mean == (0.5, 0.5, 0.5)
    assert read_preprocessing(transformers.ViTImageProcessor(do_rescale=False)).mean is None


def test_an_attribute_that_is_set_later_counts():
    processor = transformers.ViTImageProcessor()
    assert read_preprocessing(processor).view(SIZE).size == (224, 224)
    processor.do_resize = False
    assert read_preprocessing(processor).view(SIZE).size == SIZE
    processor.do_image_splitting = True
    with pytest.raises(PreprocessingError, match="it has do_image_splitting"):
        read_preprocessing(processor)


def test_a_processor_is_probed_once(monkeypatch: pytest.MonkeyPatch):
    processor = transformers.ViTImageProcessor()
    first = read_preprocessing(processor)
    monkeypatch.setattr(type(processor), "_preprocess", lambda *_, **__: pytest.fail("probed again"))
    assert read_preprocessing(processor).view is first.view


def test_a_view_that_is_slightly_off():
    prepare = read_preprocessing(transformers.ViTImageProcessor())
    check_view(prepare, lambda size: View.of(size).resized(224, 224), "right")
    with pytest.raises(PreprocessingError, match="do not lie where"):
        check_view(prepare, lambda size: View.of(size).resized(228, 224).cropped(0, 0, 224, 224), "wrong")
