"""Reading videos in any form: files, animations, folders and lists of frames, arrays."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from torch import Tensor

from .decoding import MAX_PIXELS, SUFFIXES, check_file
from .errors import ImageLoadError, InputError, brief
from .images import Picture, count_pages, find_images, open_image, read_image
from .volumes import NIFTI

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
MOST_FRAMES = 512  # of a clip, where the model does not say how many it takes
MISSING = "reading a video file needs PyAV, which is not installed: pip install 'captum-vit[video]', or pass its frames"


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of one video: what a list of them by itself is not, since that is of several images or videos.

    >>> from captum_vit import Clip
    >>> Clip([photo, photo, photo])
    Clip(3 frames)

    frames: in their order, each as `captum_vit.images.read_image` takes it.

    Raises:
        InputError: no list, or nothing in it.
    """

    frames: Sequence[Picture]

    def __post_init__(self) -> None:
        if not isinstance(self.frames, (list, tuple)) or not self.frames:
            raise InputError(f"a Clip is of a list of frames, got {brief(self.frames)}: a path or array needs none")

    def __repr__(self) -> str:
        return f"Clip({len(self.frames)} frames)"


@dataclass(frozen=True, eq=False)
class Taken:
    """Frames that were taken out of a video, in their order.

    images: upright, RGB, all of one size.  names: what each is called, with its number in the video and, where that is
    known, its time.  notes: which were taken.  source: the name of the file.
    """

    images: tuple[Image.Image, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    source: str = ""


def sampled(total: int, count: int | None) -> list[int]:
    """Which of `total` frames stand for all: `count` of them, evenly spread, as video processors take them.

    >>> from captum_vit.clips import sampled
    >>> sampled(300, 4)
    [0, 75, 150, 225]

    Of a clip with fewer frames, each is taken several times.
    """
    return list(range(total)) if count is None else [i * total // count for i in range(count)]


def is_clip(picture: Any) -> bool:
    """Whether this is one video, in a form that no single frame has."""
    if isinstance(picture, (str, Path)):
        path = Path(picture)
        return str(path).lower().endswith((*VIDEOS, ".gif", ".apng", ".npy", *NIFTI)) or path.is_dir()
    if isinstance(picture, Image.Image):
        return getattr(picture, "n_frames", 1) > 1
    return isinstance(picture, (list, tuple, Clip)) or (isinstance(picture, (np.ndarray, Tensor)) and picture.ndim > 3)


def read_clip(video: Any, count: int | None) -> Taken:
    """A video in any form, as so many frames spread over it.

    >>> from captum_vit.clips import read_clip
    >>> read_clip(np.zeros((30, 48, 64, 3), np.uint8), 3).names
    ('frame 0', 'frame 10', 'frame 20')

    Args:
        video: a path of a video, an animation, a TIFF of several pages, a .npy array or a folder of frames; a `Clip`,
            or a list of frames, each as `captum_vit.images.read_image` takes it; an array (T, H, W, 3) or (T, H, W) of
            uint8, a uint8 tensor (T, 3, H, W); or an animation that Pillow has opened.
        count: how many frames; None takes all of them.
    Raises:
        ImageLoadError: a file or folder that cannot be read, or a package that reads it is missing.
        InputError: one picture alone, frames of several sizes, or nothing of these.
    """
    source = Path(video).name if isinstance(video, (str, Path)) else ""
    if isinstance(video, (str, Path)) and Path(video).suffix.lower() in VIDEOS:
        total, picked, found = _of_file(Path(video), count)
        images, times = [image for image, _ in found], [time for _, time in found]
    else:
        frames = _frames(video)
        total, times = len(frames), [None] * len(frames)
        picked = sampled(total, count)
        _check_count(total, len(picked))
        images, times = [frames[i] for i in picked], [None] * len(picked)
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise InputError(f"all frames of a video must be of one size, got {', '.join(f'{w}x{h}' for w, h in sizes)}")
    names = tuple(
        f"frame {i}" + ("" if time is None else f", {time:.2f} s") for i, time in zip(picked, times, strict=True)
    )
    return Taken(tuple(images), names, _told(total, picked), source)


def _told(total: int, picked: Sequence[int]) -> tuple[str, ...]:
    """Which frames were taken; empty where all were, each once."""
    count = len(picked)
    if list(picked) == list(range(total)):
        return ()
    if total < count:
        return (f"frames: the clip has {total} and the model takes {count}, so that some are shown several times",)
    shown = [*map(str, picked[:3]), *["..."] * (count > 4), *map(str, picked[max(3, count - 1) :])]
    return (f"frames: {count} of {total}, evenly spread ({', '.join(shown)})",)


def _check_count(total: int, taken: int) -> None:
    if total < 2:
        raise InputError(
            "one picture is no video: pass a video file, an array, captum_vit.Clip([frame, ...]), or a folder of frames"
        )
    if taken > MOST_FRAMES:
        raise InputError(f"{taken} frames are too many for a model that does not say how many it takes: pick some")


class _Frames(Sequence[Image.Image]):
    """Frames that are made when they are asked for."""

    def __init__(self, total: int, read: Callable[[int], Image.Image]) -> None:
        self.total, self.read = total, read

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, i: Any) -> Any:
        return self.read(i)


def _frames(video: Any) -> Sequence[Image.Image]:
    """All frames of whatever is no video file."""
    if isinstance(video, (str, Path)):
        return _of_path(Path(video))
    if isinstance(video, Image.Image):
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(video)]
    if isinstance(video, Clip):
        video = video.frames
    if isinstance(video, (list, tuple)):
        return _Frames(len(video), lambda i: read_image(video[i]).image)
    if isinstance(video, Tensor) and video.ndim == 4:
        video = video.permute(0, 2, 3, 1).cpu().numpy() if video.shape[1] in (1, 3) else video.cpu().numpy()
    if isinstance(video, np.ndarray) and video.ndim in (3, 4) and video.dtype == np.uint8:
        return _Frames(len(video), lambda i: read_image(np.ascontiguousarray(video[i])).image)
    got = f"{video.dtype} of shape {tuple(video.shape)}" if isinstance(video, (np.ndarray, Tensor)) else brief(video)
    raise InputError(
        f"a video is a path, a Clip of frames, a uint8 array (T, H, W, 3), a uint8 tensor (T, 3, H, W), or a "
        f"preprocessed tensor of floats as the model takes it, got {got}"
    )


def _of_path(path: Path) -> Sequence[Image.Image]:
    if path.is_dir():
        files = sorted(find_images([path]), key=_in_order)
        return _Frames(len(files), lambda i: open_image(files[i]))
    check_file(path)
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ImageLoadError(f"{str(path)!r} holds no array: {error}") from error
        return _frames(values)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageLoadError(f"{path.name!r} is no video: it ends in {', '.join(VIDEOS)}, or is an image's file")
    return _Frames(count_pages(path), lambda i: open_image(path, page=i))


def _in_order(frame: Path) -> tuple[list[str | int], str]:
    """Numbers in names count as numbers: frame 2 comes before frame 10."""
    parts = re.split(r"([0-9]+)", frame.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], frame.name


def _of_file(path: Path, count: int | None) -> tuple[int, list[int], list[tuple[Image.Image, float | None]]]:
    """How many frames a video file has, which of them are taken, and these with their times."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ImageLoadError(MISSING) from error
    check_file(path)
    try:
        total = sum(1 for _ in _decoded(av, path, 0))
        picked = sampled(total, count)
        _check_count(total, len(picked))
        found = {
            i: (_upright(frame), frame.time) for i, frame in _decoded(av, path, len(set(picked))) if i in set(picked)
        }
    except av.error.FFmpegError as error:
        raise ImageLoadError(f"{str(path)!r} is no video, or damaged ({error.strerror}): get the file again") from error
    return total, picked, [found[i] for i in picked]


def _decoded(av: Any, path: Path, kept: int) -> Iterator[tuple[int, Any]]:
    """The frames of the first stream of pictures, with their numbers; those that are kept must fit into memory."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ImageLoadError(f"{str(path)!r} holds no pictures, as a recording of sound does")
        stream = container.streams.video[0]
        size = (stream.codec_context.width or 0) * (stream.codec_context.height or 0)
        if size * max(kept, 1) > 8 * MAX_PIXELS:
            raise ImageLoadError(f"{str(path)!r} is enormous: {kept} frames of {size} pixels; make it smaller first")
        stream.thread_type = "AUTO"
        yield from enumerate(container.decode(stream))


def _upright(frame: Any) -> Image.Image:
    """The frame as it is to be shown: phones note how they were held."""
    image: Image.Image = frame.to_image().convert("RGB")
    turned = getattr(frame, "rotation", 0) % 360
    return image.rotate(turned, expand=True) if turned else image
