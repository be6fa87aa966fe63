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
    """The last line of a terminal, in which rich draws; what `say` and `complain` print goes above it.

    Args:
        stream: the terminal.
        total: of how many a bar shows the part that is done; by default there is no bar.
    """

    _shown: ClassVar[list["Line"]] = []

    def __init__(self, stream: TextIO, total: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
        from rich.table import Column

        columns: list[ProgressColumn] = [SpinnerColumn("line")]  # which any encoding has letters for
        columns += [BarColumn(20)] if total else []
        columns += [TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))]
        console = Console(file=stream, force_terminal=True, force_jupyter=False)
        # where else stdout goes, as into a file, is none of a line's business
        self._drawn = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task, self._stream = self._drawn.add_task("", total=total), stream

    def show(self, text: str, done: int = 0) -> None:
        """This and nothing else, cut to what the terminal is wide."""
        told = _encodable(plain(text), self._stream)
        self._drawn.update(self._task, description=told, completed=done, refresh=self in self._shown)
        if self not in self._shown:
            self._shown.append(self)
            self._drawn.start()

    def clear(self) -> None:
        """No line any more."""
        if self in self._shown:
            self._shown.remove(self)
            self._drawn.stop()

    @classmethod
    @contextmanager
    def aside(cls) -> Iterator[None]:
        """No line is drawn within, whichever there are."""
        for line in cls._shown:
            line._drawn.stop()
        try:
            yield
        finally:
            for line in cls._shown:
                line._drawn.start()


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
