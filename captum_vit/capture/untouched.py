"""Models are left exactly as they were found, also by threads that share one and after an exception."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn

from ..access import Adapter
from .interrupts import INTERRUPTS

_inside: ContextVar[frozenset[int]] = ContextVar("captum_vit_untouched_models", default=frozenset())


class untouched(AbstractContextManager[None]):  # noqa: N801 (a context is called as a function is)
    """The model made ready for capture, and put back: attention kernels, compiled code, and in train mode the
    random state and running statistics. Gradients can be taken inside, also under an outer inference_mode.

    A forward and the backward through it belong into one of these, since in train mode the statistics are put back at
    its end; one inside another does nothing. An interrupt waits until what is being put in place, or back, is so.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._visit = adapter, ExitStack()

    def __enter__(self) -> None:
        if id(self._adapter.model) in _inside.get():
            return
        with ExitStack() as stack:
            stack.enter_context(INTERRUPTS)
            stack.enter_context(_visited(self._adapter))
            self._visit = stack.pop_all()

    def __exit__(self, *exception: Any) -> None:
        self._visit.__exit__(*exception)
        INTERRUPTS.let_through(sys._getframe(1))


@contextmanager
def _visited(adapter: Adapter) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(_inside.reset, _inside.set(_inside.get() | {id(adapter.model)}))
        stack.enter_context(torch.inference_mode(False))
        modules = list(adapter.model.modules())
        for switch in adapter.capturing():
            stack.enter_context(_switched(*switch))
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
            stack.enter_context(_COMPILER.used())
        if adapter.training:
            stack.enter_context(_unchanged_by_training(modules))
        yield


@contextmanager
def _unchanged_by_training(modules: list[nn.Module]) -> Iterator[None]:
    """Random state and buffers as before: dropout draws, batch norm counts."""
    training = [m for m in modules if m.training]
    saved = [(m, name, b, b.clone()) for m in training for name, b in m._buffers.items() if b is not None]
    devices = {p.device for m in modules for p in m.parameters(recurse=False) if p.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, name, buffer, value in saved:
                if module._buffers.get(name) is not buffer:  # another was put in its place
                    module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


class _Shared:
    """A change to something that threads share: made by the first that needs it, undone by the last."""

    def __init__(self, enter: Callable[[], Callable[[], None]]) -> None:
        self._enter, self._users, self._undo = enter, 0, lambda: None

    @contextmanager
    def used(self) -> Iterator[None]:
        """The change, for as long as this lasts."""
        with _lock:
            if self._users == 0:
                self._undo = self._enter()
            self._users += 1
        try:
            yield
        finally:
            with _lock:
                self._users -= 1
                if self._users == 0:
                    self._undo()

    @property
    def free(self) -> bool:
        """Whether nobody uses it."""
        return self._users == 0


def _run_eagerly() -> Callable[[], None]:
    stance = torch.compiler.set_stance("force_eager")  # takes effect at once: compiled code runs plainly
    return lambda: stance.__exit__(None, None, None)


def _set(owner: Any, attribute: str, value: Any) -> Callable[[], None]:
    before = getattr(owner, attribute)
    if before != value:
        setattr(owner, attribute, value)

    def undo() -> None:
        if getattr(owner, attribute) != before:
            setattr(owner, attribute, before)

    return undo


_lock = threading.RLock()
_COMPILER = _Shared(_run_eagerly)
_switches: dict[tuple[int, str], _Shared] = {}


@contextmanager
def _switched(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """`owner.attribute = value` for as long as any thread needs it, then the original again."""
    key = (id(owner), attribute)
    with ExitStack() as stack:
        with _lock:
            switch = _switches.setdefault(key, _Shared(partial(_set, owner, attribute, value)))
            stack.enter_context(switch.used())
        try:
            yield
        finally:
            with _lock:
                stack.close()
                if switch.free:
                    _switches.pop(key, None)
