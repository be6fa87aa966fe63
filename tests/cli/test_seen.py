"""What the model saw of an image, against coordinates sent through the real preprocessing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from transformers import BitImageProcessor, ViTImageProcessor

from captum_vit.adapters.hf_loader import seen_by as seen_by_hf
from captum_vit.adapters.timm_loader import seen_by as seen_by_timm
from captum_vit.errors import ModelLoadError
from captum_vit.models import Box

SIZES = [(400, 300), (300, 401), (133, 397), (64, 64)]


def coordinates(size: tuple[int, int]) -> Image.Image:
    """Red grows from left to right, green from top to bottom; blue is full everywhere."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    return Image.fromarray((255 * np.stack([x, y, np.ones_like(x)], -1)).round().astype(np.uint8))


def check_box(box: Box, pixels: torch.Tensor, size: tuple[int, int]) -> None:
    """Every processed pixel inside the image names the place that the box gives it, to 1.5 grey levels."""
    left, top, right, bottom = box
    rows, cols = pixels.shape[1:]
    x = (left + (right - left) * (torch.arange(cols) + 0.5) / cols) / size[0]
    y = (top + (bottom - top) * (torch.arange(rows) + 0.5) / rows) / size[1]
    across, down = (x > 0.03) & (x < 0.97), (y > 0.03) & (y < 0.97)
    assert across.sum() > 5
    assert down.sum() > 5
    assert (pixels[0, rows // 2] - x)[across].abs().max() < 1.5 / 255
    assert (pixels[1, :, cols // 2] - y)[down].abs().max() < 1.5 / 255


TIMM_CONFIGS = {
    "square": {"input_size": (3, 96, 96), "crop_mode": "center", "crop_pct": 0.9},
    "oblong": {"input_size": (3, 96, 128), "crop_mode": "center", "crop_pct": 0.875},
    "squash": {"input_size": (3, 96, 128), "crop_mode": "squash", "crop_pct": 0.9},
    "border": {"input_size": (3, 96, 96), "crop_mode": "border", "crop_pct": 0.9},
    "padded": {"input_size": (3, 96, 96), "crop_mode": "border", "crop_pct": 1.0},
}


def timm_pixels(config: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
    transform = create_transform(**config, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic")
    return transform(coordinates(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", TIMM_CONFIGS.values(), ids=TIMM_CONFIGS)
def test_the_box_of_timms_transforms(config: dict[str, Any], size: tuple[int, int]):
    check_box(seen_by_timm(config)(size), timm_pixels(config, size), size)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the crop has to be noticed")
@pytest.mark.parametrize("size", SIZES)
def test_a_box_without_the_crop(size: tuple[int, int]):
    check_box((0, 0, *size), timm_pixels(TIMM_CONFIGS["square"], size), size)


PROCESSORS = {
    "squash": lambda: ViTImageProcessor(size={"height": 64, "width": 96}, do_normalize=False),
    "crop": lambda: BitImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, do_normalize=False
    ),
    "pad": lambda: BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 64, "width": 64}, do_normalize=False
    ),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", PROCESSORS.values(), ids=PROCESSORS)
def test_the_box_of_hugging_faces_processors(make: Callable[[], Any], size: tuple[int, int]):
    processor = make()
    pixels = processor(images=coordinates(size), return_tensors="pt")["pixel_values"][0]
    check_box(seen_by_hf(processor, "x")(size), pixels, size)


def test_pixels_beyond_the_last_whole_patch_were_not_seen():
    processor = ViTImageProcessor(size={"height": 70, "width": 100})
    assert seen_by_hf(processor, "x", patch=16)((200, 140)) == (0, 0, 192, 128)


def test_an_image_processor_that_cannot_be_followed():
    processor = BitImageProcessor(size={"longest_edge": 40}, do_center_crop=False)
    with pytest.raises(ModelLoadError, match=r"resizes to .*longest_edge.*, which cannot be followed back"):
        seen_by_hf(processor, "x")
