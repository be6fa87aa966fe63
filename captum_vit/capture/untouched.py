"""Models are left exactly as they were found, also by threads that share one and after an exception."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..access import Adapter


@contextmanager
def untouched(adapter: Adapter) -> Iterator[None]:
    """The model made ready for capture, and put back: attention kernels, compiled code, and in train mode the
    random state and running statistics. Gradients can be taken inside, also under an outer inference_mode."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        modules = list(adapter.model.modules())
        for switch in adapter.capturing():
            stack.enter_context(_switched(*switch))
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
            stack.enter_context(_switched(_CompilerStance, "value", "force_eager"))
        if adapter.training:
            stack.enter_context(_unchanged_by_training(modules))
        yield


@contextmanager
def _unchanged_by_training(modules: list[nn.Module]) -> Iterator[None]:
    """Random state and buffers as before: dropout draws, batch norm counts."""
    buffers = [b for m in modules if m.training for b in m.buffers(recurse=False)]
    saved = [b.clone() for b in buffers]
    devices = {p.device for m in modules for p in m.parameters(recurse=False) if p.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for buffer, value in zip(buffers, saved, strict=True):
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


class _Stance:
    """torch.compile's stance as an attribute: as the caller has it, or "force_eager" (compiled code runs plainly)."""

    _context: Any = None

    @property
    def value(self) -> str:
        return "as it was" if self._context is None else "force_eager"

    @value.setter
    def value(self, stance: str) -> None:
        if stance == "force_eager":
            self._context = torch.compiler.set_stance("force_eager")  # takes effect at once
        else:
            self._context.__exit__(None, None, None)
            self._context = None


_CompilerStance = _Stance()
_switch_lock = threading.Lock()
_switches: dict[tuple[int, str], list] = {}  # (object, attribute) -> [users, original value]


@contextmanager
def _switched(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """`owner.attribute = value` for as long as any thread needs it, then the original again."""
    key = (id(owner), attribute)
    with _switch_lock:
        entry = _switches.setdefault(key, [0, getattr(owner, attribute)])
        entry[0] += 1
        if getattr(owner, attribute) != value:
            setattr(owner, attribute, value)
    try:
        yield
    finally:
        with _switch_lock:
            entry[0] -= 1
            if entry[0] == 0:
                del _switches[key]
                if getattr(owner, attribute) != entry[1]:
                    setattr(owner, attribute, entry[1])
