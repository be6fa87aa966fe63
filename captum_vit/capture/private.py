"""Random numbers and changes to a model's state that are an explanation's own.

In train mode a model draws random numbers from generators that all threads share, and writes to its buffers: batch
norms count, queues and moving averages move on. To let it, and to undo it afterwards, would undo what others do
meanwhile, as a training loop in another thread. So nothing of it happens: while the model runs,

- what is drawn comes from copies of the generators, begun as these stand: the numbers are those of a plain forward;
- what is written to a tensor of the model is written to a copy, which is what the model then reads.

Each forward begins with the model as it was found, so that all forwards of a visit are the same function; and the
backward goes on with its forward's copies.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UnsupportedModelError

UNDECLARED = ("running_mean", "running_var")  # which batch norms write to, though their schemas do not say so
CHANCES = ("dropout_p", "dropout")  # arguments with which an op draws nothing if they are 0
aten = torch.ops.aten


@dataclass(frozen=True)
class Role:
    """What an op does besides computing.

    written: the arguments that it writes to, as (position, name, whether autograd counts it).
    drawing: the op that takes a generator in its place, if it draws; None if there is no such.
    """

    written: tuple[tuple[int, str, bool], ...]
    draws: bool
    drawing: Any


@cache
def role_of(op: Any) -> Role:
    """The role of an op, by its schema and its tags."""
    if not isinstance(op, torch._ops.OpOverload):  # of higher order: made of ops that come by themselves
        return Role((), False, None)
    written = []
    for position, argument in enumerate(op._schema.arguments):
        declared = argument.alias_info is not None and argument.alias_info.is_write
        if declared or (argument.name in UNDECLARED and "backward" not in op._schema.name):
            written.append((position, argument.name, declared))
    parts = op._can_decompose() and any(argument.name in CHANCES for argument in op._schema.arguments)
    draws = (torch.Tag.nondeterministic_seeded in op.tags and "backward" not in op._schema.name) or parts
    return Role(tuple(written), draws, _drawing(op) if draws else None)


def _drawing(op: Any) -> Any:
    """The overload of an op that takes a generator, and else the same."""
    packet, names = op.overloadpacket, [a.name for a in op._schema.arguments if a.name != "generator"]
    for overload in (op, *(getattr(packet, name) for name in packet.overloads())):
        found = [a.name for a in overload._schema.arguments]
        if "generator" in found and [name for name in found if name != "generator"] == names:
            return overload
    return None


class AsFound:
    """A model as a visit has found it: where its state lies, and where its random numbers begin."""

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module]) -> None:
        self.model, self.modules = model, modules
        self._storages: dict[int, torch.UntypedStorage] | None = None
        self._generators: list[Generator] | None = None
        self._starts: dict[Any, Tensor] = {}
        self.buffers = [(m._buffers, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
        self.shapes = {b.shape for _, _, b in self.buffers}
        self.newest: Private | None = None
        self.noticed = False

    def forward(self) -> AbstractContextManager[None]:
        """A forward of the visit."""
        self.newest = Private(self)
        return self.newest.active()

    def backward(self) -> AbstractContextManager[None]:
        """A backward through the newest forward."""
        return nullcontext() if self.newest is None else self.newest.active()

    @property
    def storages(self) -> dict[int, torch.UntypedStorage]:
        """The memory of parameters, buffers and other tensors of the modules, by its address in torch."""
        if self._storages is None:
            own = (x for m in self.modules for x in vars(m).values() if isinstance(x, Tensor))
            found = (storage_of(x) for x in (*self.model.parameters(), *self.model.buffers(), *own))
            self._storages = {storage._cdata: storage for storage in found if storage is not None}
        return self._storages

    def begun(self, given: Generator | None, device: torch.device) -> Generator:
        """A generator that begins where that of the device, or one of the model's own, stood when first asked."""
        if given is not None and not any(given is one for one in self._own_generators()):
            return given  # somebody's who asks for numbers by himself
        key = device if given is None else id(given)
        if key not in self._starts:
            self._starts[key] = given.get_state() if given is not None else _state(device)
        return Generator(device if given is None else given.device).set_state(self._starts[key])

    def _own_generators(self) -> list[Generator]:
        if self._generators is None:
            self._generators = [x for m in self.modules for x in vars(m).values() if isinstance(x, Generator)]
        return self._generators


class Private(TorchDispatchMode):
    """One forward, and the backward through it, whose random numbers and changes of the model are its own.

    Attributes:
        noticed: whether it has drawn or changed anything.
    """

    supports_higher_order_operators = True

    def __init__(self, found: AsFound) -> None:
        super().__init__()
        self.found = found
        self.noticed = False
        self._copies: dict[int, torch.UntypedStorage] = {}
        self._generators: dict[Any, Generator] = {}
        self._written: dict[int, Written] = {}
        self._made: dict[int, torch.UntypedStorage] = {}  # of what has the shape of a buffer, and may become one

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        role, kwargs = role_of(func), kwargs or {}
        if role.draws:
            func, kwargs = self._draw(func, role, args, kwargs)
        if role.written:
            self._copy_written(role, args, kwargs)
        given: dict[int, Tensor] = {}
        if self._copies:
            args = tuple(self._own(x, given) for x in args)
            kwargs = {name: self._own(value, given) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        if given and role.written:
            return _replaced(out, lambda x: given.get(id(x), x))
        if isinstance(out, Tensor) and out.shape in self.found.shapes and (storage := storage_of(out)) is not None:
            self._made[storage._cdata] = storage
        return out

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model runs, or is differentiated."""
        with self:
            try:
                yield
            finally:
                for written in reversed(self._written.values()):
                    written.forget()
                self._written.clear()
                self._put_back()
                self.found.noticed |= self.noticed

    def _put_back(self) -> None:
        """The buffers in whose place the model has put others."""
        for table, name, buffer in self.found.buffers:
            now = table.get(name)
            if now is not buffer and (storage := storage_of(now)) is not None and storage._cdata in self._made:
                table[name] = buffer
                self.noticed = True

    def _draw(self, func: Any, role: Role, args: tuple, kwargs: dict) -> tuple[Any, dict]:
        """What draws the same numbers from a generator of the forward's own."""
        values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        tensors = (x for x in values.values() if isinstance(x, Tensor))
        device = torch.device(values.get("device") or next((x.device for x in tensors), "cpu"))
        if device.type == "meta":
            return func, kwargs
        if role.drawing is not None:
            return role.drawing, {**kwargs, "generator": self._generator(values.get("generator"), device)}
        if func is aten.native_dropout.default:
            return self._dropout, kwargs
        if func._can_decompose():  # in inference mode ops come as they are called
            return self._in_parts(func), kwargs
        if all(values.get(a.name, a.default_value) == 0 for a in func._schema.arguments if a.name in CHANCES):
            return func, kwargs
        raise UnsupportedModelError(
            f"{type(self.found.model).__name__} draws random numbers by {func}, which takes no generator: to explain "
            f"it would disturb the random numbers of this process. Put that part of the model into eval mode, or set "
            f"its dropout to 0"
        )

    def _generator(self, given: Generator | None, device: torch.device) -> Generator:
        key = device if given is None else id(given)
        if key not in self._generators:
            self._generators[key] = self.found.begun(given, device)
        self.noticed = True
        return self._generators[key]

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """native_dropout."""
        if train is False:
            return aten.native_dropout.default(x, p, train)
        kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=self._generator(None, x.device))
        return x * kept * (1 / (1 - p) if p < 1 else 0.0), kept

    def _in_parts(self, func: Any) -> Callable:
        def parts(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func.decompose(*args, **kwargs)

        return parts

    def _copy_written(self, role: Role, args: tuple, kwargs: dict) -> None:
        """A copy of all that is about to be written to and is the model's."""
        for position, name, counted in role.written:
            given = args[position] if position < len(args) else kwargs.get(name)
            for x in given if isinstance(given, (list, tuple)) else (given,):
                storage = storage_of(x)
                if storage is None or storage._cdata not in self.found.storages:
                    continue
                self.noticed = True
                if storage._cdata not in self._copies:
                    self._copies[storage._cdata] = storage.clone()
                if counted and not x.is_inference():
                    self._written.setdefault(id(x), Written(x)).times += 1

    def _own(self, x: Any, given: dict[int, Tensor]) -> Any:
        """An argument, with the copy in place of what was written to."""
        if isinstance(x, (list, tuple)):
            return type(x)([self._own(part, given) for part in x]) if type(x) in (list, tuple) else x
        storage = storage_of(x)
        copy = None if storage is None else self._copies.get(storage._cdata)
        if copy is None:
            return x
        own = torch.empty(0, dtype=x.dtype, device=x.device).set_(copy, x.storage_offset(), x.size(), x.stride())
        given[id(own)] = x
        return own


class Written:
    """A tensor that was to be written to; autograd, which then takes it for changed, is told that it was not."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version, self.times = tensor, tensor._version, 0
        self._preserved = torch.autograd._unsafe_preserve_version_counter(tensor)

    def forget(self) -> None:
        """Back to the version before, unless somebody else has written to it meanwhile."""
        if self.tensor._version == self.version + self.times:
            self._preserved.__exit__()


class PlainAttention(TorchFunctionMode):
    """Attention with dropout by its formula where it would be a fused kernel, which takes no generator.

    It has to stand below what listens to attention.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not args[0].is_cpu:
            chance = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
            if chance > 0:
                return aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        return func(*args, **kwargs)


def storage_of(x: Any) -> torch.UntypedStorage | None:
    """The memory of a tensor, None if it has no such."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return None
    try:
        return x.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _replaced(out: Any, change: Callable[[Any], Any]) -> Any:
    return type(out)(map(change, out)) if type(out) in (list, tuple) else change(out)


def _state(device: torch.device) -> Tensor:
    """Where the generator that everybody draws from stands."""
    if device.type == "cpu":
        return torch.default_generator.get_state()
    return torch.get_device_module(device).get_rng_state(device)
