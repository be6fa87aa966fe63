"""The preprocessing that image processors of Hugging Face transformers stand for, of either backend."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from captum_vit.adapters import hf_dense
from captum_vit.adapters.hf_common import is_hf, takes_videos
from captum_vit.adapters.hf_patches import joined, patches_fitted
from captum_vit.errors import PreprocessingError
from captum_vit.geometry import Size, View, shortest_edge
from captum_vit.preprocessing import Preprocessing, read_preprocessing
from captum_vit.probing import check_view, normalises_so, unknown

CONFIGURATIONS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


def read(source: Any) -> Preprocessing | None:
    """The preprocessing of an image processor, of the one inside a processor for text and images, or of the one that a
    model's own folder holds; of a video processor what it does to each frame; else None.

    Processors share names of attributes and steps but not what they do with them: what the attributes say is compared
    with what becomes of an image.

    Raises:
        PreprocessingError: it resizes, crops or pads in a way that is not known here, or a model without a processor.
    """
    if isinstance(source, nn.Module):
        return _of_model(source) if _is_hf(source) else None
    processor = getattr(source, "image_processor", source)
    if not isinstance(processor, (BaseImageProcessor, BaseVideoProcessor)):
        return None
    state = repr(sorted(vars(processor).items()))  # attributes may be set at any time
    known = _KNOWN.get(processor)
    if known is None or known[0] != state:
        known = _KNOWN[processor] = state, _geometry(processor), _normalisation(processor)
    return Preprocessing(partial(_prepare, processor), known[1], *known[2])


def _is_hf(model: Any) -> bool:
    return any(kind.__name__ == "PreTrainedModel" and is_hf(kind) for kind in type(model).__mro__)


def _of_model(model: Any) -> Preprocessing:
    """That of the image processor that was saved beside a model."""
    name = str(model.name_or_path or "")
    folder, of_video = Path(name).expanduser(), takes_videos(model)
    if name and any((folder / file).is_file() for file in CONFIGURATIONS):
        factory: Any = AutoVideoProcessor if of_video else AutoImageProcessor
        processor = factory.from_pretrained(str(folder), trust_remote_code=False)
        found = read_preprocessing(processor)
        return replace(found, origin=f"{type(processor).__name__} in the model's folder {name}")
    reader = f"Auto{'Video' if of_video else 'Image'}Processor.from_pretrained({name or 'FOLDER OR ID OF THE MODEL'!r})"
    raise PreprocessingError(
        f"no preprocessing is known for {type(model).__name__}: pass preprocess={reader}, or torchvision transforms"
    )


_KNOWN: WeakKeyDictionary[Any, tuple[str, Callable[[Size], View], Any]] = WeakKeyDictionary()


def _prepare(processor: Any, image: Image.Image) -> Tensor:
    of_video = isinstance(processor, BaseVideoProcessor)  # whose one frame is as many would be
    beside = {"boxes": hf_dense.boxes(image.size)} if hf_dense.of_pose(processor) else {}
    found = processor([[image]] if of_video else image, **beside, return_tensors="pt")
    pixels = found.get("pixel_values", found.get("pixel_values_videos"))
    pixels = pixels[0] if pixels.dim() == 5 else pixels
    pixels = joined(pixels, found["spatial_shapes"]) if "spatial_shapes" in found else pixels
    if len(pixels) != 1:
        raise PreprocessingError(f"it makes {len(pixels)} images of one")
    return pixels[0]


def _geometry(processor: Any) -> Callable[[Size], View]:
    """What the attributes say, where it is true."""
    transforms = getattr(processor, "val_transforms", None)  # TimmWrapperImageProcessor
    view = _view(processor) if transforms is None else read_preprocessing(transforms).view
    check_view(partial(_prepare, processor), view, type(processor).__name__)
    return view


def _normalisation(processor: Any) -> tuple[Any, Any]:
    """mean and std, if they are what the pixels are normalised with."""
    config = getattr(processor, "data_config", {})
    normalises = getattr(processor, "do_normalize", True)
    mean, std = (config.get(end, getattr(processor, f"image_{end}", None)) for end in ("mean", "std"))
    if not (normalises and mean and std):
        return None, None
    return (tuple(mean), tuple(std)) if normalises_so(partial(_prepare, processor), mean, std) else (None, None)


def _view(processor: Any) -> Callable[[Size], View]:
    name = type(processor).__name__
    own = [step for step in _OWN_STEPS if getattr(processor, step, None)]
    if own:
        raise unknown(name, f"it has {', '.join(own)}")
    resizing = "do_affine_transform" if hf_dense.of_pose(processor) else "do_resize"
    size, crop, pad = (
        _given(processor, *names)
        for names in (("size", resizing), ("crop_size", "do_center_crop"), ("pad_size", "do_pad"))
    )
    for what, sides, kinds in (("resizes", size, _SIZES), ("crops", crop, _SIZES[:1]), ("pads", pad, _SIZES[:1])):
        if sides and set(sides) not in kinds:
            raise unknown(name, f"it {what} to {sides}")
    pad = pad or hf_dense.padded(processor)
    fitting = patches_fitted(processor)
    above = -1 if getattr(processor, "backend", "") == "pil" else 1  # which way an uneven padding is rounded

    def view(image: Size) -> View:
        if hf_dense.of_pose(processor):
            return hf_dense.view_of_pose(image, (size["width"], size["height"]))
        seen = View.of(image)
        if fitting:
            seen = seen.resized(*fitting(image))
        elif size:
            seen = seen.resized(*(hf_dense.fitted(image, size, processor) or _resized(image, size)))
        if crop:
            left, top = (_offset(s, crop[k], above) for s, k in zip(seen.size, ("width", "height"), strict=True))
            seen = seen.cropped(left, top, crop["width"], crop["height"])
        return seen.cropped(0, 0, pad["width"], pad["height"]) if pad else seen

    return view


# These depend on more than an image's size, so that no probe could show what they do.
_OWN_STEPS = (
    "do_image_splitting",
    "do_split_image",
    "do_crop_margin",
    "do_thumbnail",
    "do_align_long_axis",
    "crop_pct",
)


def _given(processor: Any, name: str, switch: str) -> dict[str, int]:
    """The sides that an attribute names, if the step they belong to is switched on."""
    sizes = getattr(processor, name, None) if getattr(processor, switch, False) else None
    if not sizes:
        return {}
    try:
        sides = dict(sizes)
    except (TypeError, ValueError) as error:
        raise unknown(type(processor).__name__, f"its {name} is {sizes!r}") from error
    return {key: value for key, value in sides.items() if value is not None}


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
