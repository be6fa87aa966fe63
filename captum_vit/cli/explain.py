"""What the command line makes of an explanation: pictures, pages, and the folder that they go to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..colours import LOOK, NEARLY_FLAT, SIGNS, Look
from ..compared import MOST
from ..errors import ExplanationLoadError, InputError, OutputError
from ..explained import RANDOM, Attribution
from ..explanation.comparison import Comparison, compare_maps
from ..explanation.explanation import Explanation
from ..explanation.saving import MANIFEST
from ..files import check_writable, make_folder, write_atomically, writing_to
from ..names import distinct, safe_name
from ..pixels import png
from ..visualization import Cell, overlay, sheet, thinned
from .folders import fingerprint, folder_for
from .working import Options

FRAMES = 8  # of a video, on the overview
FLOW, FILM, REPORT, COMPARISON = "flow.gif", "film.gif", "report.html", "comparison.html"


def write(
    explanation: Explanation, out: Path, name: str, options: Options, taken: set[Path], made: str = ""
) -> tuple[Path, list[str]]:
    """Write all that was asked for, and name the folder and the files in it, the overview first.

    Of the photograph a copy of `max_side` is drawn on and kept: a large one would take longer to write than to explain.

    Args:
        explanation: of one image.
        out, name: the folder and the one in it that is wanted; if that holds another image, the next is taken.
        options: what was asked for.
        taken: the folders that this run wrote; this one is added.
        made: a hash of what it is made of, for a run that goes on.
    Raises:
        OutputError: the folder or a file cannot be written.
    """
    image = fingerprint(explanation.image if explanation.frames is None else explanation.frames.strip())
    shown = explanation.reduced(options.max_side)
    drawn = pictures(shown, options.look)
    names = ["overview.png", *sorted(name for name in drawn if name != "overview.png")]
    names += [FILM] * (shown.frames is not None) + [FLOW] * options.flow + [REPORT] * options.report
    volumes = _maps_of_volume(explanation)
    names += list(volumes)
    files = [*names, *[MANIFEST] * options.report]
    folder = folder_for(out, name, image, files, taken)
    taken.add(folder.path)
    folder.announce(files)
    save(drawn, folder.path)
    if shown.frames is not None:
        shown.film.save(folder.path / FILM, look=options.look)
    for name, one in volumes.items():
        one.to_nifti(folder.path / name)
    if options.flow:
        shown.flow.save(folder.path / FLOW, look=options.look)
    if options.report:
        shown.to_html(folder.path / REPORT, options.look)
        shown.save(folder.path)
    folder.finish(files, made)
    return folder.path, names


def find_explanations(folders: Sequence[Path]) -> list[Path]:
    """The folders with a saved explanation, among these and all in them: those of each in its turn, sorted by name.

    Raises:
        ExplanationLoadError: there is none.
    """
    inside = (sorted({path.parent for path in Path(folder).rglob(MANIFEST)}) for folder in folders)
    found = list(dict.fromkeys(chain.from_iterable(inside)))  # of "before after" the first stays first
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


def write_report(
    folders: Sequence[Path], page: Path, look: Look, refused: Callable[[ExplanationLoadError], None]
) -> list[str]:
    """The report of the explanations in these folders, as the page of this name; the names of all files.

    Of very many images each has a page of its own, in a folder beside it: what an earlier run left there goes.

    Raises:
        ExplanationLoadError: none of them can be read.
        OutputError: a file cannot be written.
    """
    from ..report import images_of, pages

    written = []
    for name, html in pages(loaded(folders, refused), len(folders), page.name, look):
        path = page.parent / name
        if path.parent != page.parent:
            make_folder(path.parent)
        write_atomically(path, html.encode())
        written.append(name)
    kept = {page.parent / name for name in written}
    for path in (page.parent / images_of(page.name)).glob("[0-9][0-9][0-9][0-9][0-9].html"):
        if path not in kept:
            path.unlink(missing_ok=True)
    return written


def comparison_of(folders: Sequence[Path], methods: Sequence[str], targets: Sequence[str]) -> Comparison:
    """The maps of the explanations in these folders side by side, those of these methods and targets if there are any.

    Raises:
        ExplanationLoadError: one of them cannot be read.
        OptionError, TargetError: a method or target is not in one of them.
        InputError: they are not two to six.
    """
    parts, names = [], []
    asked: list[str | None] = [*methods] or [None]
    about: list[str | None] = [*targets] or [None]
    if len(folders) > MOST:  # they need not be read
        raise _uncompared(f"those of {len(folders)} images")
    for folder in folders:
        whole = Explanation.load(folder)
        for method in asked:
            kept = [whole.only(method, target) for target in about]
            once = dict.fromkeys(a for part in kept for a in part)  # one map for all targets is in each
            parts.append(replace(whole, attributions=tuple(once)))
            names.append(str(folder))
    count = sum(len(part.attributions) for part in parts)
    if not 2 <= count <= MOST:
        raise _uncompared(str(count))
    return compare_maps(*parts, names=names)


def _uncompared(got: str) -> InputError:
    """That there are too few maps to compare, or too many, and how to name some."""
    return InputError(
        f"expected two to six maps to compare, got {got}: name the folders of single images, as before/photo "
        "after/photo, and choose among their maps by --method and --target"
    )


def pictures(explanation: Explanation, look: Look = LOOK) -> dict[str, Image.Image]:
    """Overlays by file name, and an overview of them: a row for each target.

    Of a video overlays of the frame with the strongest map; the overview has a row of frames for each map.
    """
    whole, explanation = explanation, explanation.still()
    shown, every = explanation.image, list(explanation)
    names = distinct(["overview", *map(_file_name, every)])[1:]
    drawn = {
        f"{name}.png": _stamped(
            overlay(shown, a.map, explanation.view, look, scale=explanation.scale(a, look), marks=a.marks),
            RANDOM if explanation.untrained else NEARLY_FLAT * a.flat,
        )
        for name, a in zip(names, every, strict=True)
    }
    made = list(zip(every, drawn.values(), strict=True))
    rows: list[list[Cell]] = []
    for target in explanation.targets or (None,):
        own = [
            (f"{a.heading}\n{a.judged}", layer)
            for a, layer in made
            if a.target == target or (a.target is None and not rows)
        ]
        key = f"input ({SIGNS})" if any(a.signed for a in every) else "input"
        rows.append([None if rows else (key, shown), *own])
    return {**drawn, "overview.png": sheet(rows if whole.frames is None else _frames(whole, look))}


def _frames(explanation: Explanation, look: Look) -> list[list[Cell]]:
    """Frames of a video, below them each map over these."""
    kept = explanation.frames
    assert kept is not None
    places = thinned(len(kept.images), FRAMES)
    rows: list[list[Cell]] = [[(kept.names[place], kept.images[place]) for place in places]]
    for number, a in enumerate(explanation):
        single = replace(explanation, attributions=(explanation.attributions[number],))
        titles = [f"{a.heading}\n{a.judged}", *[""] * (len(places) - 1)]
        rows.append([(title, single.overlay(look, frame=i)) for title, i in zip(titles, places, strict=True)])
    return rows


def _maps_of_volume(explanation: Explanation) -> dict[str, Explanation]:
    """By file name, each map of a volume that lies somewhere in the world."""
    if explanation.frames is None or explanation.frames.affine is None:
        return {}
    every = [replace(explanation, attributions=(a,)) for a in explanation]
    names = distinct([_file_name(each.attributions[0]) for each in every])
    return {f"{name}.nii.gz": each for name, each in zip(names, every, strict=True)}


def _stamped(picture: Image.Image, said: str) -> Image.Image:
    """The picture, with what must not be parted from it on it: that the weights are random, or the map nearly flat."""
    if not said:
        return picture
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, min(picture.size) // 20))
    box = draw.textbbox((0, 0), said, font)
    draw.rectangle((0, 0, box[2] + 4, box[3] + 4), "white")
    draw.text((2, 1), said, "black", font)
    return picture


def _file_name(attribution: Attribution) -> str:
    """Without its ending: method, number of the class and its first name; of other targets how they are asked for."""
    method, label = safe_name(attribution.method, "method"), attribution.target
    if label is None:
        return method
    if label.index is None:
        return f"{method}-{safe_name(label.name, 'target')}"
    name = safe_name(label.name.split(",")[0], "")
    return f"{method}-{label.index}{'-' if name else ''}{name}"


def check_folder(folder: Path) -> None:
    """That a folder for --out can be made and written, so that a failure comes before the work.

    Raises:
        OutputError: it cannot.
    """
    with writing_to(folder):  # as a name that is too long
        occupied = folder.is_file()
    if occupied:
        raise OutputError(f"cannot write to {str(folder)!r}: it is a file, --out takes a folder")
    check_writable(folder)


def save(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write PNG files; each appears under its name when it is complete.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    make_folder(folder)
    for name, image in pictures.items():
        write_atomically(folder / name, png(image))
