"""The way into the model and back, by images whose pixels are their own coordinates, through every real processor."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import TrimBorder
from torchvision import transforms
from torchvision.models import ViT_B_16_Weights
from torchvision.transforms import InterpolationMode, v2
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from captum_vit.errors import InputError, PreprocessingError
from captum_vit.geometry import View
from captum_vit.preprocessing import Preprocessing, read_preprocessing

SIZES = {
    "square": (300, 300),
    "landscape": (400, 301),
    "portrait": (301, 477),
    "tiny": (23, 17),
    "panorama": (1201, 150),
    "tower": (97, 700),
    "as the input": (224, 224),
}

LEVEL = 1.02  # the image and the input are both rounded to 8 bits, and some resizes compute in fixed point

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bicubic"}


def timm_transform(side: Any, mode: str, share: float, **options: Any) -> Callable[[], Any]:
    size = (3, side, side) if isinstance(side, int) else (3, *side)
    return lambda: create_transform(input_size=size, crop_mode=mode, crop_pct=share, **PLAIN, **options)


def of_both(name: str, **options: Any) -> dict[str, Callable[[], Any]]:
    """A processor of Hugging Face in both backends, as far as there are two."""
    kinds = {"torchvision": getattr(transformers, name), "pil": getattr(transformers, f"{name}Pil", None)}
    return {f"{name} {end} {options or ''}": partial(kind, **options) for end, kind in kinds.items() if kind}


SOURCES: dict[str, Callable[[], Any]] = {
    "timm center 0.9": timm_transform(224, "center", 0.9),
    "timm center 0.875": timm_transform(224, "center", 0.875),
    "timm center oblong": timm_transform((192, 256), "center", 0.95),
    "timm squash": timm_transform((192, 256), "squash", 0.9),
    "timm squash 1": timm_transform(224, "squash", 1.0),
    "timm border": timm_transform(224, "border", 0.9),
    "timm border 1": timm_transform(224, "border", 1.0),
    "TimmWrapperImageProcessor": lambda: TimmWrapperImageProcessor(
        {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0, 0, 0), "std": (1, 1, 1)}
    ),
    "torchvision preset": ViT_B_16_Weights.IMAGENET1K_V1.transforms,
    "torchvision compose": lambda: transforms.Compose(
        [transforms.Resize(256, InterpolationMode.BICUBIC), transforms.CenterCrop(224), transforms.ToTensor()]
    ),
    "torchvision longest": lambda: transforms.Compose(
        [transforms.Resize(200, max_size=260), transforms.CenterCrop((192, 240)), transforms.ToTensor()]
    ),
    "torchvision longest alone": lambda: v2.Compose([v2.Resize(None, max_size=224), transforms.ToTensor()]),
    "torchvision pad": lambda: transforms.Compose(
        [transforms.Pad(7), transforms.Resize((200, 220)), transforms.Pad((5, 11)), transforms.ToTensor()]
    ),
    "torchvision pad v2": lambda: v2.Compose(
        [v2.ToImage(), v2.Resize((240, 200)), v2.Pad([3, 5, 20, -9]), v2.ToDtype(torch.float, scale=True)]
    ),
    "torchvision pad edge": lambda: transforms.Compose(
        [transforms.Resize((200, 180)), transforms.Pad((5, 11, 2, 0), padding_mode="edge"), transforms.ToTensor()]
    ),
    "torchvision v2": lambda: v2.Compose(
        [v2.ToImage(), v2.Resize((240, 200), antialias=True), v2.CenterCrop(224), v2.ToDtype(torch.float, scale=True)]
    ),
    "torchvision nested": lambda: transforms.Compose(
        [
            transforms.Compose([transforms.Resize(240), transforms.CenterCrop(230)]),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
        ]
    ),
    "open_clip": lambda: open_clip.image_transform(224, is_train=False),
    "open_clip squash": lambda: open_clip.image_transform(224, is_train=False, resize_mode="squash"),
    "open_clip longest": lambda: open_clip.image_transform(224, is_train=False, resize_mode="longest"),
    **of_both("ViTImageProcessor"),
    **of_both("ViTImageProcessor", size={"height": 192, "width": 256}),
    **of_both("DeiTImageProcessor"),
    **of_both("BeitImageProcessor"),
    **of_both("BeitImageProcessor", size={"height": 256, "width": 256}, do_center_crop=True),
    **of_both("BitImageProcessor", size={"shortest_edge": 256}),  # DINOv2's
    **of_both("BitImageProcessor", size={"shortest_edge": 100}),  # padded
    **of_both("BitImageProcessor", size={"shortest_edge": 224, "longest_edge": 300}),
    **of_both("CLIPImageProcessor"),
    **of_both("SiglipImageProcessor"),
    **of_both("Siglip2ImageProcessor"),
    **of_both("Siglip2ImageProcessor", patch_size=14, max_num_patches=200),
    **of_both("DINOv3ViTImageProcessor"),
    **of_both(
        "ViTImageProcessor",
        size={"max_height": 200, "max_width": 240},
        do_pad=True,
        pad_size={"height": 240, "width": 240},
    ),
}


def coordinates(size: tuple[int, int]) -> Image.Image:
    """Red grows from left to right, green from top to bottom, over all 256 levels."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    return Image.fromarray((255 * np.stack([x, y, np.ones_like(x)], -1)).round().astype(np.uint8))


def levels(preprocess: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """What the model is given of the coordinates, in grey levels, (H, W, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = preprocess(coordinates(size)).float()
    if preprocess.mean is not None:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
        pixels = pixels * std + mean
    return 255 * pixels.permute(1, 2, 0).numpy()


def ramp(view: View, axis: int, positions: np.ndarray) -> np.ndarray:
    """The level that the coordinates have at places on an axis of the image."""
    return 255 * (positions + 0.5) / view.original[axis]


def inside(view: View, axis: int, positions: np.ndarray) -> np.ndarray:
    """Whether no resampling reached over the image's edge from there, where it would bend the ramp."""
    margin = 2 * max(1, 1 / view.scale[axis]) - 0.5
    return (positions > margin) & (positions < view.original[axis] - 1 - margin)


def flat(view: View, axis: int, positions: np.ndarray) -> np.ndarray:
    """Whether a place lies beyond the centre of the input's first or last pixel, where what is laid back is flat."""
    cells = view.to_input(np.stack([positions, positions], -1))[:, axis]
    return (cells < 0) | (cells > view.size[axis] - 1)


def forward_error(view: View, seen: np.ndarray) -> float:
    """Greatest difference between the levels in the input and those of the places that the view names."""
    rows, cols = seen.shape[:2]
    x = view.to_original(np.stack([np.arange(cols), np.zeros(cols)], -1))[:, 0]
    y = view.to_original(np.stack([np.zeros(rows), np.arange(rows)], -1))[:, 1]
    across, down = inside(view, 0, x), inside(view, 1, y)
    part = seen[np.ix_(down, across)]
    assert part.size
    errors = part[..., 0] - ramp(view, 0, x[across]), part[..., 1] - ramp(view, 1, y[down])[:, None]
    return max(np.abs(error).max() for error in errors)


def backward_error(view: View, seen: np.ndarray) -> float:
    """Greatest difference between the coordinates and what of them comes back from the input."""
    x, y = (np.arange(side) for side in view.original)
    across, down = (inside(view, axis, places) & ~flat(view, axis, places) for axis, places in ((0, x), (1, y)))
    errors = []
    for axis, true in ((0, ramp(view, 0, x)[None, :]), (1, ramp(view, 1, y)[:, None])):
        error = (view.place(seen[..., axis]) - true)[np.ix_(down, across)]
        errors.append(np.abs(error[np.isfinite(error)]))
    assert errors[0].size
    return max(error.max() for error in errors)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_into_the_model_and_back(source: Callable[[], Any], size: tuple[int, int]):
    preprocess = read_preprocessing(source())
    seen = levels(preprocess, size)
    view = preprocess.view(size)
    assert view.original == size
    assert view.size == seen.shape[1::-1]
    assert forward_error(view, seen) <= LEVEL
    assert backward_error(view, seen) <= LEVEL


def moved(view: View, pixels: float = 0.0, growth: float = 1.0) -> View:
    return replace(
        view,
        offset=(view.offset[0] + pixels, view.offset[1]),
        scale=(view.scale[0] * growth, view.scale[1]),
    )


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: one pixel or one per cent too much")
@pytest.mark.parametrize("change", [{"pixels": 1}, {"pixels": -1}, {"growth": 1.01}], ids=str)
@pytest.mark.parametrize("error", [forward_error, backward_error])
def test_a_view_that_is_slightly_off(error: Callable[[View, np.ndarray], float], change: dict[str, float]):
    preprocess = read_preprocessing(SOURCES["timm center 0.9"]())
    assert error(moved(preprocess.view((300, 300)), **change), levels(preprocess, (300, 300))) <= LEVEL


def cropped_and_padded() -> Preprocessing:
    steps = [transforms.CenterCrop(60), transforms.Resize(40), transforms.CenterCrop(64), transforms.ToTensor()]
    return read_preprocessing(transforms.Compose(steps))


def test_what_was_cut_away_before_a_padding_is_not_seen():
    view = cropped_and_padded().view((100, 80))
    assert view.window == pytest.approx((20, 10, 80, 70))
    assert view.box == pytest.approx((20 - 18, 10 - 18, 80 + 18, 70 + 18))
    placed = view.place(np.ones((8, 8)))
    assert np.isfinite(placed).sum() == 60 * 60
    assert np.isfinite(placed[10:70, 20:80]).all()


class Compose:
    """Of another package, as albumentations'."""

    def __init__(self, steps: list[Any]) -> None:
        self.transforms = steps


class Resize:
    def __init__(self, height: int) -> None:
        self.height = height


class ToTensor(transforms.ToTensor):
    """Of the user: whatever its name says, it may turn the image."""


def to_tensor(image: Image.Image) -> torch.Tensor:
    return transforms.functional.to_tensor(image)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (transforms.Compose([transforms.RandomResizedCrop(224)]), "holds RandomResizedCrop"),
        (transforms.Compose([transforms.Lambda(lambda image: image)]), "holds Lambda"),
        (transforms.Compose([transforms.Resize(9), transforms.RandomRotation(9)]), "holds RandomRotation"),
        (transforms.Compose([transforms.FiveCrop(224)]), "holds FiveCrop"),
        (transforms.Compose([transforms.TenCrop(224)]), "holds TenCrop"),
        (transforms.Compose([transforms.Pad(4, padding_mode="reflect")]), "holds Pad"),
        (v2.Compose([v2.RandomResize(8, 9)]), "holds RandomResize, and how a map goes back"),
        (transforms.Compose([Resize(224)]), "holds Resize of " + __name__),
        (transforms.Compose([transforms.Resize(224), to_tensor]), "holds to_tensor of " + __name__),
        (transforms.Compose([ToTensor()]), "steps come from torchvision, timm or open_clip; pass preprocess="),
        (Compose([Resize(224)]), "no preprocessing is known for Compose: pass preprocess=..., torchvision transforms"),
        (transformers.BitImageProcessor(size={"longest_edge": 40}), "resizes to {'longest_edge': 40}"),
        (transforms.Resize(224), "no preprocessing is known for Resize"),
        ("timm", "no preprocessing is called 'timm': the one that has a name is 'squash'"),
        (torch.nn.Linear(2, 2), "no preprocessing is known for Linear: pass preprocess="),
    ],
)
def test_what_cannot_be_followed_back(source: Any, message: str):
    with pytest.raises(PreprocessingError, match=re.escape(message)):
        read_preprocessing(source)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (224, 224)),
        ({"img_size": 96}, (96, 96)),
        ({"img_size": (96, 128)}, (128, 96)),
        ({"img_size": 96, "dynamic_img_size": True}, (224, 224)),
    ],
)
def test_the_size_that_a_timm_model_was_built_for(options: dict[str, Any], size: tuple[int, int]):
    """A model that takes any size takes that of its weights."""
    model = timm.create_model("vit_tiny_patch16_224", depth=1, **options).eval()
    preprocess = read_preprocessing(model)
    pixels = preprocess(coordinates((300, 200)))
    assert pixels.shape[:0:-1] == preprocess.view((300, 200)).size == size
    assert model(pixels[None]).shape == (1, 1000)


def test_the_share_that_is_cropped_is_kept_at_another_size():
    model = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1)
    assert model.pretrained_cfg["crop_pct"] == 0.9
    view = read_preprocessing(model).view((106, 106))  # floor(96 / 0.9)
    assert view.scale == (1, 1)
    assert view.window == (5, 5, 101, 101)


def test_a_timm_model_that_is_set_to_another_size():
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    model.set_input_size((64, 64))
    assert read_preprocessing(model).view((300, 200)).size == (64, 64)


@pytest.mark.parametrize("name", ["tnt_s_legacy_patch16_224", "pit_ti_224", "xcit_nano_12_p16_224"])
def test_other_families_that_were_built_for_another_size(name: str):
    assert read_preprocessing(timm.create_model(name, img_size=96)).view((300, 200)).size == (96, 96)


def test_an_image_that_vanishes():
    preprocess = read_preprocessing(transforms.Compose([TrimBorder(20), transforms.ToTensor()]))
    assert preprocess.view((60, 50)).window == (20, 20, 40, 30)
    with pytest.raises(InputError, match="leaves nothing of an image of 30x30"):
        preprocess.view((30, 30))


def test_a_processor_for_text_and_images():
    processor = SimpleNamespace(image_processor=transformers.CLIPImageProcessor())
    assert read_preprocessing(processor).view((448, 224)).window == pytest.approx((112, 0, 336, 224))
