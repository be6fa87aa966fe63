"""What the command line makes of an explanation: pictures, pages, and the folder that they go to."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..errors import ExplanationLoadError, OutputError
from ..explained import Attribution
from ..explanation.explanation import Explanation
from ..explanation.saving import MANIFEST
from ..files import check_writable, make_folder, write_atomically
from ..visualization import SIGNS, Cell, overlay, sheet
from .folders import fingerprint, folder_for
from .working import Options

FLOW, REPORT = "flow.gif", "report.html"


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
    """Overlays by file name, and an overview of them: a row for each target."""
    shown, every = explanation.image, list(explanation)
    names = distinct(["overview", *map(_file_name, every)])[1:]
    drawn = {
        f"{name}.png": overlay(shown, a.map, explanation.view, signed=a.signed)
        for name, a in zip(names, every, strict=True)
    }
    made = list(zip(every, drawn.values(), strict=True))
    rows: list[list[Cell]] = []
    for target in explanation.targets or (None,):
        own = [(_title(a), layer) for a, layer in made if a.target == target or (a.target is None and not rows)]
        key = f"input ({SIGNS})" if any(a.signed for a in every) else "input"
        rows.append([None if rows else (key, shown), *own])
    return {**drawn, "overview.png": sheet(rows)}


def _title(attribution: Attribution) -> str:
    label = attribution.target
    if label is None:
        return attribution.method_title
    score = f", {label.measured}" if label.index is None else f" {label.score:.0%}"
    return f"{attribution.method_title}: {label.title}{score}"


def _file_name(attribution: Attribution) -> str:
    """Without its ending: method, number of the class and its first name; of other targets how they are asked for."""
    method, label = safe_name(attribution.method, "method"), attribution.target
    if label is None:
        return method
    if label.index is None:
        return f"{method}-{safe_name(label.name, 'target')}"
    name = safe_name(label.name.split(",")[0], "")
    return f"{method}-{label.index}{'-' if name else ''}{name}"


def safe_name(text: str, default: str) -> str:
    """A name for a file or folder, of letters, digits, `-` and `_`, whatever the text holds."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:50].strip("_")  # 50 letters fit 255 bytes
    return kept or default


def folder_names(files: Iterable[Path]) -> list[str]:
    """A name for each file from its stem, all different."""
    return distinct(safe_name(file.stem, "image") for file in files)


def distinct(names: Iterable[str]) -> list[str]:
    """The names, those that were there already with a number, also where upper and lower case are the same."""
    used: set[str] = set()
    found = []
    for base in names:
        name, count = base, 2
        while name.casefold() in used:
            name, count = f"{base}-{count}", count + 1
        used.add(name.casefold())
        found.append(name)
    return found


def check_folder(folder: Path) -> None:
    """That a folder for --out can be made and written, so that a failure comes before the work.

    Raises:
        OutputError: it cannot.
    """
    if folder.is_file():
        raise OutputError(f"cannot write to {str(folder)!r}: it is a file, --out takes a folder")
    check_writable(folder)


def save(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write PNG files; each appears under its name when it is complete.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    make_folder(folder)
    for name, image in pictures.items():
        data = BytesIO()
        image.save(data, "PNG")
        write_atomically(folder / name, data.getvalue())
