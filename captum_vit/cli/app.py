"""The commands, and what each says of its options; what they do is imported when one runs: --help needs no torch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm  # type: ignore[import-untyped]

from .._version import __version__
from ..errors import CaptumViTError, ExplanationLoadError, ImageLoadError, InputError
from .console import BAD_IMAGES, BAD_USE, STOPPED, Checkpoint, Device, Model, complain, look_here, plain, say
from .evaluate import compare, evaluate

if TYPE_CHECKING:
    from ..explanation.explanation import Explanation
    from .working import Options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explains Vision Transformers: draws what an image's score rests on.",
)


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
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="agcam, daam, rollout, gradient_rollout, raw_attention, all, or module:Class as "
        "captum.attr:IntegratedGradients; may be repeated. Default: agcam (daam for a model without classes), and all "
        "for the scene.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="CLASS",
        help="Class to explain, by number or name, or why one rather than the other, as tabby/Egyptian cat; or "
        "module:object, a target or function of your own. May be repeated. Default: the predicted class, and of a "
        "multi-label model all among the top k with a score above one half.",
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
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images that are explained at once.")] = 8,
    device: Device = None,
) -> None:
    """Draw what the score of each image rests on.

    Overlays go to OUT/IMAGE/METHOD-CLASS.png, with an overview.png that shows them side by side, a report.html to look
    at them block by block, and a flow.gif. A folder that holds another image of that name is left alone: the next one
    is IMAGE-2. What an earlier run wrote of the same image is replaced, and what this one does not write removed.

    Exit code: 0 all done; 1 some images failed, the others are done; 2 something that was asked for cannot be had.
    """
    try:
        look_here()
        from . import working

        working.check_methods(method or [])
        if not images and model.split("/")[0] != "sample":
            raise InputError("no images: name files or folders (only the sample model brings a scene of its own)")
        options = working.Options(
            model=model,
            checkpoint=checkpoint,
            methods=method or (None if images else ["all"]),
            targets=target or [],
            layers=layer or [],
            device=device,
            max_side=max_side,
            top_k=top_k,
            batch_size=batch_size,
            attention=attention,
            report=report,
            flow=flow,
        )
        code = _explain_all(images or [], options, out)
    except CaptumViTError as error:
        complain(f"Error: {error}")
        code = BAD_USE
    except KeyboardInterrupt:
        complain(f"Stopped. The pictures written so far are complete, in {out}")
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
        from ..inspection import inspect as look
        from ..models import load_model

        options = {} if checkpoint else {"pretrained": weights}
        view = look(load_model(model, checkpoint=checkpoint, **options).model)
    except CaptumViTError as error:
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    for line in str(view).splitlines():
        say(plain(line))


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
        from ..files import write_atomically
        from ..report import render
        from .explain import REPORT, find_explanations, loaded

        def refused(error: ExplanationLoadError) -> None:
            failed.append(error)
            complain(f"Failed: {error}")

        failed: list[ExplanationLoadError] = []
        found = find_explanations(folders)
        page = render(loaded(found, refused), count=len(found))
        path = out or folders[0] / REPORT
        write_atomically(path, page.encode())
    except CaptumViTError as error:
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    written = len(found) - len(failed)
    say(f"{written} explanation{'s' if written > 1 else ''}, written: {plain(str(path))}")
    raise typer.Exit(BAD_IMAGES if failed else 0)


app.command()(evaluate)
app.command()(compare)


def _explain_all(images: list[Path], options: "Options", out: Path) -> int:
    """Every image, whatever happens to the others; returns the exit code."""
    from ..images import find_images
    from . import explain as work
    from . import working

    files: list[Path | None] = [*find_images(images)] or [None]
    names = work.folder_names(file or Path(working.SCENE) for file in files)
    work.check_folder(out)
    failed = 0
    taken: set[Path] = set()
    answers = working.answers(files, names, options, lambda note: complain(f"Note: {note}"))
    quiet = len(files) == 1 or not sys.stderr.isatty()
    for answer in tqdm(answers, total=len(files), unit="image", leave=False, disable=quiet):
        try:
            explanation = answer.granted()
            folder, written = work.write(explanation, out, answer.name, options, taken)
        except (ImageLoadError, InputError) as error:
            failed += 1
            complain(f"Failed: {error}")
            continue
        say(_summary(str(answer.file or working.EMBEDDED), explanation, written, folder))
    if failed:
        complain(f"{failed} of {len(files)} images failed" + ("" if failed == len(files) else "; the others are done"))
    return BAD_IMAGES if failed else 0


def _summary(image: str, explanation: "Explanation", written: list[str], folder: Path) -> str:
    """What is printed of one image."""
    classes = [label for label in explanation.labels if label.index is not None]
    names = [plain(label.name or f"class {label.index}") for label in classes]
    width = min(max(map(len, names), default=0), 50)
    lines = [plain(image)]
    for name, p in zip(names, classes, strict=True):
        short = name if len(name) <= width else name[: width - 3] + "..."
        lines.append(
            f"  {p.index:5d}  {short:{width}}  {p.score:6.1%}{'  explained' if p in explanation.targets else ''}"
        )
    for label in explanation.targets:
        if label.index is None:
            lines.append(f"         {plain(label.title)}: {label.unit} {label.score:.3g}  explained")
    overlays = sum(name.endswith(".png") for name in written) - 1
    others = [f"{overlays} overlay{'s' if overlays > 1 else ''}", *(n for n in written if not n.endswith(".png"))]
    lines.append(f"  written: {plain(str(folder / written[0]))} and {', '.join(others)} beside it")
    return "\n".join(lines)
