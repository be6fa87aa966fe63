"""From what was asked on the command line to explanations: files are read, batched, and explained."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..attr import METHODS, find_method
from ..errors import ImageLoadError, InputError
from ..explanation.asking import Asked
from ..explanation.explaining import BATCH, Explainer
from ..explanation.explanation import Explanation
from ..explanation.seeing import Seen
from ..images import open_image
from ..sample import draw_scene

SCENE = "scene"
EMBEDDED = "embedded scene"
_SCENE_SEED = 15
_SCENE_SIDE = 512


@dataclass(frozen=True)
class Options:
    """What was asked for; no methods choose one that suits the model."""

    model: str
    checkpoint: Path | None = None
    methods: Sequence[str] | None = None
    targets: Sequence[str] = ()
    layers: Sequence[str] = ()
    device: str | None = None
    max_side: int = 1024
    top_k: int = 3
    batch_size: int = BATCH
    attention: bool = False
    report: bool = True
    flow: bool = True


@dataclass(frozen=True)
class Answer:
    """What came of one file, the embedded scene where it is None: an explanation, or the reason why not."""

    file: Path | None
    name: str
    explanation: Explanation | None = None
    refusal: ImageLoadError | InputError | None = None

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


def picture(path: Path | None) -> Image.Image:
    """The image in a file, or the embedded scene."""
    if path is not None:
        return open_image(path)
    return Image.fromarray(draw_scene(_SCENE_SEED, objects=2, size=_SCENE_SIDE).image)


def load(options: Options) -> tuple[Explainer, Asked, list[str]]:
    """The model and the question that was asked, and what a user should know about the choice of methods.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    layers = [int(n) if re.fullmatch("-?[0-9]{1,9}", n) else n for n in options.layers] or None
    explainer = Explainer(options.model, layer=layers, device=options.device, checkpoint=options.checkpoint)
    asked = explainer.ask(
        method=options.methods, target=options.targets, top_k=options.top_k, attention=options.attention
    )
    notes = []
    reasons: dict[str, list[str]] = {}
    for name, method in METHODS.items() if "all" in (options.methods or ()) else ():
        reason = explainer.unfit(method)
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    notes += [f"{' and '.join(names)} cannot be drawn: {reason}" for reason, names in reasons.items()]
    if options.targets and not any(method.class_specific for method in asked.methods.values()):
        notes.append(f"--target is not used: {', '.join(asked.methods)} gives one map for all classes")
    return explainer, asked, notes


def answers(
    files: Sequence[Path | None], names: Sequence[str], options: Options, note: Callable[[str], None]
) -> Iterator[Answer]:
    """What comes of each file, in their order; images of one input size are explained in batches.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    asking: tuple[Explainer, Asked] | None = None
    waiting: list[tuple[Path | None, str, Seen]] = []
    for file, name in zip(files, names, strict=True):
        refusal: ImageLoadError | InputError | None = None
        seen: Seen | None = None
        try:
            image = picture(file)
            if asking is None:  # loading takes seconds, a bad file is found at once
                asking = _loaded(options, file, note)
            seen = replace(asking[0].see(image), source=file.name if file else EMBEDDED)
        except (ImageLoadError, InputError) as error:
            refusal = error
        full = len(waiting) == options.batch_size
        if waiting and asking and (seen is None or full or seen.inputs.shape != waiting[0][2].inputs.shape):
            yield from _explained(*asking, waiting)
            waiting = []
        if seen is None:
            yield Answer(file, name, refusal=refusal)
        else:
            waiting.append((file, name, seen))
    if waiting and asking:
        yield from _explained(*asking, waiting)


def _loaded(options: Options, file: Path | None, note: Callable[[str], None]) -> tuple[Explainer, Asked]:
    explainer, asked, notes = load(options)
    if file is not None and options.model.split("/")[0] == "sample" and options.checkpoint is None:
        notes.insert(0, "the sample model knows drawn shapes alone; name a --model for photographs")
    for each in notes:
        note(each)
    return explainer, asked


def _explained(explainer: Explainer, asked: Asked, waiting: Sequence[tuple[Any, str, Seen]]) -> Iterator[Answer]:
    """A batch; if it fails, each image by itself."""
    try:
        found = explainer.answer([seen for _, _, seen in waiting], asked)
    except InputError as error:
        if len(waiting) == 1:
            yield Answer(*waiting[0][:2], refusal=error)
            return
        for one in waiting:
            yield from _explained(explainer, asked, [one])
        return
    for (file, name, _), explanation in zip(waiting, found, strict=True):
        yield Answer(file, name, explanation)
