"""From what was asked on the command line to explanations: files are read, batched, and explained."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from ..attr import find_method, in_all
from ..colours import LOOK, Look
from ..describing import described, versions
from ..errors import CaptumViTError, ImageLoadError, InputError, OptionError
from ..explanation.asking import Asked
from ..explanation.explaining import BATCH, Explainer
from ..explanation.explanation import Explanation
from ..explanation.seeing import Seen
from ..images import read_image
from ..pixels import Read, Window, checked_window
from ..sample import draw_scene
from ..sample.hard import Plan
from .folders import finished
from .modelling import ModelOptions
from .progress import waiting

SCENE = "scene"
EMBEDDED = "embedded scene"
_SCENE_SEED = 15
_SCENE_SIDE = 512


@dataclass(frozen=True)
class Options:
    """What was asked for; no methods choose one that suits the model."""

    model: ModelOptions = field(default_factory=ModelOptions)
    methods: Sequence[str] | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    targets: Sequence[str] = ()
    layers: Sequence[str] = ()
    max_side: int = 1024
    top_k: int = 3
    batch_size: int = BATCH
    attention: bool = False
    verdict: bool = True
    removals: bool = False
    report: bool = True
    flow: bool = True
    page: int | None = None
    window: Window | None = None
    look: Look = LOOK

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
    call: the command that explains it again.
    truth: the class that is right, as its folder is called; empty where that says nothing.
    """

    file: Path | None
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: str = ""
    truth: str = ""

    def made(self, options: Options) -> str:
        """A hash of the file and of all that is asked; empty where it cannot be read."""
        try:
            data = self.file.read_bytes() if self.file is not None and self.file.is_file() else b""
        except OSError:
            data = b""
        return (
            sha256((options.settings(self.arguments) + self.truth).encode() + sha256(data).digest()).hexdigest()
            if data
            else ""
        )


@dataclass(frozen=True)
class Answer:
    """What came of one file, the embedded scene where it is None: an explanation, or the reason why not.

    made: a hash of the file and of all that was asked, for a run that goes on.
    """

    file: Path | None
    name: str
    explanation: Explanation | None = None
    refusal: ImageLoadError | InputError | None = None
    made: str = ""

    def granted(self) -> Explanation:
        """The explanation; raises the refusal where there is none."""
        if self.explanation is None:
            assert self.refusal is not None
            raise self.refusal
        return self.explanation


def check_methods(names: Sequence[str]) -> None:
    """Raise OptionError for a method that nobody knows, before anything is loaded."""
    for name in names:
        if name != "all":
            find_method(name)


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


def picture(path: Path | None, options: Options) -> Read:
    """The image in a file, or the embedded scene."""
    if path is not None:
        return read_image(path, page=options.page, window=options.window)
    if options.model.model == "sample/hard":
        return Read(Image.fromarray(Plan.draw(_SCENE_SEED, objects=2).render(_SCENE_SIDE).images[0]))
    return Read(Image.fromarray(draw_scene(_SCENE_SEED, objects=2, size=_SCENE_SIDE).image))


def refusal_of(error: Exception, file: Path | None) -> ImageLoadError | InputError:
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


def load(options: Options) -> tuple[Explainer, Asked, list[str]]:
    """The model and the question that was asked, and what a user should know about the choice of methods.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    layers = [int(n) if re.fullmatch("-?[0-9]{1,9}", n) else n for n in options.layers] or None
    explainer = options.model.load(layers)
    asked = explainer.ask(
        method=options.methods,
        target=options.targets,
        top_k=options.top_k,
        attention=options.attention,
        verdict=options.verdict,
        removals=options.removals,
        **options.method_options,
    )
    notes = []
    reasons: dict[str, list[str]] = {}
    for name, method in in_all().items() if "all" in (options.methods or ()) else ():
        reason = explainer.unfit(method)
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    notes += [f"{' and '.join(names)} cannot be drawn: {reason}" for reason, names in reasons.items()]
    if options.targets and not any(method.class_specific for method in asked.methods.values()):
        notes.append(f"--target is not used: {', '.join(asked.methods)} gives one map for all classes")
    return explainer, asked, notes


def finished_before(jobs: Sequence[Job], options: Options, out: Path) -> tuple[dict[Path, Job], list[Job]]:
    """What an earlier run with the same settings has finished, by folder, and what is left to do."""
    done: dict[Path, Job] = {}
    left = []
    for job in jobs:
        made = job.made(options)
        folder = finished(out, job.name, made, done) if made else None
        if folder is None:
            left.append(job)
        else:
            done[folder] = job
    return done, left


def answers(jobs: Sequence[Job], options: Options, note: Callable[[str], None]) -> Iterator[Answer]:
    """What comes of each file, in their order; images of one input size are explained in batches.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    asking: tuple[Explainer, Asked] | None = None
    waiting: list[tuple[Job, Seen, str]] = []
    for job in jobs:
        made = job.made(options)  # before it is read: a file may change meanwhile
        refusal: ImageLoadError | InputError | None = None
        seen: Seen | None = None
        try:
            read = picture(job.file, options)
        except Exception as error:
            refusal = refusal_of(error, job.file)
        else:
            for each in read.notes:
                note(f"{str(job.file)!r}: {each}")
            asking = asking or _loaded(options, job.file, note)  # it takes seconds: a bad file is found at once
            try:
                seen = _seen(asking[0], read, job)
            except Exception as error:
                refusal = refusal_of(error, job.file)
        full = len(waiting) == options.batch_size
        if waiting and asking and (seen is None or full or seen.inputs.shape != waiting[0][1].inputs.shape):
            yield from _explained(*asking, waiting)
            waiting = []
        if seen is None:
            yield Answer(job.file, job.name, refusal=refusal)
        else:
            waiting.append((job, seen, made))
    if waiting and asking:
        yield from _explained(*asking, waiting)


def _seen(explainer: Explainer, read: Read, job: Job) -> Seen:
    seen = explainer.see(read.image, job.arguments)
    return replace(seen, source=job.file.name if job.file else EMBEDDED, notes=(*read.notes, *seen.notes))


def _loaded(options: Options, file: Path | None, note: Callable[[str], None]) -> tuple[Explainer, Asked]:
    model = options.model
    with waiting(model.loaded_now, logged=not model.of_sample):
        explainer, asked, notes = load(options)
    if file is not None and model.of_sample:
        notes.insert(0, model.of_its_own)
    for each in [*model.notes(explainer), *notes]:
        note(each)
    return explainer, asked


def _explained(explainer: Explainer, asked: Asked, waiting: Sequence[tuple[Job, Seen, str]]) -> Iterator[Answer]:
    """A batch; if it fails, each image by itself."""
    try:
        found = explainer.answer([seen for _, seen, _ in waiting], asked)
    except Exception as error:
        job = waiting[0][0]
        refusal = refusal_of(error, job.file)
        if len(waiting) == 1:
            yield Answer(job.file, job.name, refusal=refusal)
            return
        for one in waiting:
            yield from _explained(explainer, asked, [one])
        return
    for (job, _, made), explanation in zip(waiting, found, strict=True):
        truth = explainer.vocabulary.title(job.truth) if job.truth else ""
        yield Answer(job.file, job.name, replace(explanation, call=job.call, truth=truth), made=made)
