"""The command tokens; what it does is in features/, which is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import CaptumViTError, InputError
from . import options as o
from .console import BAD_IMAGES, BAD_USE, STOPPED, Checkpoint, Device, Model, complain, look_here, plain, say
from .stopping import check, held

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from ..explanation.explaining import Explainer
    from ..explanation.seeing import Seen
    from ..features import Tokens

TOGETHER = 12  # images up to which one figure shows them side by side

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
    Path, typer.Option(metavar="FOLDER", help="Where the pictures go; each image gets a folder of its own in it.")
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
    block: Block = "-1",
    foreground: Foreground = False,
    pixel: Pixel = None,
    names: Names = False,
    out: Out = Path("captum-vit-tokens"),
    recursive: o.Recursive = False,
    max_side: o.MaxSide = 1024,
    batch_size: o.BatchSize = 8,
    device: Device = None,
) -> None:
    """Draw what the model's tokens say of each image: PCA as colours, norms and artifacts, similarity, names.

    OUT/IMAGE has pca.png and norms.png, similarity.png with --pixel, names.png with --names. Up to twelve images are
    also shown side by side, norms and names block by block, by files of these names in OUT/together.

    Exit code: 0 all done; 1 some images failed, the others are done; 2 something that was asked for cannot be had.
    """
    try:
        look_here()
        with held():
            from ..attr.patches import EMBEDDED
            from ..features.reading import tokens_of
            from ..images import find_images
            from .explain import check_folder
            from .folders import fingerprint
            from .modelling import ModelOptions

        point = o.numbers("--pixel", pixel)
        files = find_images(images, recursive=recursive)
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
            device=device,
        )
        explainer = known.load(None)
        for note in known.notes(explainer):
            complain(f"Note: {note}")
        check_folder(out)
        if known.of_sample:
            complain(f"Note: {known.of_its_own}")
        seen, place = _seen(files, explainer), o.choice(block)
        if point is not None and seen[0].source != files[0].name:
            raise InputError(f"--pixel is of the first image, and {str(files[0])!r} could not be read")
        assert place is not None
        of_blocks = isinstance(place, int) or place in (EMBEDDED, *explainer.adapter.blocks())
        every = tokens_of(
            seen, explainer, None if of_blocks else [*_blocks(explainer), place], lens=names, batch_size=batch_size
        )
        patch = None if point is None else every.similarity(pixel=point, block=place).patch
        originals = [fingerprint(photo.image) for photo in every.photos]
        _write(every.reduced(max_side), originals, place, foreground, patch, out)
        code = BAD_IMAGES if len(seen) < len(files) else 0
    except CaptumViTError as error:
        complain(f"Error: {error}")
        code = BAD_USE
    except KeyboardInterrupt:
        complain(f"Stopped. The pictures written so far are complete, in {out}")
        code = STOPPED
    raise typer.Exit(code)


def _blocks(explainer: "Explainer") -> list[int]:
    """The numbers of all blocks."""
    return list(range(len(set(explainer.adapter.blocks().values()))))


def _seen(files: list[Path], explainer: "Explainer") -> list["Seen"]:
    """The images as the model sees them; of those that cannot be read it is told.

    Raises:
        InputError: none can.
    """
    from .working import refusal_of

    found = []
    for file in files:
        try:
            found.append(explainer.see(file))
        except Exception as error:
            complain(f"Failed: {refusal_of(error, file)}")
    if not found:
        raise InputError("none of the images could be read")
    return found


def _write(
    every: "Tokens",
    originals: list[str],
    block: int | str,
    foreground: bool,
    patch: tuple[int, ...] | None,
    out: Path,
) -> None:
    """All pictures, image by image, and side by side where there are not too many.

    originals: what tells each photograph from others, whatever the size it is drawn in.
    """
    from io import BytesIO

    from ..files import write_atomically
    from .explain import folder_names, save
    from .folders import folder_for

    name, pca, norms = every.block(block), every.pca(block, foreground=foreground), every.norms()
    drawn = {"pca.png": pca.pictures(), "norms.png": every.norms(block).pictures(name)}
    figures: dict[str, Callable[[], Figure]] = {"pca.png": pca.plot, "norms.png": norms.plot}
    if patch is not None:
        similar = every.similarity(patch, block=block)
        drawn["similarity.png"], figures["similarity.png"] = similar.pictures(), similar.plot
    if every.photos[0].called:
        lens = every.lens()
        last = name if name in lens.probabilities else list(lens.probabilities)[-1]
        drawn["names.png"], figures["names.png"] = lens.pictures(last), lens.plot
    taken: set[Path] = set()
    names = folder_names(Path(photo.source) for photo in every.photos)
    for i, (photo, own) in enumerate(zip(every.photos, names, strict=True)):
        folder = folder_for(out, own, originals[i], list(drawn), taken)
        taken.add(folder.path)
        folder.announce(drawn)
        save({file: pictures[i] for file, pictures in drawn.items()}, folder.path)
        folder.finish(list(drawn))
        say(plain(f"{photo.source}: {', '.join(drawn)} in {folder.path}"))
        if norms.warnings[i]:
            complain(f"Note: {photo.source}: {norms.warnings[i]}")
        check()
    if len(every) <= TOGETHER:
        folder = folder_for(out, "together", "".join(originals), list(figures), taken)
        folder.announce(figures)
        for file, plot in figures.items():
            png = BytesIO()
            plot().savefig(png, format="png", dpi=150)
            write_atomically(folder.path / file, png.getvalue())
        folder.finish(list(figures))
        say(plain(f"side by side: {', '.join(figures)} in {folder.path}"))
