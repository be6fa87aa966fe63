"""How far a command has come: a line that moves on a terminal, and now and then a line in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import Any, TextIO

from .console import Line, complain
from .stopping import check

REDRAWN = 0.1  # seconds between two pictures of a terminal's line
LOGGED = 30.0  # seconds between two lines of a log
FEW = 20  # images, whose own lines tell in a log how far it has come


class Progress:
    """How many of how many, how many a second, and how long the rest takes.

    >>> import io
    >>> from captum_vit.cli.progress import Progress
    >>> log = io.StringIO()
    >>> with Progress(200, "image", log, clock=iter([0, 50, 100]).__next__) as progress:
    ...     progress.update(150)
    >>> print(log.getvalue(), end="")
    150 of 200 images, 3.0 images/s, 17 s left
    150 of 200 images in 1 min 40 s, 1.5 images/s

    On a terminal it is one line with a bar, above which stands whatever `say` and `complain` print meanwhile. In a
    file, a pipe or a terminal that cannot go back in its line, there is a line every half minute, and one at the end.

    Args:
        total: how many there are in all.
        unit: what they are, one of them.
        stream: where it is told, by default stderr.
        done: how many of them had been done before; they count for no speed.
        clock: gives the seconds.
    """

    def __init__(
        self,
        total: int,
        unit: str = "image",
        stream: TextIO | None = None,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._stream = sys.stderr if stream is None else stream
        self._line = _line(self._stream, total)
        self._clock, self._before = clock, done
        self._begun = self._told = clock()
        self._open = True
        if self._line:
            self._line.show(self._text(self._begun), done)

    def update(self, count: int = 1) -> None:
        """So many more are done; here a run stops whose Ctrl-C was lost."""
        check()
        self.done += count
        now = self._clock()
        if now - self._told >= (REDRAWN if self._line else LOGGED):
            self._told = now
            self._tell(self._text(now))

    def close(self) -> None:
        """Say how many were done in all, if any were; nothing is told afterwards."""
        if not self._open:
            return
        self._open = False
        if self._line:
            self._line.clear()
        if self.done > self._before:
            now = self._clock()
            self._write(f"{self._count()} in {duration(now - self._begun)}{self._speed(now)}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, text: str) -> None:
        if self._line:
            self._line.show(text, self.done)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        if self._stream is not None:  # a program without a console has none
            self._stream.write(text + "\n")
            self._stream.flush()

    def _text(self, now: float) -> str:
        fresh, seconds = self.done - self._before, now - self._begun
        left = f", {duration((self.total - self.done) * seconds / fresh)} left" if fresh and seconds > 0 else ""
        return f"{self._count()}{self._speed(now)}{left}"

    def _count(self) -> str:
        return f"{self.done} of {self.total} {self.unit}{'' if self.total == 1 else 's'}"

    def _speed(self, now: float) -> str:
        """Per second, or where that is less than one per minute or hour."""
        fresh, seconds = self.done - self._before, now - self._begun
        if not fresh or seconds <= 0:
            return ""
        for name, length in (("s", 1), ("min", 60), ("h", 3600)):
            speed = fresh / seconds * length
            if speed >= 1 or name == "h":
                break
        return f", {speed:.{1 if speed < 10 else 0}f} {self.unit}s/{name}"


@contextmanager
def counting(total: int, unit: str = "image", *, done: int = 0) -> Iterator[Callable[[], None]]:
    """Tells how far it is, where what is printed of each does not tell enough; gives what is called after each one."""
    if total - done <= (1 if can_go_back(sys.stderr) else FEW):
        yield check
        return
    with Progress(total, unit, done=done) as progress:
        yield progress.update


@contextmanager
def waiting(text: str, *, logged: bool = True) -> Iterator[Callable[[], None]]:
    """Says what is waited for: on a terminal by a line that moves until it is over, elsewhere by one that stays.

    The line gives way to whatever else is written to stderr, as the bar of a download.

    Args:
        text: what it is.
        logged: whether it is worth a line where there is no terminal.
    Yields:
        What ends the line before its time.
    """
    line = _line(sys.stderr)
    if line is None:
        if logged:
            complain(text)
        yield lambda: None
        return
    with Line.aside(), redirect_stderr(_GivingWay(sys.stderr, line)):  # type: ignore[type-var]
        line.show(f"{text}...")
        try:
            yield line.clear
        finally:
            line.clear()


class _GivingWay:
    """A terminal's stream in which a line is drawn, until somebody else writes there."""

    def __init__(self, stream: TextIO, line: Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        self._line.clear()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _line(stream: TextIO | None, total: int | None = None) -> Line | None:
    """A line to draw in, if the stream is a terminal that can go back in it."""
    return Line(stream, total) if stream is not None and can_go_back(stream) else None


def can_go_back(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that can draw over the line that it is in."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def duration(seconds: float) -> str:
    """A time in the two units that matter: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = max(round(seconds), 0)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
