"""The command line. What it does is in _run.py, which is imported when a command runs: --help needs no torch."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm  # type: ignore[import-untyped]

from ._version import __version__
from .errors import CaptumViTError, ExplanationLoadError, ImageLoadError, InputError, OptionError

if TYPE_CHECKING:
    from ._run import Options
    from .evaluation import Leaderboard
    from .explanation import Explanation

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Explains Vision Transformers: draws what an image's score rests on.",
)  # fmt: skip

BAD_IMAGES, BAD_USE, STOPPED = 1, 2, 130
FIGURES_ACROSS = 4


def main() -> None:
    """The entry point of `captum-vit`."""
    app(prog_name="captum-vit")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"captum-vit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IMAGES", help="Files, or folders of them. Without any, a scene that comes with the sample model."
    ),
]
Model = Annotated[
    str,
    typer.Option(metavar="NAME", help="timm/NAME, hf/ID, hf/FOLDER as save_pretrained writes it, or sample."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights for the model, .safetensors or a state dict of torch.save."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="agcam, daam, rollout, gradient_rollout, raw_attention or all; may be repeated. Default: agcam (daam for "
        "a model without classes), and all for the scene.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="CLASS",
        help="Class to explain, by number or name; may be repeated. Default: the predicted class, and of a multi-label "
        "model all among the top k with a score above one half.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="LAYER",
        help="Attention layer to read, by name or number (-1: the last); may be repeated. Default: all.",
    ),
]
TopK = Annotated[int, typer.Option(metavar="K", min=1, help="How many predicted classes to print.")]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Where the pictures go; each image gets a folder of its own in it.")
]
MaxSide = Annotated[
    int,
    typer.Option(
        metavar="PIXELS",
        min=16,
        help="Longest side of the pictures and of the kept photograph; larger images are shown smaller.",
    ),
]
Attention = Annotated[
    bool,
    typer.Option(
        "--attention/--no-attention",
        help="Keep the attention between patches for the report; it grows with the square of their number.",
    ),
]
Report = Annotated[
    bool,
    typer.Option("--report/--no-report", help="Write report.html, and the explanation itself for captum-vit report."),
]
Flow = Annotated[bool, typer.Option("--flow/--no-flow", help="Write flow.gif, the maps from block to block.")]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Where to compute, as cpu or cuda:1. Default: cuda if there is one."),
]


@app.command()
def explain(
    images: Images = None,
    model: Model = "sample",
    checkpoint: Checkpoint = None,
    method: Methods = None,
    target: Targets = None,
    layer: Layers = None,
    top_k: TopK = 3,
    out: Out = Path("captum-vit-out"),
    max_side: MaxSide = 1024,
    attention: Attention = False,
    report: Report = True,
    flow: Flow = True,
    device: Device = None,
) -> None:
    """Draw what the score of each image rests on.

    Overlays go to OUT/IMAGE/METHOD-CLASS.png, with an overview.png that shows them side by side, a report.html to look
    at them block by block, and a flow.gif. A folder that holds another image of that name is left alone: the next one
    is IMAGE-2. What an earlier run wrote of the same image is replaced, and what this one does not write removed.

    Exit code: 0 all done; 1 some images failed, the others are done; 2 something that was asked for cannot be had.
    """
    try:
        from . import _run
        from .explaining import check_methods

        methods = check_methods(method) if method else None
        if not images and model.split("/")[0] != "sample":
            raise InputError("no images: name files or folders (only the sample model brings a scene of its own)")
        if not images and methods is None:
            methods = check_methods(["all"])
        options = _run.Options(
            model, checkpoint, methods, target or [], layer or [], device, max_side, top_k, attention, report, flow
        )
        code = _explain_all(images or [], options, out)
    except CaptumViTError as error:
        _complain(f"Error: {error}")
        code = BAD_USE
    except KeyboardInterrupt:
        _complain(f"Stopped. The pictures written so far are complete, in {out}")
        code = STOPPED
    raise typer.Exit(code)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="timm/NAME, hf/ID, hf/FOLDER or sample.")] = "sample",
    checkpoint: Checkpoint = None,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Load the pretrained weights; the view is the same without.")
    ] = False,
) -> None:
    """Show what is seen of a model: layers, heads, grid, tokens, readout, and the methods that apply.

    Exit code: 0 shown; 2 the model is not supported or cannot be had, with the reason.
    """
    try:
        from .inspection import inspect as look
        from .models import load_model

        options = {} if checkpoint else {"pretrained": weights}
        view = look(load_model(model, checkpoint=checkpoint, **options).model)
    except CaptumViTError as error:
        _complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    for line in str(view).splitlines():
        _say(_plain(line))


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDERS", help="Where captum-vit explain wrote, or Explanation.save.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the first folder.")] = None,
) -> None:
    """Join saved explanations into one page with an index, that needs no network.

    Exit code: 0 written; 1 some explanations are damaged, the page holds the others; 2 nothing could be written.
    """
    try:
        from ._run import REPORT, find_explanations, loaded
        from .report import render
        from .saving import write_atomically

        def refused(error: ExplanationLoadError) -> None:
            failed.append(error)
            _complain(f"Failed: {error}")

        failed: list[ExplanationLoadError] = []
        found = find_explanations(folders)
        page = render(loaded(found, refused), count=len(found))
        path = out or folders[0] / REPORT
        write_atomically(path, page.encode())
    except CaptumViTError as error:
        _complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    written = len(found) - len(failed)
    _say(f"{written} explanation{'s' if written > 1 else ''}, written: {_plain(str(path))}")
    raise typer.Exit(BAD_IMAGES if failed else 0)


@app.command()
def evaluate(
    model: Model = "sample",
    checkpoint: Checkpoint = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH",
            help="imagenet, voc, cub, coco, pets, imagenet-s, imagenet-segmentation, hf or folder with a path, as "
            "imagenet:/data/ILSVRC; or sample:N, scenes of the sample.",
        ),
    ] = "sample:200",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Methods, with commas between: ours, random, gaussian, all of these, and module:object for an "
            "attribution of Captum or a function, as captum.attr:IntegratedGradients.",
        ),
    ] = "all",
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Of localization, perturbation and sanity, with commas between. Behind a colon a published protocol, "
            "localization:agcam, localization:chefer, perturbation:agcam, perturbation:chefer, perturbation:rise, or "
            "one check, as sanity:class_sensitivity.",
        ),
    ] = "localization",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the methods that know it, as discard_ratio=0.9; may be repeated."),
    ] = None,
    squash: Annotated[
        bool,
        typer.Option(
            "--squash/--no-squash",
            help="Show the model the whole image, whatever its proportions, as the published evaluations do.",
        ),
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the model's classes, one on each line."),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="CLASS", help="Which class is explained: label, the item's own, or predicted.")
    ] = "label",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Of the run; one that was stopped goes on.")] = Path(
        "captum-vit-run"
    ),
    engine: Annotated[str, typer.Option(metavar="NAME", help="local, or ray for several processes or machines.")] = (
        "local"
    ),
    actors: Annotated[int, typer.Option(min=1, help="With ray, how many processes.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="With ray, GPUs for each process.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items, from the first.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 16,
    retry: Annotated[bool, typer.Option("--retry/--no-retry", help="Do again what failed.")] = False,
    keep_maps: Annotated[
        bool, typer.Option("--keep-maps/--no-keep-maps", help="Keep every map in the rows, at grid size.")
    ] = False,
    device: Device = None,
) -> None:
    """Score the maps of several methods over a data set, and print a leaderboard with 95 % intervals.

    Rows go to FOLDER/rows-*.parquet, with leaderboard.csv, which has every class too, and leaderboard.png. Started
    again with the same settings, only what is missing is computed.

    Exit code: 0 all items scored; 1 some failed, their rows say why; 2 something that was asked for cannot be had.
    """
    try:
        sys.path.append(str(Path.cwd()))  # where module:object is looked for besides, as Python itself does
        from .evaluation import Plan, runs

        plan = Plan(
            model, data, _names(methods), _names(metrics), str(checkpoint) if checkpoint else None, target,
            _options(option or []), "squash" if squash else None, _lines(class_names), batch_size=batch_size,
            limit=limit, keep_maps=keep_maps, device=device,
        )  # fmt: skip
        options: dict[str, Any] = {"actors": actors, "num_gpus": gpus} if engine == "ray" else {}
        board = runs.evaluate(plan, out, engine=engine, retry=retry, progress=sys.stderr.isatty(), **options)
        runs.write_summary(board, out)
    except CaptumViTError as error:
        _complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    except KeyboardInterrupt:
        _complain(f"Stopped. Start it again with the same settings and --out {out}, and it goes on")
        raise typer.Exit(STOPPED) from None
    _say_board(board)
    _say(f"\nwritten: {_plain(str(out))}, with leaderboard.csv, leaderboard.png and rows-*.parquet")
    for name in board.without_maps():
        _complain(f"Failed: {name} gave no finite map of any item")
    for reason, count in Counter(board.errors).most_common(5):
        _complain(f"Failed: {reason}" + (f" ({count} times)" if count > 1 else ""))
    if board.errors:
        _complain(f"Failed in all: {len(board.errors)}, the rows say which; --retry does them again")
    raise typer.Exit(BAD_IMAGES if board.errors or board.without_maps() else 0)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="Runs that captum-vit evaluate wrote.")],
    figure: Annotated[
        str | None, typer.Option(metavar="NAME", help="As iou or abpc. Default: the first of the first run.")
    ] = None,
) -> None:
    """Put runs side by side: a row for each method, a column for each run.

    Two runs over the same images are also subtracted, image by image: what the second has more than the first, with
    its 95 % interval.
    """
    try:
        from .evaluation import runs

        _say(runs.compare(folders, figure))
    except CaptumViTError as error:
        _complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None


def _say_board(board: "Leaderboard") -> None:
    """The figures, as many side by side as a screen holds, and by how much the best method leads."""
    shown = [name for name in board.figures if name not in board.undefined()]
    tables = -(-len(shown) // FIGURES_ACROSS)
    for i in range(tables):
        _say(board.to_markdown(shown[len(shown) * i // tables : len(shown) * (i + 1) // tables]) + "\n")
    if shown and len(board.methods) > 1:
        best = board.ranking(shown[0])[0]
        _say(f"{shown[0]}, {best} less the others, paired:")
        for method, lead in board.differences(shown[0]).items():
            _say(f"  {_plain(method):20}  {lead}")
    for count, names in _counted(board, shown).items():
        _complain(f"Note: {count} count for {', '.join(names)}; others have no object, or none that the protocol takes")
    if len(shown) < len(board.figures):
        _complain(f"Note: defined for no item, as without masks or boxes: {', '.join(board.undefined())}")
    for note in board.notes:
        _complain(f"Note: {note}")


def _counted(board: "Leaderboard", figures: list[str]) -> dict[str, list[str]]:
    """'n of m items' -> the figures that count no more than these."""
    items = board.items
    found: dict[str, list[str]] = {}
    for name in figures:
        count = max(board.mean(method, name).count for method in board.methods)
        if count < items:
            found.setdefault(f"{count} of {items} items", []).append(name)
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _lines(file: Path | None) -> list[str] | None:
    """The lines of a text file."""
    try:
        return None if file is None else file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise OptionError(f"cannot read {str(file)!r}: {error}") from error


def _options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE of each, a value that reads as JSON taken as such."""
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise OptionError(f"an option is NAME=VALUE, as discard_ratio=0.9, got {text!r}")
        try:
            found = json.loads(value)
            options[name] = tuple(found) if isinstance(found, list) else found  # as methods want theirs
        except json.JSONDecodeError:
            options[name] = value
    return options


def _explain_all(images: list[Path], options: "Options", out: Path) -> int:
    """Every image, whatever happens to the others; returns the exit code."""
    from . import _run
    from .images import find_images

    files: list[Path | None] = [*find_images(images)] or [None]
    names = _run.folder_names(file or Path(_run.SCENE) for file in files)
    _run.check_folder(out)
    explainer, failed = None, 0
    taken: set[Path] = set()
    bar = tqdm(files, unit="image", leave=False, disable=len(files) == 1 or not sys.stderr.isatty())
    for file, name in zip(bar, names, strict=True):
        try:
            image = _run.picture(file)
            if explainer is None:  # loading takes seconds, a bad file is found at once
                explainer, notes = _run.load(options)
                if file is not None and options.model.split("/")[0] == "sample" and options.checkpoint is None:
                    _complain("Note: the sample model knows drawn shapes alone; name a --model for photographs")
                for note in notes:
                    _complain(f"Note: {note}")
            explanation = _run.explained(explainer, image, file.name if file else "embedded scene", options)
            folder, files_written = _run.write(explanation, out, name, options, taken)
        except (ImageLoadError, InputError) as error:
            failed += 1
            _complain(f"Failed: {error}")
            continue
        _say(_summary(str(file or "embedded scene"), explanation, files_written, folder))
    if failed:
        _complain(f"{failed} of {len(files)} images failed" + ("" if failed == len(files) else "; the others are done"))
    return BAD_IMAGES if failed else 0


def _summary(image: str, explanation: "Explanation", written: list[str], folder: Path) -> str:
    """What is printed of one image."""
    labels = [_plain(label.name or f"class {label.index}") for label in explanation.labels]
    explained = {label.index for label in explanation.targets}
    width = min(max(map(len, labels), default=0), 50)
    lines = [_plain(image)]
    for label, p in zip(labels, explanation.labels, strict=True):
        short = label if len(label) <= width else label[: width - 3] + "..."
        lines.append(f"  {p.index:5d}  {short:{width}}  {p.score:6.1%}{'  explained' if p.index in explained else ''}")
    overlays = sum(name.endswith(".png") for name in written) - 1
    others = [f"{overlays} overlay{'s' if overlays > 1 else ''}", *(n for n in written if not n.endswith(".png"))]
    lines.append(f"  written: {_plain(str(folder / written[0]))} and {', '.join(others)} beside it")
    return "\n".join(lines)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)  # keeps clear of a progress bar


def _complain(text: str) -> None:
    tqdm.write(_plain(text), file=sys.stderr)


def _plain(text: str) -> str:
    """One line without control characters, whatever names are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
