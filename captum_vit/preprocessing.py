"""What stands before a model: an image's way into it, and so the map's way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from .errors import PreprocessingError
from .geometry import Size, View
from .plugins import imported

PREPROCESSING = "captum_vit.preprocessing"  # entry-point group


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model.

    prepare: RGB image -> model input (C, H, W), normalised.
    view: size (width, height) of an image -> how the input looks at it.
    mean, std: of each channel, with which the input was normalised; None if nobody says.

    Example, of a preprocessing that squashes an image to 256 x 256 and cuts out the middle 224:
        Preprocessing(prepare, lambda size: View.of(size).resized(256, 256).cropped(16, 16, 224, 224))
    """

    prepare: Callable[[Image.Image], Tensor]
    view: Callable[[Size], View]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        return self.prepare(image)


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
