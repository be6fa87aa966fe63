"""A video as a model sees it: its frames, each prepared alike, and where they lie among the cells of a map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..access import Adapter, Grid
from ..clips import read_clip
from ..errors import InputError
from ..frames import Frames
from ..geometry import View
from ..preprocessing import checked_view, shown
from ..unusual import unusual_inputs
from .seeing import Seen, normalisation, prepared_by


def watch(video: Any, preprocess: Any, adapter: Adapter, arguments: Mapping[str, Any]) -> Seen:
    """The video as the model sees it.

    Args:
        video: as for `captum_vit.clips.read_clip`, or a preprocessed tensor of floats as the model takes it.
        preprocess, adapter, arguments: as for `captum_vit.explanation.seeing.see`.
    Raises:
        InputError, ImageLoadError, PreprocessingError, TokenLayoutError: what was passed does not hold.
    """
    if isinstance(video, Tensor) and video.is_floating_point():
        return _prepared_already(video, preprocess, adapter, arguments)
    clip = read_clip(video, adapter.image_size[0] if adapter.image_size else None)
    prepared = torch.stack([prepared_by(preprocess(), image, adapter) for image in clip.images])  # (T, C, H, W)
    first = clip.images[0]
    view = checked_view(preprocess(), first.size, (prepared.shape[3], prepared.shape[2]))
    odd = unusual_inputs(prepared)
    notes = (f"preprocessing: {preprocess()}", *clip.notes, *([odd] if odd else []))
    inputs = adapter.framed(prepared)
    return _seen(clip.images, clip.names, inputs, view, adapter, arguments, notes, clip.source)


def _prepared_already(video: Tensor, preprocess: Any, adapter: Adapter, arguments: Mapping[str, Any]) -> Seen:
    """What a model is called with, and its frames as a person would see them."""
    inputs = video[0] if video.dim() == 5 and len(video) == 1 else video
    if inputs.dim() != 4:
        raise InputError(
            f"expected one preprocessed video of 4 dimensions, as the model takes it, got {tuple(video.shape)}: "
            f"several make a list"
        )
    frames = adapter.framed(inputs)
    known = normalisation(preprocess)
    images = [shown(frame, known) for frame in frames]
    odd = unusual_inputs(frames)
    notes = (odd,) if odd else ()
    return _seen(images, (), inputs, View.of(images[0].size), adapter, arguments, notes, "")


def _seen(
    images: Sequence[Image.Image],
    names: Sequence[str],
    inputs: Tensor,
    view: View,
    adapter: Adapter,
    arguments: Mapping[str, Any],
    notes: tuple[str, ...],
    source: str,
) -> Seen:
    size = adapter.size_of(inputs.unsqueeze(0))
    places, unseen = _places(adapter, size, len(images), arguments)
    told = f"the last {unseen} of the {len(images)} frames fill no cell of the model, which does not see them"
    frames = Frames(tuple(images), places, tuple(names))
    return Seen(frames.middle, inputs, view, source, arguments, (*notes, *[told] * bool(unseen)), frames)


def _places(adapter: Adapter, size: Grid, count: int, arguments: Mapping[str, Any]) -> tuple[tuple[float, ...], int]:
    """Where frames lie among the cells of a map, and how many are left over behind the last cell."""
    layout = adapter.token_layout(size, arguments)
    cells, deep = layout.grid[0], layout.patch[0]
    return tuple((i + 0.5) / deep - 0.5 for i in range(count)), max(0, round(count - cells * deep))
