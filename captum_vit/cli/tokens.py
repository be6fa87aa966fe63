"""The command tokens; what it does is in features/, which is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import CaptumViTError
from . import options as o
from .console import BAD_USE, STOPPED, Checkpoint, Device, Model, complain, look_here
from .explain_command import Notes
from .progress import waiting
from .stopping import held

Images = Annotated[list[str], typer.Argument(metavar="IMAGES", help="Files, or folders of them.")]
Block = Annotated[
    str,
    typer.Option(
        metavar="BLOCK",
        help="After which block: its number (-1: the last), the name of its attention layer, embedding for before the "
        "first, or a module as norm.",
    ),
]
Foreground = Annotated[
    bool,
    typer.Option("--foreground/--no-foreground", help="Leave the background out of the PCA, as DINOv2's authors do."),
]
Pixel = Annotated[
    str | None,
    typer.Option(metavar="X,Y", help="Also how alike the patch at this pixel of the first image is to all others."),
]
Names = Annotated[
    bool, typer.Option("--names/--no-names", help="Also what the model's head would call each patch, after each block.")
]
Out = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Where pictures and numbers go; each image gets a folder of its own in it."),
]

MaxSide = Annotated[
    int,
    typer.Option(metavar="PIXELS", min=16, help="Longest side of the pictures; larger images are shown smaller."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Leave alone what an earlier run of the same images with the same settings finished in --out."
    ),
]


def tokens(
    images: Images,
    *,
    model: Model = "sample",
    checkpoint: Checkpoint = None,
    checkpoint_key: o.CheckpointKey = None,
    random: o.Random = False,
    img_size: o.ImageSize = None,
    preprocess: o.Preprocess = None,
    mean: o.Mean = None,
    std: o.Std = None,
    squash: o.Squash = False,
    class_names: o.ClassNames = None,
    forward_kwargs: o.ForwardKwargs = None,
    output: o.Output = None,
    block: Block = "-1",
    foreground: Foreground = False,
    pixel: Pixel = None,
    names: Names = False,
    out: Out = Path("captum-vit-tokens"),
    recursive: o.Recursive = False,
    resume: Resume = False,
    max_side: MaxSide = 1024,
    batch_size: o.BatchSize = 8,
    page: o.Page = None,
    window: o.Window = None,
    device: Device = None,
) -> None:
    """Draw what the model's tokens say of each image: PCA as colours, norms and artifacts, similarity, names.

    OUT/IMAGE has pca.png and norms.png, similarity.png with --pixel, names.png with --names, and the same in numbers:
    tokens.npz for NumPy, and norms.csv. Up to twelve images are also shown side by side in OUT/together.

    The colours of the PCA mean the same in all images of a run. However many they are, a batch at a time is in memory.

    Exit code: 0 all done; 1 some images failed, the others are done; 2 something that was asked for cannot be had.
    """
    try:
        look_here()
        with waiting("Starting", logged=False), held():
            from .batching import jobs_of
            from .batching import window as ends_of
            from .modelling import ModelOptions
            from .token_run import TokenOptions, draw_all

        point = o.numbers("--pixel", pixel, "150,120")
        known = ModelOptions(
            model=model,
            checkpoint=checkpoint,
            checkpoint_key=checkpoint_key,
            random=random,
            img_size=img_size,
            preprocess=preprocess,
            mean=mean,
            std=std,
            squash=squash,
            class_names=class_names,
            output=output,
            device=device,
        )
        place = o.choice(block)
        assert place is not None
        options = TokenOptions(
            model=known,
            block=place,
            foreground=foreground,
            pixel=None if point is None else tuple(point),
            names=names,
            max_side=max_side,
            batch_size=batch_size,
            page=page,
            window=ends_of(window),
        )
        jobs = jobs_of(images, o.keyword_arguments(forward_kwargs), recursive)
        code = draw_all(jobs, options, out, resume, Notes())
    except CaptumViTError as error:
        complain(f"Error: {error}")
        code = BAD_USE
    except KeyboardInterrupt:
        complain(f"Stopped. The pictures written so far are complete, in {out}; --resume goes on")
        code = STOPPED
    raise typer.Exit(code)
