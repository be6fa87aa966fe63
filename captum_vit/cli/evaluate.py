"""The commands evaluate and compare. What they do is in evaluation/, which is imported when a command runs."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import CaptumViTError, OptionError, brief, nearest
from . import options as o
from .console import BAD_IMAGES, BAD_USE, STOPPED, Checkpoint, Device, Model, complain, look_here, plain, say
from .cores import threads_here, usable_cores
from .progress import Progress, waiting
from .stopping import heeding, held

if TYPE_CHECKING:
    from ..evaluation import Leaderboard
    from ..evaluation.engines import Meter

WIDE = 120  # letters of a line where nobody knows


Data = Annotated[
    str,
    typer.Option(
        metavar="KIND:PATH",
        help="imagenet, voc, cub, coco, pets, imagenet-s, imagenet-segmentation, hf or folder with a path, as "
        "imagenet:/data/ILSVRC; or sample:N, scenes of the sample.",
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Methods, with commas between: ours, random, gaussian, all of these, and module:object for an "
        "attribution of Captum or a function, as captum.attr:IntegratedGradients.",
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Of localization, perturbation and sanity, with commas between. Behind a colon a published protocol, "
        "localization:agcam, localization:chefer, perturbation:agcam, perturbation:chefer, perturbation:rise, or "
        "one check, as sanity:class_sensitivity.",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Of the methods that know it, as discard_ratio=0.9; may be repeated."),
]
Target = Annotated[
    str,
    typer.Option(
        metavar="CLASS",
        help="What is explained: label, the item's own class; predicted; or why the one class rather than the other, "
        "for all items, as tabby/Egyptian cat.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Of the run; one that was stopped goes on.")]
Engine = Annotated[str, typer.Option(metavar="NAME", help="local, or ray for several processes or machines.")]
Actors = Annotated[int, typer.Option(min=1, help="With ray, how many processes.")]
Gpus = Annotated[float, typer.Option(min=0, help="With ray, GPUs for each process.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Of each process. Default: as many as there are cores that nobody else uses."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many items, from the first.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once.")]
Retry = Annotated[bool, typer.Option("--retry/--no-retry", help="Do again what failed.")]
Figures = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Of the table and the picture, with commas between, or all. Default: the four that say most.",
    ),
]
KeepMaps = Annotated[bool, typer.Option("--keep-maps/--no-keep-maps", help="Keep every map in the rows, at grid size.")]


def evaluate(
    *,
    model: Model = "sample",
    checkpoint: Checkpoint = None,
    checkpoint_key: o.CheckpointKey = None,
    img_size: o.ImageSize = None,
    data: Data = "sample:200",
    methods: Methods = "all",
    metrics: Metrics = "localization",
    option: MethodOption = None,
    preprocess: o.Preprocess = None,
    mean: o.Mean = None,
    std: o.Std = None,
    squash: o.Squash = False,
    class_names: o.ClassNames = None,
    output: o.Output = None,
    target: Target = "label",
    out: Out = Path("captum-vit-run"),
    engine: Engine = "local",
    actors: Actors = 2,
    gpus: Gpus = 0,
    limit: Limit = None,
    batch_size: BatchSize = 16,
    retry: Retry = False,
    keep_maps: KeepMaps = False,
    figures: Figures = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Score the maps of several methods over a data set, and print a leaderboard with 95 % intervals.

    It shows four figures; leaderboard.md in FOLDER has all of them, leaderboard.csv every class too, leaderboard.png
    the same four as bars, and rows-*.parquet each row. Started again with the same settings, only what is missing is
    computed.

    Exit code: 0 all items scored; 1 some failed, their rows say why; 2 something that was asked for cannot be had.
    """
    with _complaints(out):
        look_here()
        with held():
            from ..evaluation import Plan, runs
            from .modelling import ModelOptions

        known = ModelOptions(checkpoint_key=checkpoint_key, img_size=img_size)
        plan = Plan(
            model=model,
            data=data,
            methods=_names(methods),
            metrics=_names(metrics),
            checkpoint=str(checkpoint) if checkpoint else None,
            target=target,
            loading=known.loading,
            options=o.named_values(option or []),
            preprocess=_shown(preprocess, squash),
            mean=o.numbers("--mean", mean),
            std=o.numbers("--std", std),
            class_names=None if class_names is None else str(class_names),
            output=o.choice(output),
            batch_size=batch_size,
            limit=limit,
            keep_maps=keep_maps,
            device=device,
        )
        shown = _figures(figures, _names(metrics))
        options: dict[str, Any] = {"actors": actors, "num_gpus": gpus} if engine == "ray" else {}
        options["threads"], note = _threads(threads, options.get("actors", 1))
        with waiting(f"Loading {model} and {data}, and asking each method once") as ready:
            meter = _meter(ready, note)
            board = runs.evaluate(plan, out, engine=engine, retry=retry, progress=meter, **options)
        runs.write_summary(board, out, shown)
    _say_board(board, shown)
    say(
        f"\nwritten: {plain(str(out))}, with leaderboard.md (all figures), leaderboard.csv (each class too), "
        f"leaderboard.png and rows-*.parquet"
    )
    raise typer.Exit(BAD_IMAGES if _complain_of_failures(board) else 0)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="Runs that captum-vit evaluate wrote.")],
    figure: Annotated[
        str | None, typer.Option(metavar="NAME", help="As iou or abpc. Default: the first of the first run.")
    ] = None,
) -> None:
    """Put runs side by side: a row for each method, a column for each run.

    Two runs over the same images are also subtracted, image by image: what the second has more than the first, with
    its 95 % interval.

    Maps that captum-vit explain wrote are put side by side by captum-vit report --compare.
    """
    with _complaints():
        from ..evaluation import runs

        say(runs.compare(folders, figure))


@contextmanager
def _complaints(out: Path | None = None) -> Iterator[None]:
    """Say what cannot be had and exit; a run that is stopped is told how it goes on in its folder."""
    try:
        with heeding():
            yield
    except CaptumViTError as error:
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from None
    except KeyboardInterrupt:
        if out is None:
            raise
        complain(f"Stopped. Start it again with the same settings and --out {out}, and it goes on")
        raise typer.Exit(STOPPED) from None


def _shown(preprocess: str | None, squash: bool) -> str | None:
    """What becomes of an image, as a plan says it."""
    if preprocess is not None and squash:
        raise OptionError("--preprocess says what becomes of an image, and so does --squash: give one of them")
    return "squash" if squash else preprocess


def _meter(ready: Callable[[], None], note: str) -> "Callable[[int, int], Meter]":
    """Tells how far a run is, once it begins, and before it what there is to know."""

    def begin(items: int, before: int) -> Progress:
        ready()
        if note:
            complain(f"Note: {note}")
        return Progress(items, "item", done=before)

    return begin


def _threads(asked: int | None, workers: int) -> tuple[int, str]:
    """Of each process; and a note, where others leave fewer than there are cores."""
    if asked is not None:
        return asked, ""
    threads, cores = threads_here(workers), usable_cores()
    busy = f"{threads} of {cores} cores for each process, since others are busy; --threads takes more"
    return threads, busy if threads * workers < cores else ""


def _complain_of_failures(board: "Leaderboard") -> bool:
    """Say which methods and items failed, and give whether any did."""
    for failure in board.failures():
        complain(f"Failed: {failure}")
    for reason, count in Counter(board.item_errors).most_common(5):
        complain(f"Failed: {reason}" + (f" ({count} times)" if count > 1 else ""))
    if board.errors:
        complain(f"Failed in all: {len(board.errors)}, the rows say which; --retry does them again")
    return bool(board.errors)


def _figures(text: str | None, metrics: Sequence[str]) -> list[str] | Literal["all"] | None:
    """The figures and curves that are to be shown, asked before a run begins; None for those that say most."""
    from ..metrics import curves_of, figures_of, named_metric

    if text is None or text.strip() == "all":
        return text if text is None else "all"
    every = [named_metric(name) for name in metrics]
    known, names = [*figures_of(every), *curves_of(every)], _names(text)
    for name in names:
        if name not in known:
            raise OptionError(f"no figure {brief(name)}; there are {', '.join(known)}, and all{nearest(name, known)}")
    return [*names]


def _say_board(board: "Leaderboard", asked: list[str] | Literal["all"] | None) -> None:
    """The table and what it shows, as wide as the terminal is; then what a reader has to know besides."""
    undefined = board.undefined()
    every = [name for name in board.figures if name not in undefined]
    shown = board.headline() if asked is None else every if asked == "all" else [n for n in asked if n in every]
    say(board.summary(shown, width=shutil.get_terminal_size((WIDE, 24)).columns))
    for count, names in _counted(board, shown).items():
        complain(f"Note: {count} count for {', '.join(names)}; others have no object, or none that the protocol takes")
    if undefined:
        other = "" if every or not board.items else "; --metrics perturbation needs none"
        complain(f"Note: defined for no item, as without masks or boxes: {', '.join(undefined)}{other}")
    for note in board.notes:
        complain(f"Note: {note}")


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
