"""What the commands share: options, exit codes, and how they speak."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm  # type: ignore[import-untyped]

BAD_IMAGES, BAD_USE, STOPPED = 1, 2, 130

Model = Annotated[
    str,
    typer.Option(metavar="NAME", help="timm/NAME, hf/ID, hf/FOLDER as save_pretrained writes it, or sample."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights for the model, .safetensors or a state dict of torch.save."),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Where to compute, as cpu or cuda:1. Default: cuda if there is one."),
]


def look_here() -> None:
    """Let `module:object` be a file of this folder too, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def say(text: str) -> None:
    """To stdout."""
    tqdm.write(text, file=sys.stdout)  # keeps clear of a progress bar


def complain(text: str) -> None:
    """One line to stderr."""
    tqdm.write(plain(text), file=sys.stderr)


def plain(text: str) -> str:
    """One line without control characters, whatever names are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
