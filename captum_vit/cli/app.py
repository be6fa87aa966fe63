"""The commands, and what each says of its options; what they do is imported when one runs: --help needs no torch."""

from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..errors import CaptumViTError, ExplanationLoadError, OptionError, OutputError
from . import options as o
from .console import BAD_IMAGES, BAD_USE, Checkpoint, complain, look_here, plain, say
from .evaluate import compare, evaluate
from .explain_command import explain
from .progress import waiting
from .stopping import heeding, held
from .tokens import tokens

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explains Vision Transformers: draws what an image's score rests on.",
)


def main() -> None:
    """The entry point of `captum-vit`."""
    try:
        app(prog_name="captum-vit")
    except OutputError as error:  # what a command says at its end cannot be written
        complain(f"Error: {error}")
        raise SystemExit(BAD_USE) from None


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


app.command()(heeding()(explain))
app.command()(heeding()(tokens))


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm/NAME, hf/FOLDER, module:object or sample.")
    ] = "sample",
    checkpoint: Checkpoint = None,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Load the pretrained weights; the view is the same without.")
    ] = False,
    forward_kwargs: o.ForwardKwargs = None,
    output: o.Output = None,
) -> None:
    """Show what is seen of a model: layers, heads, grid, tokens, readout, and the methods that apply.

    Exit code: 0 shown; 2 the model is not supported or cannot be had, with the reason.
    """
    try:
        look_here()
        with waiting(f"Loading {model}", logged=False):
            from ..inspection import inspect as look
            from ..models import load_model
            from ..plugins import is_path

            options = {} if checkpoint or is_path(model) else {"pretrained": weights}
            loaded = load_model(model, checkpoint=checkpoint, **options)
        view = look(loaded.model, forward_kwargs=o.keyword_arguments(forward_kwargs), output=o.choice(output))
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
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: report.html (or comparison.html) in the first folder.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Two to six maps side by side under one slider, as before and after.")
    ] = False,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="With --compare, only maps by it; may be repeated.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="With --compare, only maps of it; may be repeated.")
    ] = None,
    scale: o.Scale = None,
    boost_faint: o.BoostFaint = False,
    cmap: o.Cmap = None,
    alpha: o.Alpha = 0.8,
    fade: o.Fade = True,
    threshold: o.Threshold = 0.0,
    contour: o.Contour = None,
) -> None:
    """Join saved explanations into one page with a gallery, that needs no network.

    Of more than 300 images each has a page of its own, in a folder beside the gallery.

    With --compare their maps stand side by side, each under its folder, image, model, method and class, in the order
    of FOLDERS, as before/photo after/photo; of two maps by one method of the same image the second less the first is
    shown as well.

    --scale and what stands below it say how the maps are painted, whatever explain was told. The scale is own by
    default, and common with --compare.

    Exit code: 0 written; 1 some explanations are damaged, the page holds the others; 2 nothing could be written.
    """
    try:
        from ..files import write_atomically
        from .explain import COMPARISON, REPORT, comparison_of, find_explanations, write_report

        def refused(error: ExplanationLoadError) -> None:
            failed.append(error)
            complain(f"Failed: {error}")

        if (method or target) and not compare:
            raise OptionError("--method and --target choose what --compare shows: give it too")
        failed: list[ExplanationLoadError] = []
        default = "common" if compare else "own"
        look = o.look(scale or default, boost_faint, cmap, alpha, fade, threshold, contour)
        found = find_explanations(folders)
        path = out or folders[0] / (COMPARISON if compare else REPORT)
        if compare:
            page = comparison_of(found, method or [], target or []).to_html(look=look)
            write_atomically(path, page.encode())
        else:
            write_report(found, path, look, refused)
    except CaptumViTError as error:
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    written = len(found) - len(failed)
    say(f"{written} explanation{'s' if written > 1 else ''}, written: {plain(str(path))}")
    raise typer.Exit(BAD_IMAGES if failed else 0)


@app.command("app")
def local_app(
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="On offer, repeatable: as for explain. Default: both sample models."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where it listens. Another than 127.0.0.1 lets others in, to the models named here.")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
) -> None:
    """Serve an app in the browser: drop photographs, choose model, methods and classes, save the report.

    It listens to this machine alone and reports nothing to anybody. Ctrl-C ends it.

    Exit code: 0 ended; 2 it could not be started, with the reason.
    """
    try:
        look_here()
        with waiting("Starting", logged=False), held():
            from ..app import serve
        serve(model, host=host, port=port, open_browser=open_, ready=lambda url: say(f"the app is at {url}"))
    except (CaptumViTError, OSError) as error:
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None


app.command()(evaluate)
app.command()(compare)
