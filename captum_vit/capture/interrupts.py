"""Signals wait while a context is entered or left, so that an interrupt leaves nothing half done.

Python runs the handler of a signal between any two steps of the main thread. One that raises, as that of Ctrl-C does,
can so come between a hook's registration and the note that it has to be removed. While a model is visited another
handler stands before it: it looks where the signal has come, and if a context is being entered or left there, it notes
the signal, and the handler is called when that is over. Everywhere else the handler is called at once.
"""

import _signal  # type: ignore[import-not-found]  # signal's own functions make enums, and take 20 times as long
import contextlib
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from torch import _vmap_internals

NUMBERS = tuple(sorted(_signal.valid_signals()))
PASSING = frozenset({"__enter__", "__exit__", "__del__"})  # what a finaliser raises is lost
PASSING_FILES = frozenset(
    x.__code__.co_filename
    for x in (contextlib.contextmanager, weakref.WeakSet.__init__, weakref.WeakKeyDictionary.__init__)
)
BETWEEN_FILES = frozenset({_vmap_internals._vmap.__code__.co_filename})  # enters and leaves without a context
BODIES = frozenset({"inner"})  # of a decorated function, all of which runs in a frame of contextlib


class Waiting:
    """The handler that stands before those of others.

    within: the frame whose contexts are waited for, with all that it calls.
    """

    def __init__(self, within: FrameType | None) -> None:
        self.within = within
        self.before: dict[int, Any] = {}  # number -> handler
        self.noted: dict[int, FrameType | None] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.within is not None and passing(frame, self.within):
            self.noted.setdefault(number, frame)  # once, as Python itself counts signals
        else:
            self.before[number](number, frame)

    def begin(self) -> None:
        """Stand before every handler that is a function. Where one of them raises meanwhile, none."""
        found = {number: handler for number in NUMBERS if callable(handler := _signal.getsignal(number))}
        try:
            for number, handler in found.items():
                self.before[number] = handler
                _signal.signal(number, self)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Put back the handlers, but for those that somebody has replaced, and call them for what was noted."""
        try:
            self._put_back()
        finally:
            try:  # once more: a handler that is back may have raised before the next was
                self._put_back()
            finally:
                self.within = None  # from now on, whoever has kept this handler has the one before it
                self.call_noted()

    def call_noted(self) -> None:
        """Call the handlers for what was noted, all of them, whether or not they raise."""
        for number in list(self.noted)[:1]:
            frame = self.noted.pop(number)
            try:
                self.before[number](number, frame)
            finally:
                self.call_noted()

    def _put_back(self) -> None:
        for number, handler in self.before.items():
            if _signal.getsignal(number) is self:
                _signal.signal(number, handler)


class Interrupts(contextlib.AbstractContextManager[None]):
    """A context in which signals wait for contexts. One inside another, and in any but the main thread, does nothing.

    Only the main thread runs handlers, and only it may replace them.
    """

    def __init__(self) -> None:
        self._users = 0
        self._waiting: Waiting | None = None

    def __enter__(self) -> None:
        if _in_main_thread():
            if self._waiting is None:
                waiting = Waiting(_body(sys._getframe(1)))
                waiting.begin()
                self._waiting = waiting
            self._users += 1

    def __exit__(self, *exception: Any) -> None:
        if _in_main_thread() and self._waiting is not None:
            self._users -= 1
            if not self._users:
                waiting, self._waiting = self._waiting, None
                waiting.end()

    def let_through(self, frame: FrameType) -> None:
        """Call the handlers for what was noted, unless a context is being entered or left at this frame too."""
        waiting = self._waiting
        if waiting is not None and waiting.noted and _in_main_thread() and not passing(frame, waiting.within):
            waiting.call_noted()


INTERRUPTS = Interrupts()


def passing(frame: FrameType | None, within: FrameType | None) -> bool:
    """Whether a context, of whomever, is being entered or left, at a frame and as far up as `within`."""
    if frame is not None and frame.f_code.co_filename in BETWEEN_FILES:
        return True
    while frame is not None and frame is not within:
        if _passes(frame):
            return True
        frame = frame.f_back
    return False


def _passes(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in PASSING or (code.co_filename in PASSING_FILES and code.co_name not in BODIES)


def _body(frame: FrameType | None) -> FrameType | None:
    """The frame that has entered a context, or whose context is being entered, from one that enters it."""
    while frame is not None and _passes(frame):
        frame = frame.f_back
    return frame


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
