"""The preprocessing that image processors of Hugging Face transformers stand for, of either backend."""

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from captum_vit.errors import PreprocessingError
from captum_vit.geometry import Size, View, shortest_edge
from captum_vit.preprocessing import Preprocessing, read_preprocessing

_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


def read(source: Any) -> Preprocessing | None:
    """The preprocessing of an image processor, or of the one inside a processor for text and images; else None.

    Raises:
        PreprocessingError: it resizes or pads in a way that is not known here.
    """
    processor = getattr(source, "image_processor", source)
    if not isinstance(processor, BaseImageProcessor):
        return None
    transforms = getattr(processor, "val_transforms", None)  # TimmWrapperImageProcessor
    view = _view(processor) if transforms is None else read_preprocessing(transforms).view

    def prepare(image: Image.Image) -> Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    config = getattr(processor, "data_config", {})
    normalises = getattr(processor, "do_normalize", True)
    mean = config.get("mean", getattr(processor, "image_mean", None)) if normalises else None
    std = config.get("std", getattr(processor, "image_std", None)) if normalises else None
    return Preprocessing(prepare, view, mean and tuple(mean), std and tuple(std))


def _view(processor: Any) -> Callable[[Size], View]:
    name = type(processor).__name__
    size = _given(getattr(processor, "size", None)) if getattr(processor, "do_resize", False) else {}
    crop = _given(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else {}
    pad = _given(getattr(processor, "pad_size", None)) if getattr(processor, "do_pad", False) else {}
    if size and set(size) not in _SIZES:
        raise PreprocessingError(f"{name} resizes to {size}, and how a map goes back through it is not known")
    own = [step for step in _OWN_STEPS if getattr(processor, step, None)]
    if own:
        raise PreprocessingError(f"{name} has {', '.join(own)}, and how a map goes back through it is not known")
    above = -1 if getattr(processor, "backend", "") == "pil" else 1  # which way an uneven padding is rounded

    def view(image: Size) -> View:
        seen = View.of(image)
        if size:
            seen = seen.resized(*_resized(image, size))
        if crop:
            left, top = (_offset(s, crop[k], above) for s, k in zip(seen.size, ("width", "height"), strict=True))
            seen = seen.cropped(left, top, crop["width"], crop["height"])
        return seen.cropped(0, 0, pad["width"], pad["height"]) if pad else seen

    return view


_OWN_STEPS = ("do_image_splitting", "do_crop_margin", "do_thumbnail", "do_align_long_axis", "crop_pct")


def _given(sizes: Any) -> dict[str, int]:
    return {key: value for key, value in dict(sizes or {}).items() if value is not None}


def _resized(image: Size, size: Mapping[str, int]) -> Size:
    if "height" in size:
        return size["width"], size["height"]
    if "max_height" in size:
        scale = min(size["max_height"] / image[1], size["max_width"] / image[0])
        return int(image[0] * scale), int(image[1] * scale)
    if "longest_edge" not in size:
        return shortest_edge(image, size["shortest_edge"])
    return _between(image, size["shortest_edge"], size["longest_edge"])


def _between(image: Size, shortest: int, longest: int) -> Size:
    """transformers' own rounding where both edges are limited."""
    short, long = sorted(image)
    limit = float(shortest)
    if long / short * shortest > longest:
        limit = longest * short / long
        shortest = round(limit)
    if short == shortest:
        return image
    other = int(limit * long / short)
    return (shortest, other) if image[0] <= image[1] else (other, shortest)


def _offset(side: int, crop: int, above: int) -> int:
    """Where a centre crop begins; before 0 if it pads."""
    if side >= crop:
        return (side - crop) // 2
    return -((crop - side) // 2) if above > 0 else -((crop - side + 1) // 2)
