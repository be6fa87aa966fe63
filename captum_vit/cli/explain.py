"""What the command line does with its images: explain, draw, write. Imports torch; cli.py does not."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..attr import METHODS
from ..errors import ExplanationLoadError, OutputError, TargetError
from ..explained import Attribution
from ..explanation.explaining import Explainer
from ..explanation.explanation import Explanation
from ..explanation.saving import MANIFEST
from ..files import write_atomically
from ..images import open_image
from ..sample import draw_scene
from ..visualization import Cell, overlay, sheet
from .folders import fingerprint, folder_for

SCENE = "scene"
FLOW, REPORT = "flow.gif", "report.html"
_SCENE_SEED = 15
_SCENE_SIDE = 512


@dataclass(frozen=True)
class Options:
    """What was asked for; `methods` None chooses one that suits the model."""

    model: str
    checkpoint: Path | None
    methods: Sequence[str] | None
    targets: Sequence[str]
    layers: Sequence[str]
    device: str | None
    max_side: int
    top_k: int
    attention: bool
    report: bool
    flow: bool


def picture(path: Path | None) -> Image.Image:
    """The image in a file, or the embedded scene."""
    if path is not None:
        return open_image(path)
    return Image.fromarray(draw_scene(_SCENE_SEED, objects=2, size=_SCENE_SIDE).image)


def load(options: Options) -> tuple[Explainer, list[str]]:
    """The model that was asked for, and what a user should know about the choice of methods.

    Raises:
        CaptumViTError: model, layer, method or device cannot be had.
    """
    layers = [int(n) if re.fullmatch("-?[0-9]{1,9}", n) else n for n in options.layers] or None
    explainer = Explainer(options.model, layer=layers, device=options.device, checkpoint=options.checkpoint)
    if explainer.headless and options.targets:
        raise TargetError(f"--target needs a classifier, and {options.model!r} gives features, not classes")
    chosen = explainer.choose(_asked(options))
    for name in chosen:
        explainer.method(name)  # a method or layer that does not fit is found before the first image
    notes = []
    reasons: dict[str | None, list[str]] = {}
    for name in METHODS:
        if _asked(options) == "all" and name not in chosen:
            reasons.setdefault(explainer.unfit(name), []).append(name)
    notes += [f"{' and '.join(names)} cannot be drawn: {reason}" for reason, names in reasons.items()]
    if options.targets and not any(METHODS[name].class_specific for name in chosen):
        notes.append(f"--target is not used: {', '.join(chosen)} gives one map for all classes")
    return explainer, notes


def _asked(options: Options) -> Sequence[str] | str | None:
    return "all" if options.methods is not None and len(options.methods) == len(METHODS) else options.methods


def explained(explainer: Explainer, image: Image.Image, name: str, options: Options) -> Explanation:
    """The explanation of one image from the file of this name."""
    explanation = explainer(
        image, method=_asked(options), target=options.targets, top_k=options.top_k, attention=options.attention
    )
    return replace(explanation, source=name)


def write(explanation: Explanation, out: Path, name: str, options: Options, taken: set[Path]) -> tuple[Path, list[str]]:
    """Write all that was asked for, and name the folder and the files in it, the overview first.

    Of the photograph a copy of `max_side` is drawn on and kept: a large one would take longer to write than to explain.

    Args:
        explanation: of one image.
        out, name: the folder and the one in it that is wanted; if that holds another image, the next is taken.
        options: what was asked for.
        taken: the folders that this run wrote; this one is added.
    Raises:
        OutputError: the folder or a file cannot be written.
    """
    image = fingerprint(explanation.image)
    shown = explanation.reduced(options.max_side)
    drawn = pictures(shown)
    names = ["overview.png", *sorted(name for name in drawn if name != "overview.png")]
    names += [FLOW] * options.flow + [REPORT] * options.report
    files = [*names, *[MANIFEST] * options.report]
    folder = folder_for(out, name, image, files, taken)
    taken.add(folder.path)
    folder.announce(files)
    save(drawn, folder.path)
    if options.flow:
        shown.flow.save(folder.path / FLOW)
    if options.report:
        shown.to_html(folder.path / REPORT)
        shown.save(folder.path)
    folder.finish(files)
    return folder.path, names


def find_explanations(folders: Sequence[Path]) -> list[Path]:
    """The folders with a saved explanation, among these and all in them, sorted by name.

    Raises:
        ExplanationLoadError: there is none.
    """
    found = sorted({path.parent for folder in folders for path in Path(folder).rglob(MANIFEST)})
    if not found:
        raise ExplanationLoadError(
            f"no saved explanation in {', '.join(repr(str(f)) for f in folders)}: captum-vit explain writes them"
        )
    return found


def loaded(folders: Sequence[Path], refused: Callable[[ExplanationLoadError], None]) -> Iterator[Explanation]:
    """The explanation in each folder, each when its turn comes; those that cannot be read go to `refused`.

    Raises:
        ExplanationLoadError: none of them can.
    """
    failed = 0
    for folder in folders:
        try:
            explanation = Explanation.load(folder)
        except ExplanationLoadError as error:
            failed += 1
            refused(error)
        else:
            yield explanation
            del explanation  # two photographs of full size are one too many
    if failed == len(folders):
        raise ExplanationLoadError("none of the explanations could be read")


def pictures(explanation: Explanation) -> dict[str, Image.Image]:
    """Overlays by file name, and an overview of them: a row for each class."""
    shown = explanation.image
    drawn: dict[str, Image.Image] = {}
    rows: list[list[Cell]] = []
    targets: Sequence[int | None] = [label.index for label in explanation.targets] or [None]
    for target in targets:
        cells: list[Cell] = [None if rows else ("input", shown)]
        for attribution in explanation:
            own = attribution.target and attribution.target.index
            if own == target or (own is None and not rows):
                layer = overlay(shown, attribution.map, explanation.view)
                drawn[_file_name(attribution)] = layer
                cells.append((_title(attribution), layer))
        rows.append(cells)
    return {**drawn, "overview.png": sheet(rows)}


def _title(attribution: Attribution) -> str:
    label = attribution.target
    return attribution.method if label is None else f"{attribution.method}: {label.title} {label.score:.0%}"


def _file_name(attribution: Attribution) -> str:
    label = attribution.target
    if label is None:
        return f"{attribution.method}.png"
    name = safe_name(label.name.split(",")[0], "")
    return f"{attribution.method}-{label.index}{'-' if name else ''}{name}.png"


def safe_name(text: str, default: str) -> str:
    """A name for a file or folder, of letters, digits, `-` and `_`, whatever the text holds."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:50].strip("_")  # 50 letters fit 255 bytes
    return kept or default


def folder_names(files: Iterable[Path]) -> list[str]:
    """A name for each file from its stem, all different, also where upper and lower case are the same."""
    used: set[str] = set()
    names = []
    for file in files:
        base = name = safe_name(file.stem, "image")
        count = 2
        while name.casefold() in used:
            name, count = f"{base}-{count}", count + 1
        used.add(name.casefold())
        names.append(name)
    return names


def check_folder(folder: Path) -> None:
    """Make the folder and a file in it, so that a failure comes before the work, and remove both.

    Raises:
        OutputError: it cannot be made or written.
    """
    if folder.is_file():
        raise OutputError(f"cannot write to {str(folder)!r}: it is a file, --out takes a folder")
    probe, new = folder / f".{os.getpid()}.tmp", not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if new:
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror}") from error


def save(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write PNG files; each appears under its name when it is complete.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror}") from error
    for name, image in pictures.items():
        data = BytesIO()
        image.save(data, "PNG")
        write_atomically(folder / name, data.getvalue())
