"""The options of `captum-vit explain`, and how their texts are read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError, brief, reason
from ..plugins import is_path, named_object

if TYPE_CHECKING:
    from ..colours import Look

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES", help="Files, or folders of them. Without any, a scene that comes with the sample model."
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive/--no-recursive", help="Look into the folders below those that are named, too.")
]
Frames = Annotated[bool, typer.Option("--frames", help="A folder is one video, of its pictures in their order.")]
CheckpointKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="Which of several sets of weights in the checkpoint, as state_dict_ema or teacher."
    ),
]
Random = Annotated[
    bool,
    typer.Option("--random", help="Random weights instead of a download: the maps show the architecture alone."),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--img-size",
        metavar="PIXELS",
        min=1,
        help="Side of the images that a model of timm, or of Hugging Face with a checkpoint, is built for; timm "
        "interpolates position embeddings of another size.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:OBJECT",
        help="What becomes of an image: torchvision transforms, an image processor, or a function image -> (C, H, W).",
    ),
]
Mean = Annotated[
    str | None, typer.Option(metavar="VALUES", help="By which inputs are normalised: 0.5, or 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(metavar="VALUES", help="As --mean.")]
Squash = Annotated[
    bool,
    typer.Option(
        "--squash/--no-squash",
        help="Show the model the whole image, whatever its proportions, as the published evaluations do.",
    ),
]
ClassNames = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Names of the model's classes, one on each line.")
]
ForwardKwargs = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="Keyword arguments of the model beside the image, as '{\"table\": [[0.1, 2]]}', whose lists become "
        "tensors with one row for all images or one for each; or module:object, a dictionary.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of the model's outputs are its scores, where it gives several: a name as logits, a place as 1, or "
        "module:object, a function of the model's output.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="agcam, daam, rollout, gradient_rollout, raw_attention, all, or module:Class as "
        "captum.attr:IntegratedGradients; may be repeated. all leaves out what takes a hundred forwards and more, as "
        "rise. Default: agcam (daam for a model without classes), and all for the scene.",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Of the methods that know it, as discard_ratio=0.9; may be repeated.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="CLASS",
        help="Class to explain, by number or name, or why one rather than the other, as tabby/Egyptian cat; or "
        "query:17/car, query:17/left of a detector; mask:person, mask:person@FILE, mask:nose/peak of pixels; or "
        "module:object of your own. May be repeated. Default: what is predicted; of several labels all above one half.",
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="TEXT",
        help="Text to explain, as 'a cat on a sofa', by a model of images and texts as CLIP. May be repeated.",
    ),
]
Words = Annotated[
    bool,
    typer.Option(
        "--words/--no-words", help="Tell what a text's cosine and map are without each of its words: a map for each."
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
Verdict = Annotated[
    bool | None,
    typer.Option(
        "--verdict/--no-verdict",
        help="Say of each map whether it may be trusted: what the score does without the part that it marks. Takes up "
        "to 8 forwards a map. Default: with a report.",
    ),
]
Removals = Annotated[
    bool,
    typer.Option(
        "--removals/--no-removals",
        help="Measure the scores without parts of each image, so that the explanation can tell it without any "
        "others. Takes up to 193 forwards an image.",
    ),
]
Report = Annotated[
    bool,
    typer.Option("--report/--no-report", help="Write report.html, and the explanation itself for captum-vit report."),
]
Flow = Annotated[bool, typer.Option("--flow/--no-flow", help="Write flow.gif too, the maps from block to block.")]
Scale = Annotated[
    str | None,
    typer.Option(
        metavar="own|common|LOW,HIGH",
        help="What the colours span: each map's own range, one scale for all maps of a method, or from one value to "
        "another, as to compare images.",
    ),
]
BoostFaint = Annotated[
    bool, typer.Option("--boost-faint", help="Lift faint values in the pictures, as DAAM's authors do by a sigmoid.")
]
Cmap = Annotated[
    str | None, typer.Option(metavar="NAME", help="Colour map of matplotlib. Default: plasma, or blue and orange.")
]
Alpha = Annotated[float, typer.Option(metavar="SHARE", help="Opacity of the strongest colour, 0 to 1.")]
Fade = Annotated[
    bool, typer.Option("--fade/--no-fade", help="Opacity follows the value, or is the same over all of the photograph.")
]
Threshold = Annotated[
    float, typer.Option(metavar="SHARE", help="Leave the photograph bare below this share of the scale, 0 to 1.")
]
Contour = Annotated[float | None, typer.Option(metavar="SHARE", help="Draw a line at this share of the scale, 0 to 1.")]
Page = Annotated[
    int | None, typer.Option(metavar="N", help="Which page or frame of files that have several, from 0. Default: 0.")
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Values that are black and white in images of greys with more than 8 bits, as -1000,400.",
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Images that the model is given at once.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Leave alone what a run with the same settings finished in --out before.")
]
ByFolder = Annotated[
    bool, typer.Option("--by-folder", help="Folders are named after classes: the report of all shows what is wrong.")
]
Open = Annotated[bool, typer.Option("--open", help="Show the report in the browser when all is done.")]


def named_values(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE of each, a value that reads as JSON taken as such.

    Raises:
        OptionError: another form.
    """
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


def choice(text: str | None) -> str | int | None:
    """What --output says: a place where it is a number."""
    return int(text) if text is not None and re.fullmatch("-?[0-9]{1,9}", text) else text


def look(
    scale: str | None,
    boost_faint: bool,
    cmap: str | None,
    alpha: float,
    fade: bool,
    threshold: float,
    contour: float | None,
) -> "Look":
    """How maps are painted, as the options of the same names say; `scale` is one of two words, or two numbers.

    Raises:
        OptionError: a value that is none of theirs.
    """
    from ..colours import Look

    span: Any = scale if scale in ("own", "common") else numbers("--scale", scale, "0,0.5")
    return Look(span, boost_faint, cmap, alpha, fade, threshold, contour)


def numbers(option: str, text: str | None, example: str = "0.485,0.456,0.406") -> list[float] | None:
    """Numbers with commas between.

    Raises:
        OptionError: something else.
    """
    try:
        return None if text is None else [float(value) for value in text.split(",")]
    except ValueError:
        raise OptionError(f"{option} takes numbers with commas between, as {example}, got {text!r}") from None


def keyword_arguments(text: str | None) -> dict[str, Any]:
    """What --forward-kwargs says: JSON, whose lists become tensors, or `module:object`, a dictionary or what makes one.

    Raises:
        OptionError: neither.
    """
    import torch

    if text is None:
        return {}
    if is_path(text):
        found = named_object(text)
        if not isinstance(found, Mapping) and callable(found):
            try:
                found = found()
            except Exception as error:  # of somebody's code
                raise OptionError(f"--forward-kwargs: {text!r} fails where it is called ({reason(error)})") from error
        if not isinstance(found, Mapping):
            raise OptionError(f"--forward-kwargs: expected a dictionary at {text!r}, got {brief(found)}")
        return dict(found)
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no object with names")
        return {name: torch.tensor(v) if isinstance(v, list) else v for name, v in found.items()}
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"--forward-kwargs takes JSON, as '{{\"table\": [[0.1, 2]]}}', or module:object, got {text!r} ({error})"
        ) from error
