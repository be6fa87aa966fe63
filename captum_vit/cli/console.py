"""What the commands share: options, exit codes, and how they speak."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, ClassVar, TextIO

import typer
from tqdm import tqdm  # type: ignore[import-untyped]

from ..errors import OutputError
from ..names import printable

BAD_IMAGES, BAD_USE, STOPPED = 1, 2, 130

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="timm/NAME, hf/ID, hf/FOLDER as save_pretrained writes it, sample, or "
        "module:object: a model of your own, or a function without arguments that makes it.",
    ),
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


class Line:
    """The last line of a terminal, which is drawn over itself; what `say` and `complain` print goes above it."""

    _shown: ClassVar[list["Line"]] = []

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text = stream, ""

    def show(self, text: str) -> None:
        """This and nothing else, cut to what the terminal is wide."""
        self._text = _encodable(plain(text), self._stream)
        if self not in self._shown:
            self._shown.append(self)
        self._draw(self._text)

    def clear(self) -> None:
        """No line any more."""
        if self in self._shown:
            self._shown.remove(self)
            self._draw("")

    @classmethod
    @contextmanager
    def aside(cls) -> Iterator[None]:
        """No line is drawn within, whichever there are."""
        for line in cls._shown:
            line._draw("")
        try:
            yield
        finally:
            for line in cls._shown:
                line._draw(line._text)

    def _draw(self, text: str) -> None:
        self._stream.write(f"\r\x1b[2K{text[: self._width() - 1]}")  # back to its start, emptied
        self._stream.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):  # no terminal of the system's, as in a notebook
            return 80


def say(text: str) -> None:
    """To stdout; what comes from elsewhere goes through `plain` first.

    Raises:
        OutputError: it cannot be written, as to a full disk.
        BrokenPipeError: whoever read it has gone, which ends a command without a word.
    """
    if sys.stdout is None:  # a program without a console has none
        return
    try:
        with Line.aside():
            tqdm.write(_encodable(text, sys.stdout), file=sys.stdout)  # keeps clear of a progress bar
            sys.stdout.flush()  # before a line is drawn again on another stream
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError, ValueError):  # what waits there would be tried, and told, again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def complain(text: str) -> None:
    """One line to stderr."""
    if sys.stderr is None:
        return
    with Line.aside():
        tqdm.write(_encodable(plain(text), sys.stderr), file=sys.stderr)


def plain(text: str) -> str:
    """One line on which nothing acts or hides, whatever names are in it."""
    return printable(text)


def _encodable(text: str, stream: TextIO) -> str:
    """With letters that a stream has none for as Python writes them, as where Windows redirects to a file."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
