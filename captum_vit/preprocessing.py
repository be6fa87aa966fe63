"""What stands before a model: an image's way into it, and so the map's way back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .errors import InputError, OptionError, PreprocessingError, brief
from .geometry import Size, View
from .geometry import covered as covered
from .images import to_image
from .plugins import imported, is_path, named_object
from .probing import seen_normalisation, seen_view

PREPROCESSING = "captum_vit.preprocessing"  # entry-point group


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model.

    >>> from captum_vit.geometry import View
    >>> def prepare(image):  # squashed to 256 x 256, of which the middle is cut out; from -1 to 1
    ...     pixels = np.array(image.resize((256, 256)).crop((16, 16, 240, 240)))
    ...     return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    >>> own = Preprocessing(prepare, lambda size: View.of(size).resized(256, 256).cropped(16, 16, 224, 224))
    >>> own(photo).shape
    torch.Size([3, 224, 224])

    prepare: RGB image -> model input (C, H, W), normalised.
    view: size (width, height) of an image -> how the input looks at it.
    mean, std: of each channel, with which the input was normalised; None if nobody says.
    origin: whose it is, in words, as "timm's for vit_base_patch16_224".
    """

    prepare: Callable[[Image.Image], Tensor]
    view: Callable[[Size], View]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    origin: str = ""

    def __call__(self, image: Image.Image) -> Tensor:
        return self.prepare(image)

    def __str__(self) -> str:
        """Whose it is and what it does, in words."""
        return f"{self.origin or 'one of your own'} ({_geometry(self)}, {_normal(self)})"

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it, as JSON: what becomes of one landscape, and the normalisation.

        Some values of the input tell the interpolation; they are rounded, since machines round differently.
        """
        noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        prepared = self(Image.fromarray(noise)).float()
        some = prepared[:, :: max(1, prepared.shape[1] // 4), :: max(1, prepared.shape[2] // 4)].flatten().tolist()
        return {
            "landscape": self.view((640, 480)).to_dict(),
            "mean": self.mean,
            "std": self.std,
            "values": [round(value, 2) for value in some],
        }


def read_preprocessing(source: Any) -> Preprocessing:
    """The preprocessing that a transform, an image processor or a model stands for.

    Args:
        source: torchvision transforms (also timm's and open_clip's), an image processor of Hugging Face, a model
            that carries its own, as timm's do, or a function image -> tensor (C, H, W), also albumentations' Compose:
            what such a function does is seen on images of grey. Each also by its name, as "module:object".
    Raises:
        PreprocessingError: none of these, or a step in it whose way back is not known.
    """
    if isinstance(source, str) and is_path(source):
        return read_preprocessing(named_object(source))
    if isinstance(source, Preprocessing):
        return source
    for read in imported(PREPROCESSING):
        found = read(source)
        if found is not None:
            return found if found.origin else replace(found, origin=type(source).__name__)
    if callable(source) and not isinstance(source, (type, nn.Module)):
        return _probed(source)
    if isinstance(source, str):
        raise PreprocessingError(
            f"no preprocessing is called {brief(source)}: the one that has a name is 'squash', and one of your own is "
            f"module:object"
        )
    raise PreprocessingError(
        f"no preprocessing is known for {type(source).__name__}: pass preprocess=..., torchvision transforms, an image "
        f"processor of Hugging Face, or a captum_vit.Preprocessing"
    )


def _probed(function: Any) -> Preprocessing:
    """The preprocessing that a function is, as far as plain images show it."""
    name = getattr(function, "__name__", type(function).__name__)
    by_name = type(function).__module__.split(".")[0] == "albumentations"  # called with image=, gives a dictionary

    def prepare(image: Image.Image) -> Tensor:
        made = function(image=np.asarray(image))["image"] if by_name else function(image)
        if isinstance(made, np.ndarray) and made.ndim == 3:
            made = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
        wrong = _no_input(made)
        if wrong:
            raise PreprocessingError(f"{name} makes {wrong} of an image: it has to give a tensor of floats (C, H, W)")
        return made

    view = lru_cache(1024)(partial(seen_view, prepare, name))
    view((640, 480))  # what cannot be had is told before the work
    mean, std = seen_normalisation(prepare)
    return Preprocessing(prepare, view, mean, std, f"the function {name}, seen on images of grey")


def _no_input(made: Any) -> str:
    """What somebody's function made instead of a model's input; empty if it made one."""
    if not isinstance(made, Tensor):
        return type(made).__name__
    if made.dim() != 3 or made.shape[0] not in (1, 3):
        return f"a tensor of shape {tuple(made.shape)}"
    if not made.is_floating_point():
        return f"{made.dtype}"
    return "NaN" if bool(made.isnan().any()) else ""


def shown_as(
    own: Preprocessing | None, preprocess: Any, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing | None:
    """What becomes of an image: as asked, or as the model's own says; None where neither is known.

    Args:
        own: the model's.
        preprocess: as for `explain`; "squash" takes the whole image, None is the model's own.
        mean, std: by which inputs are normalised, if otherwise.
    Raises:
        PreprocessingError, OptionError: what was asked for cannot be had.
    """
    squash = isinstance(preprocess, str) and preprocess == "squash"
    found = own if preprocess is None or squash else read_preprocessing(preprocess)
    if found is None:
        return None
    found = normalised(found, mean, std)
    return squashed(found) if squash else found


def normalised(own: Preprocessing, mean: Sequence[float] | None, std: Sequence[float] | None) -> Preprocessing:
    """The same images with another mean or deviation; one value stands for all channels.

    Raises:
        PreprocessingError: nobody says with which the preprocessing's own normalises.
        OptionError: as many values as there are no channels, or a deviation that is not positive.
    """
    if mean is None and std is None:
        return own
    if own.mean is None or own.std is None:
        raise PreprocessingError("the model's preprocessing does not say its mean and std: pass preprocess=... whole")
    channels = len(own.mean)
    new_mean = _of_channels("mean", own.mean if mean is None else mean, channels)
    new_std = _of_channels("std", own.std if std is None else std, channels)
    if min(new_std) <= 0:
        raise OptionError(f"std must be above 0, got {', '.join(map(str, new_std))}")
    old, new = ([torch.tensor(v).view(-1, 1, 1) for v in pair] for pair in ((own.mean, own.std), (new_mean, new_std)))

    def prepare(image: Image.Image) -> Tensor:
        return (own.prepare(image) * old[1] + old[0] - new[0]) / new[1]

    return replace(own, prepare=prepare, mean=new_mean, std=new_std, origin=f"{own.origin}, normalised as asked")


def _of_channels(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or not all(_is_number(value) for value in values):
        raise OptionError(f"{name} takes numbers, one for each channel, as [0.485, 0.456, 0.406], got {brief(values)}")
    if len(values) not in (1, channels):
        raise OptionError(f"{name} has one value, or one for each of {channels} channels, got {len(values)}")
    return tuple(float(value) for value in (values if len(values) == channels else list(values) * channels))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def squashed(own: Preprocessing) -> Preprocessing:
    """The whole image at the size and with the normalisation of a model's own preprocessing, whatever its proportions.

    Bilinear, as torchvision's `Resize((height, width))` on an image of Pillow.

    Raises:
        PreprocessingError: nobody says with which mean and deviation the model's own normalises.
    """
    if own.mean is None or own.std is None:
        raise PreprocessingError("the model's preprocessing does not say its mean and std: pass preprocess=... whole")
    size = own.view((256, 256)).size
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std))

    def prepare(image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR)))
        return (pixels.permute(2, 0, 1).float() / 255 - mean) / std

    return Preprocessing(prepare, lambda original: View.of(original).resized(*size), own.mean, own.std, own.origin)


def checked_view(preprocess: Preprocessing, original: Size, size: Size) -> View:
    """How an input of `size` (width, height) looks at an image of `original`.

    Raises:
        InputError: the preprocessing says otherwise than it does.
    """
    view = preprocess.view(original)
    if view.size != size:
        raise InputError(
            f"the preprocessing made {size[0]}x{size[1]} pixels where its description gives {view.size[0]}x"
            f"{view.size[1]}: the way back is not known"
        )
    return view


def shown(inputs: Tensor, preprocess: Preprocessing | None) -> Image.Image:
    """A preprocessed image as a person would see it: normalisation undone, or where nobody knows it, stretched."""
    pixels = inputs.detach().float().cpu()
    if len(pixels) not in (1, 3):
        raise InputError(f"an input of {len(pixels)} channels cannot be shown: call the methods themselves")
    if preprocess is not None and preprocess.mean is not None and preprocess.std is not None:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
        pixels = pixels * std + mean
    else:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp_min(1e-12)
    shown = (255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    return to_image(shown)


def _geometry(preprocess: Preprocessing) -> str:
    """What becomes of an image's size and proportions, in words."""
    try:
        wide, high = preprocess.view((640, 480)), preprocess.view((480, 640))
    except PreprocessingError:
        return "another geometry"
    text = f"{wide.size[0]} x {wide.size[1]}"
    across, down = wide.scale
    if abs(across / down - 1) > 0.02:
        return f"squashed to {text}"
    side = round(480 * down)
    left, top, right, bottom = wide.box
    parts = [f"shorter side to {side}"] if abs(down - 1) > 1e-6 else []
    if left < -1 or top < -1 or right > 641 or bottom > 481:
        parts.append(f"padded to {text}")
    elif wide.window != (0.0, 0.0, 640.0, 480.0):
        slack = 2 / down  # of rounding, in pixels of the input
        middle = abs(left + right - 640) <= slack and abs(top + bottom - 480) <= slack
        parts.append(f"the middle {text} of it" if middle else f"{text} of it")
    elif high.size != wide.size:
        parts.append("whole")
    return ", ".join(parts) or f"{text} as it is"


def _normal(preprocess: Preprocessing) -> str:
    if preprocess.mean is None or preprocess.std is None:
        return "mean and std unknown"
    return f"mean {_values(preprocess.mean)}, std {_values(preprocess.std)}"


def _values(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in (values if len(set(values)) > 1 else values[:1]))
