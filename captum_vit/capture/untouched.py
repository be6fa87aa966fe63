"""Models are left exactly as they were found, also by threads that share one and after an exception."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..access import Adapter
from .draws import PlainAttention
from .interrupts import INTERRUPTS
from .masks import CheckedMasks, in_double
from .private import AsFound

_visits: ContextVar[Mapping[int, AsFound | None]] = ContextVar("captum_vit_visits", default=MappingProxyType({}))
_quiet: "WeakKeyDictionary[nn.Module, tuple[int, ...]]" = WeakKeyDictionary()  # model -> its modules, by id


class untouched(AbstractContextManager[None]):  # noqa: N801 (a context is called as a function is)
    """The model made ready for capture, and put back: attention kernels and compiled code. Gradients can be taken
    inside, also under an outer inference_mode.

    >>> with untouched(adapt(model)):
    ...     scores = model(images)
    >>> scores.shape
    torch.Size([2, 1000])

    A forward and the backward through it belong into one of these; one inside another does nothing. An interrupt waits
    until what is being put in place, or back, is so.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._visit = adapter, ExitStack()

    def __enter__(self) -> None:
        if id(self._adapter.model) in _visits.get():
            return
        with ExitStack() as stack:
            stack.enter_context(INTERRUPTS)
            stack.enter_context(_visited(self._adapter))
            self._visit = stack.pop_all()

    def __exit__(self, *exception: Any) -> None:
        self._visit.__exit__(*exception)
        INTERRUPTS.let_through(sys._getframe(1))


def own_forward(model: nn.Module) -> AbstractContextManager[None]:
    """A context for one forward of a model that is visited: in train mode, what it draws and changes is its own.

    So it is in eval mode, where a model draws or changes something all the same; whether it does shows in its first
    visit.
    """
    found = _visit_of(model)
    return nullcontext() if found is None else found.forward()


def own_backward(model: nn.Module) -> AbstractContextManager[None]:
    """A context for the backward through the newest of these forwards."""
    found = _visit_of(model)
    return nullcontext() if found is None else found.backward()


def _visit_of(model: nn.Module) -> AsFound | None:
    """Its visit, or the innermost of all: that of a model whose tensors it shares, as a copy without hooks does."""
    visits = _visits.get()
    return visits.get(id(model), next(reversed(list(visits.values())), None)) if visits else None


@contextmanager
def _visited(adapter: Adapter) -> Iterator[None]:
    model, modules = adapter.model, list(adapter.model.modules())
    training = any(module.training for module in modules)
    known = tuple(map(id, modules))
    found = AsFound(model, modules) if training or _quiet.get(model) != known else None
    with ExitStack() as stack:
        stack.callback(_visits.reset, _visits.set({**_visits.get(), id(model): found}))
        stack.enter_context(torch.inference_mode(False))
        if found is not None and any(not p.is_cpu for p in model.parameters()):
            stack.enter_context(PlainAttention())
        if in_double(model):
            stack.enter_context(CheckedMasks())
        for switch in adapter.capturing():
            stack.enter_context(_switched(*switch))
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
            stack.enter_context(_COMPILER.used())
        yield
    if found is not None and found.newest is not None and not found.noticed and not training:
        _quiet[model] = known


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
