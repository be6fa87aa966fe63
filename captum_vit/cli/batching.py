"""Files that were named on the command line, read and given to a model in batches, whatever happens to one of them."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..clips import VIDEOS, is_clip
from ..describing import described, versions
from ..errors import CaptumViTError, ImageLoadError, InputError, OptionError
from ..explanation.arguments import of_each
from ..explanation.explaining import BATCH, Explainer
from ..explanation.seeing import Seen
from ..images import count_pages, find_images, read_image
from ..names import distinct, safe_name
from ..pixels import Read, Window, checked_window
from ..sample import draw_scene
from ..sample.hard import Plan
from ..volumes import NIFTI, is_volume
from .modelling import ModelOptions

SCENE = "scene"
EMBEDDED = "embedded scene"
_SCENE_SEED = 15
_SCENE_SIDE = 512

T = TypeVar("T")
Refusal = ImageLoadError | InputError  # why there is nothing of one file
Work = Callable[[Sequence[Seen]], Sequence[T]]


@dataclass(frozen=True)
class Shown:
    """Which images are shown to which model."""

    model: ModelOptions = field(default_factory=ModelOptions)
    page: int | None = None
    window: Window | None = None
    batch_size: int = BATCH

    def settings(self, arguments: Mapping[str, Any]) -> str:
        """A hash of all that decides what is written of an image; `arguments` are those of the model beside it."""
        told: dict[str, Any] = {**asdict(self), "arguments": described(arguments), "versions": versions()}
        told.pop("batch_size")
        file = self.model.checkpoint
        told["weights"] = [file.stat().st_size, file.stat().st_mtime_ns] if file and file.exists() else None
        return sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A file, the embedded scene where it is None, and the name of its folder.

    arguments: of the model, beside the image.
    call: the command that does the same again.
    truth: the class that is right, as its folder is called; empty where that says nothing.
    """

    file: Path | None
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: str = ""
    truth: str = ""

    def made(self, options: Shown) -> str:
        """A hash of the file and of all that is asked; empty where it cannot be read."""
        try:
            files = [] if self.file is None else find_images([self.file])  # of a folder its frames
            there = [file for file in files if file.is_file() and file.stat().st_size]
            data = [(file.name, sha256(file.read_bytes()).hexdigest()) for file in there]
        except (OSError, ImageLoadError):
            data = []
        asked = options.settings(self.arguments) + self.truth + json.dumps(data)
        return sha256(asked.encode("utf-8", "surrogateescape")).hexdigest() if data else ""


def jobs_of(images: Sequence[str], arguments: Mapping[str, Any], recursive: bool, *, frames: bool = False) -> list[Job]:
    """The files that were named, each with the name of its folder and the model's arguments beside it.

    Args:
        images: files and folders; none stands for the embedded scene.
        arguments: of the model's forward, for all images or a row for each.
        recursive: whether folders below the folders are looked into.
        frames: whether each folder with images in it is one video.
    Raises:
        ImageLoadError, InputError: a folder without images, or rows of arguments that are not as many as the files.
    """
    named = _videos(images, recursive) if frames else find_images(images, recursive=recursive)
    files: list[Path | None] = [*named] or [None]
    roots = [Path(image) for image in images] if recursive else []
    names = folder_names((file or Path(SCENE) for file in files), roots)
    rows = of_each(arguments, len(files))
    return [Job(*each) for each in zip(files, names, rows, strict=True)]


def _videos(paths: Sequence[str], recursive: bool) -> list[Path]:
    """Files as they are, and folders of frames."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        each = [file.parent for file in find_images([path], recursive=recursive)] if path.is_dir() else [path]
        found |= {one.resolve(): one for one in each}
    return list(found.values())


def folder_names(files: Iterable[Path], roots: Sequence[Path] = ()) -> list[str]:
    """A name for each file from its stem, all different; below one of the roots with the folders in between."""
    return distinct("/".join(safe_name(part, "image") for part in _below(file, roots)) for file in files)


def _below(file: Path, roots: Sequence[Path]) -> list[str]:
    root = next((root for root in roots if root in file.parents), file.parent)
    inner = file.relative_to(root)
    return [*inner.parts[:-1], inner.name if file.is_dir() else inner.stem]


def window(text: str | None) -> Window | None:
    """What --window says: the values of black and white.

    Raises:
        OptionError: not two numbers, the lower first.
    """
    if text is None:
        return None
    try:
        return checked_window([float(value) for value in text.split(",")])
    except (ValueError, OptionError):  # the first is the second's kind too
        raise OptionError(f"--window takes the values of black and white, as -1000,400, got {text!r}") from None


def picture(path: Path | None, options: Shown) -> Read:
    """The image in a file, or the embedded scene."""
    if path is not None:
        return read_image(path, page=options.page, window=options.window)
    if options.model.model == "sample/hard":
        return Read(Image.fromarray(Plan.draw(_SCENE_SEED, objects=2).render(_SCENE_SIDE).images[0]))
    return Read(Image.fromarray(draw_scene(_SCENE_SEED, objects=2, size=_SCENE_SIDE).image))


def refusal_of(error: Exception, file: Path | None) -> Refusal:
    """What is told of a file that something went wrong with, whatever it was; the others go on.

    Raises:
        CaptumViTError: an error that all files would meet.
    """
    if isinstance(error, (ImageLoadError, InputError)):
        return error
    if isinstance(error, CaptumViTError):
        raise error
    reason = " ".join(str(error).split())
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return InputError(f"{str(file or EMBEDDED)!r} could not be explained ({told[:200]})")


def in_batches(
    jobs: Iterable[Job],
    options: Shown,
    begin: Callable[[Job], tuple[Explainer, Work[T]]],
    note: Callable[[str], None],
) -> Iterator[tuple[Job, T | Refusal]]:
    """What comes of each file, in their order, or why nothing does; images of one input size make a batch.

    Args:
        jobs, options: which files, and how they are read.
        begin: loads the model and gives what is done with a batch, at the first file that can be read: it takes
            seconds, and a bad file is found at once.
        note: told what was decided for an image.
    Raises:
        CaptumViTError: an error that all files would meet.
    """
    begun: tuple[Explainer, Work[T]] | None = None
    waiting: list[tuple[Job, Seen]] = []
    for job in jobs:
        refusal: Refusal | None = None
        seen: Seen | None = None
        try:
            read = None if _is_video(job.file) else picture(job.file, options)
        except Exception as error:
            refusal = refusal_of(error, job.file)
        else:
            for each in read.notes if read else ():
                note(f"{str(job.file)!r}: {each}")
            begun = begun or begin(job)
            try:
                seen = _seen(begun[0], read, job)
            except Exception as error:
                refusal = refusal_of(error, job.file)
        full = len(waiting) == options.batch_size
        if waiting and begun and (seen is None or full or seen.inputs.shape != waiting[0][1].inputs.shape):
            yield from _worked(begun[1], waiting)
            waiting = []
        if seen is not None:
            waiting.append((job, seen))
        elif refusal is not None:
            yield job, refusal
    if waiting and begun:
        yield from _worked(begun[1], waiting)


def _is_video(file: Path | None) -> bool:
    return file is not None and (str(file).lower().endswith((*VIDEOS, *NIFTI)) or file.is_dir())


def _seen(explainer: Explainer, read: Read | None, job: Job) -> Seen:
    adapter = explainer.adapter
    if job.file is not None and adapter.batch_dims != 4:
        whole = is_clip(job.file) or is_volume(job.file, adapter.in_channels) or count_pages(job.file) > 1
        if not whole:
            raise InputError(
                f"{str(job.file)!r} is one picture, and the model takes videos or volumes: name a file of one, or a "
                "folder of frames with --frames"
            )
        return explainer.see(job.file, job.arguments)
    if read is None and job.file is not None and job.file.is_dir():
        raise InputError(f"{str(job.file)!r} is a folder, and the model takes images, no videos: leave out --frames")
    if read is None:
        raise InputError(f"{str(job.file)!r} is no image, and the model takes images: name another --model")
    seen = explainer.see(read.image, job.arguments)
    return replace(seen, source=job.file.name if job.file else EMBEDDED, notes=(*read.notes, *seen.notes))


def _worked(work: Work[T], waiting: Sequence[tuple[Job, Seen]]) -> Iterator[tuple[Job, T | Refusal]]:
    """A batch; if it fails, each image by itself."""
    try:
        found = work([seen for _, seen in waiting])
    except Exception as error:
        job = waiting[0][0]
        refusal = refusal_of(error, job.file)
        if len(waiting) == 1:
            yield job, refusal
            return
        for one in waiting:
            yield from _worked(work, [one])
        return
    yield from ((job, each) for (job, _), each in zip(waiting, found, strict=True))
