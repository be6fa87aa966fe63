"""Random numbers and changes to a model's state that are an explanation's own.

In train mode a model draws random numbers from generators that all threads share, and writes to its buffers: batch
norms count, queues and moving averages move on. To let it, and to undo it afterwards, would undo what others do
meanwhile, as a training loop in another thread. So nothing of it happens: while the model runs,

- what is drawn comes from copies of the generators, begun as these stand: the numbers are those of a plain forward;
- what is written to a tensor of the model is written to a copy, which is what the model then reads.

Each forward begins with the model as it was found, so that all forwards of a visit are the same function; and the
backward goes on with its forward's copies.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .draws import Draws, address, draws, state_of

UNDECLARED = ("running_mean", "running_var")  # which batch norms write to, though their schemas do not say so
Place = tuple[dict[str, Any], str]  # of a module: one of its tables, and a name in it
WRITING = ("__i", "__set")  # += and its kin, [...] = and .data =; a name more costs a copy more


class AsFound:
    """A model as a visit has found it: where its state lies, and where its random numbers begin.

    Attributes:
        newest: the newest forward of the visit.
        noticed: whether any has drawn or changed anything.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module]) -> None:
        self.model, self.modules = model, modules
        tables = [table for m in modules for table in (m._buffers, vars(m))]
        self.places: dict[torch.Size, list[Place]] = {}
        for table in tables:
            for name, x in list(table.items()):  # others may run the model meanwhile
                if isinstance(x, Tensor):
                    self.places.setdefault(x.shape, []).append((table, name))
        self.newest: Private | None = None
        self.noticed = False
        self._storages: dict[int, torch.UntypedStorage] | None = None
        self._starts: dict[Any, Tensor] = {}

    def forward(self) -> AbstractContextManager[None]:
        """A forward of the visit."""
        self.newest = Private(self)
        return self.newest.active()

    def backward(self) -> AbstractContextManager[None]:
        """A backward through the newest forward."""
        return nullcontext() if self.newest is None else self.newest.active()

    @property
    def storages(self) -> dict[int, torch.UntypedStorage]:
        """The memory of parameters, buffers and other tensors of modules, by its address in torch."""
        if self._storages is None:
            own = (x for m in self.modules for x in (*m._buffers.values(), *vars(m).values()))
            found = (storage_of(x) for x in (*self.model.parameters(), *own))
            self._storages = {storage._cdata: storage for storage in found if storage is not None}
        return self._storages

    def _generators(self) -> Iterator[Generator]:
        """Those that are attributes of modules; asked with every draw, and so by types, which are few."""
        for module in self.modules:
            values = list(vars(module).values())
            if any(map(_is_generator, set(map(type, values)))):
                yield from (x for x in values if isinstance(x, Generator))

    def begun(self, given: Generator | None, device: torch.device) -> Generator:
        """A generator that begins where that of the device, or one of the model's own, stood when first asked."""
        if given is not None and not any(_same(given, x) for x in self._generators()):
            return given  # somebody's who asks for numbers by himself
        key = device if given is None else address(given)
        if key not in self._starts:
            self._starts[key] = state_of(device) if given is None else given.get_state()
        own = Generator(device if given is None else given.device)
        own.set_state(self._starts[key])
        return own


class Private:
    """One forward, and the backward through it: its random numbers, and its copies of what it writes to."""

    def __init__(self, found: AsFound) -> None:
        self.found = found
        self.copies: dict[int, torch.UntypedStorage] = {}
        self._own: dict[int, tuple[Tensor, Tensor]] = {}  # a tensor of the model, and that on the copy
        self._ops = _Ops(self)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model runs, or is differentiated."""
        with REPLACED.watched() as replaced, _Calls(self), self._ops:
            yield
            self.found.noticed |= bool(self.copies or self._ops.draws.generators or replaced())

    def copy(self, written: Any) -> None:
        """Make a copy of what is about to be written to, if it is the model's."""
        for x in written if isinstance(written, (list, tuple)) else (written,):
            storage = storage_of(x)
            if storage is not None and storage._cdata in self.found.storages and storage._cdata not in self.copies:
                self.copies[storage._cdata] = storage.clone()

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """A function of tensors, on the copies; what it gives back of its arguments are those it was given."""
        if not self.copies:
            return func(*args, **kwargs)
        given: dict[int, Tensor] = {}
        args = tuple(self._instead(x, given) for x in args)
        out = func(*args, **{name: self._instead(value, given) for name, value in kwargs.items()})
        if type(out) in (list, tuple):
            return type(out)(given.get(id(x), x) for x in out)
        return given.get(id(out), out)

    def _instead(self, x: Any, given: dict[int, Tensor]) -> Any:
        if type(x) in (list, tuple):
            return type(x)([self._instead(part, given) for part in x])
        storage = storage_of(x)
        copy = None if storage is None else self.copies.get(storage._cdata)
        if copy is None:
            return x
        if id(x) not in self._own:  # always the same, for the sake of its graph
            with torch._C.DisableTorchFunction():
                own = torch.empty(0, dtype=x.dtype, device=x.device)
                self._own[id(x)] = x, own.set_(copy, x.storage_offset(), x.size(), x.stride())
        own = self._own[id(x)][1]
        given[id(own)] = x
        return own


class Replaced:
    """Tensors of models in whose place a forward puts others, as by `self.mean = 0.9 * self.mean`; put back at its end.

    A module's attributes are everybody's: so this is of all forwards that run, in all threads.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.RLock(), 0
        self._made: dict[int, torch.UntypedStorage] = {}  # of what may take a place
        self._stood: dict[tuple[int, str], tuple[Place, Any]] = {}  # what stood there, and was made by no forward

    @contextmanager
    def watched(self) -> Iterator[Callable[[], bool]]:
        """Put back at the end what has been replaced; gives a function that tells whether anything is."""
        with self._lock:
            self._users += 1
        try:
            yield lambda: any(self._is_made(table.get(name)) for (table, name), _ in list(self._stood.values()))
        finally:
            with self._lock:
                self._put_back()
                self._users -= 1
                if not self._users:
                    self._made.clear()
                    self._stood.clear()

    def note(self, out: Tensor, places: Iterable[Place]) -> None:
        """What has just been made, and may be put into one of these places."""
        storage = storage_of(out)
        if storage is not None:
            for table, name in places:
                if not self._is_made(now := table.get(name)):
                    self._stood[id(table), name] = (table, name), now
            self._made[storage._cdata] = storage

    def _is_made(self, x: Any) -> bool:
        storage = storage_of(x)
        return storage is not None and storage._cdata in self._made

    def _put_back(self) -> None:
        for (table, name), stood in list(self._stood.values()):
            if self._is_made(table.get(name)):
                table[name] = stood


REPLACED = Replaced()


class _Calls(TorchFunctionMode):
    """Sees what the model calls: so that no graph is built at its tensors, and autograd counts no change of them."""

    def __init__(self, private: Private) -> None:
        super().__init__()
        self.private = private

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if args and ((name.endswith("_") and not name.endswith("__")) or name.startswith(WRITING)):
            self.private.copy(args[0])
        if "out" in kwargs:
            self.private.copy(kwargs["out"])
        return self.private.call(func, args, kwargs)


class _Ops(TorchDispatchMode):
    """Sees what is computed, by whomever it is called: also where a call is made of many, and on the way back."""

    supports_higher_order_operators = True

    def __init__(self, private: Private) -> None:
        super().__init__()
        self.private, self.draws = private, Draws(private.found.begun, self)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # of higher order: made of ops that come by themselves
            return func(*args, **kwargs)
        for position, name in written(func):
            self.private.copy(args[position] if position < len(args) else kwargs.get(name))
        if draws(func):
            func, kwargs = self.draws.instead(func, args, kwargs)
        out = self.private.call(func, args, kwargs)
        if isinstance(out, Tensor) and (places := self.private.found.places.get(out.shape)):
            REPLACED.note(out, places)
        return out


@cache
def written(op: Any) -> tuple[tuple[int, str], ...]:
    """The arguments that an op writes to, as (position, name)."""
    found = []
    for position, argument in enumerate(op._schema.arguments):
        declared = argument.alias_info is not None and argument.alias_info.is_write
        if declared or (argument.name in UNDECLARED and "backward" not in op._schema.name):
            found.append((position, argument.name))
    return tuple(found)


def storage_of(x: Any) -> torch.UntypedStorage | None:
    """The memory of a tensor, None if it has no such."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return None
    try:
        with torch._C.DisableTorchFunction():  # of the tensor itself, whatever a mode would put in its place
            return x.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _same(one: Generator, other: Generator) -> bool:
    return address(one) == address(other)


@cache
def _is_generator(kind: type) -> bool:
    return issubclass(kind, Generator)
