"""Ctrl-C at any moment: it waits while libraries are imported, and is not lost where Python drops an exception."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stop:
    """Stands before the handler of Ctrl-C, which raises KeyboardInterrupt.

    Of an exception that is raised in a callback, as of the garbage collector, Python says that it is ignored. So what
    was asked is noted, and raised again at the next `check`. And torch aborts the process where an exception meets it
    while it is imported: within `held` it is raised at the end.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self._handler = handler
        self.asked = self.holding = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.holding:
            self._handler(number, frame)

    def check(self) -> None:
        """Raise KeyboardInterrupt if that was asked for and nobody has heard it."""
        if self.asked:
            raise KeyboardInterrupt


_heeding: list[Stop] = []


@contextmanager
def heeding() -> Iterator[None]:
    """A context in which Ctrl-C cannot be lost, as long as `check` is called now and then."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # it is ignored, as by a job in the background, or not ours to hear
        return
    stop = Stop(handler)
    _heeding.append(stop)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        _heeding.remove(stop)


@contextmanager
def held() -> Iterator[None]:
    """A context in which Ctrl-C waits for its end."""
    stop = _heeding[-1] if _heeding else None
    if stop:
        stop.holding = True
    try:
        yield
    finally:
        if stop:
            stop.holding = False
    check()


def check() -> None:
    """Stop here if Ctrl-C was pressed and what it raised was lost."""
    if _heeding:
        _heeding[-1].check()
