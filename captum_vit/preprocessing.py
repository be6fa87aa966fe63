"""What stands before a model: an image's way into it, and so the map's way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import InputError, PreprocessingError
from .geometry import Size, View
from .images import to_image
from .plugins import imported

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
    """

    prepare: Callable[[Image.Image], Tensor]
    view: Callable[[Size], View]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        return self.prepare(image)

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
        source: torchvision transforms (also timm's and open_clip's), an image processor of Hugging Face, or a model
            that carries its own, as timm's do.
    Raises:
        PreprocessingError: none of these, or a step in it whose way back is not known.
    """
    if isinstance(source, Preprocessing):
        return source
    for read in imported(PREPROCESSING):
        found = read(source)
        if found is not None:
            return found
    raise PreprocessingError(
        f"no preprocessing is known for {type(source).__name__}: pass preprocess=..., torchvision transforms, an image "
        f"processor of Hugging Face, or a captum_vit.Preprocessing"
    )


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

    return Preprocessing(prepare, lambda original: View.of(original).resized(*size), own.mean, own.std)


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


def covered(view: View, adapter: Any, input_size: tuple[int, int]) -> View:
    """The view of the model's patches: without what is left over beside the last whole one."""
    layout = adapter.token_layout(input_size, {})
    seen = layout.image_size or input_size  # the ViT's owner may have resized
    height = round(layout.grid[0] * layout.patch[0] * input_size[0] / seen[0])
    width = round(layout.grid[1] * layout.patch[1] * input_size[1] / seen[1])
    return view if (width, height) == view.size else view.cropped(0, 0, width, height)


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
