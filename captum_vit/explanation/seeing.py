"""An image as a model sees it: its input, and the way back from there to the photograph."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..access import Adapter
from ..errors import InputError, PreprocessingError
from ..frames import Frames
from ..geometry import View
from ..images import Picture, read_image
from ..preprocessing import Preprocessing, checked_view, shown
from ..unusual import unusual_inputs


@dataclass(frozen=True)
class Seen:
    """An image and the model's input made of it.

    image: the original, upright.  inputs: (C, H, W).  view: how the patches look at the original.  source: the name of
    the file.  arguments: keyword arguments of the model's forward for this image.  notes: what a user should know.
    frames: of a video or a volume, whose inputs are as the model takes it.
    """

    image: Image.Image
    inputs: Tensor
    view: View
    source: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    frames: Frames | None = None


def see(picture: Picture, preprocess: Any, adapter: Adapter, arguments: Mapping[str, Any]) -> Seen:
    """The picture as the model sees it.

    Args:
        picture: as for `explain`.
        preprocess: gives the Preprocessing, or raises PreprocessingError where none is known.
        adapter: the model.
        arguments: of its forward, beside the image.
    Raises:
        InputError, ImageLoadError, PreprocessingError: what was passed does not hold.
    """
    source = Path(picture).name if isinstance(picture, (str, Path)) else ""
    if isinstance(picture, Tensor) and picture.is_floating_point():
        inputs = picture if picture.dim() == 4 else picture.unsqueeze(0)
        if inputs.dim() != 4 or len(inputs) != 1:
            raise InputError(f"expected one image (C, H, W) or (1, C, H, W), got {tuple(picture.shape)}: pass a list")
        image = shown(inputs[0], normalisation(preprocess))
        return Seen(image, inputs[0], View.of(image.size), source, arguments, _odd(inputs))
    image, told = read_image(picture)
    prepared = prepared_by(preprocess(), image, adapter)
    view = checked_view(preprocess(), image.size, (prepared.shape[2], prepared.shape[1]))
    notes = (f"preprocessing: {preprocess()}", *told, *_odd(prepared))
    return Seen(image, prepared, view, source, arguments, notes)


def batches(seen: Iterable[Seen], size: int) -> Iterator[list[Seen]]:
    """Images one after another in lists of `size` at most, whose inputs are of one shape."""
    for _, alike in groupby(seen, key=lambda one: one.inputs.shape):
        while batch := list(islice(alike, size)):
            yield batch


def _odd(inputs: Tensor) -> tuple[str, ...]:
    note = unusual_inputs(inputs)
    return (note,) if note else ()


def prepared_by(preprocess: Preprocessing, image: Image.Image, adapter: Adapter) -> Tensor:
    """The model's input (C, H, W), checked: a preprocessing may be anybody's."""
    prepared = preprocess(image)
    if not isinstance(prepared, Tensor) or prepared.dim() != 3 or not prepared.is_floating_point():
        of_tensor = isinstance(prepared, Tensor)
        got = f"{prepared.dtype} {tuple(prepared.shape)}" if of_tensor else type(prepared).__name__
        raise PreprocessingError(f"a preprocessing gives a tensor of floats (C, H, W), got {got}: add ToTensor()")
    channels = adapter.in_channels
    if channels is not None and channels != len(prepared) and adapter.vit is adapter.model:
        raise PreprocessingError(
            f"the model takes {channels} channels, and the preprocessing gives {len(prepared)}: pass another "
            f"preprocess=..., for one channel with torchvision's Grayscale()"
        )
    return prepared


def normalisation(preprocess: Any) -> Preprocessing | None:
    """For showing a preprocessed tensor, which needs no preprocessing that is known."""
    try:
        return preprocess()
    except PreprocessingError:
        return None
