"""A video or a volume as a model sees it: its frames, and where they lie among the cells of a map."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..access import Adapter, TokenLayout
from ..clips import is_clip, read_clip
from ..errors import InputError, brief
from ..frames import Frames
from ..geometry import View
from ..preprocessing import checked_view, shown
from ..unusual import unusual_inputs
from ..volumes import Volume, is_nifti, is_volume, read_volume
from .seeing import Seen, normalisation, prepared_by


def watch(video: Any, preprocess: Any, adapter: Adapter, arguments: Mapping[str, Any]) -> Seen:
    """The video as the model sees it.

    Args:
        video: as for `captum_vit.clips.read_clip`, a volume as for `captum_vit.volumes.read_volume`, or a preprocessed
            tensor of floats as the model takes it.
        preprocess, adapter, arguments: as for `captum_vit.explanation.seeing.see`.
    Raises:
        InputError, ImageLoadError, PreprocessingError, TokenLayoutError: what was passed does not hold.
    """
    if isinstance(video, Tensor) and video.is_floating_point():
        return _prepared_already(video, preprocess, adapter, arguments)
    if is_nifti(video) and adapter.in_channels is None:
        raise InputError(f"{str(video)!r} is a volume, and the model takes videos of colour pictures")
    if is_volume(video, adapter.in_channels):
        return _volume(read_volume(video), adapter, arguments)
    clip = read_clip(video, adapter.image_size[0] if adapter.image_size else None)
    prepared = torch.stack([prepared_by(preprocess(), image, adapter) for image in clip.images])  # (T, C, H, W)
    first = clip.images[0]
    view = checked_view(preprocess(), first.size, (prepared.shape[3], prepared.shape[2]))
    odd = unusual_inputs(prepared)
    notes = (f"preprocessing: {preprocess()}", *clip.notes, *([odd] if odd else []))
    inputs = adapter.framed(prepared)
    return _seen(clip.images, clip.names, inputs, view, adapter, arguments, notes, clip.source)


def check_several(pictures: Sequence[Any], adapter: Adapter) -> None:
    """Raise InputError where a list holds no videos or volumes but frames, for a model that takes the former."""
    for i, picture in enumerate(pictures):
        if not is_clip(picture) and not is_volume(picture, adapter.in_channels):
            raise InputError(
                f"a list is of several videos or volumes, and what stands at {i} is none: {brief(picture)}. The frames "
                f"of one video are passed as captum_vit.Clip([frame, ...])"
            )


def _volume(volume: Volume, adapter: Adapter, arguments: Mapping[str, Any]) -> Seen:
    """A volume, whose slices lie along its first axis."""
    channels = len(volume.values)
    if adapter.in_channels not in (None, channels):
        raise InputError(f"the model takes {adapter.in_channels} channels, and the volume has {channels}")
    inputs, told = volume.prepared(adapter.image_size)
    slices = volume.slices()
    *_, height, width = inputs.shape
    view = View.of(slices[0].size).resized(width, height)
    seen = _seen(slices, (), inputs, view, adapter, arguments, (told,), volume.source)
    assert seen.frames is not None
    names = tuple(f"slice {i}" for i in range(len(slices)))
    return replace(seen, frames=replace(seen.frames, kind="slice", names=names, affine=volume.affine))


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
    places, unseen = _places(adapter.token_layout(size, arguments), size[0], len(images))
    told = f"the last {unseen} of the {len(images)} frames fill no cell of the model, which does not see them"
    frames = Frames(tuple(images), places, tuple(names))
    return Seen(frames.middle, inputs, view, source, arguments, (*notes, *[told] * bool(unseen)), frames)


def _places(layout: TokenLayout, deep: int, count: int) -> tuple[tuple[float, ...], int]:
    """Where frames lie among the cells of a map, and how many are left over behind the last cell.

    deep: how many the model is given; of a volume there may be more, or fewer.
    """
    cells, patch, step = layout.grid[0], layout.patch[0], deep / count
    return tuple((i + 0.5) * step / patch - 0.5 for i in range(count)), max(0, round((deep - cells * patch) / step))
