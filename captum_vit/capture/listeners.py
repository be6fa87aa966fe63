"""Hooks that others have put on a model, as a logger or a feature extractor: whether they only listen.

What a head reads is known from its class only while no hook changes what passes. A hook that listens, and returns
nothing, changes nothing: it is told from one that edits while the model runs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..access import Adapter, adapt

TABLES = ("_forward_hooks", "_forward_pre_hooks")
BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


def foreign_hooks(model: nn.Module) -> list[nn.Module]:
    """The modules with a forward hook of somebody else's."""
    return [module for module in model.modules() if any(_is_foreign(module, hook) for hook in _hooks(module))]


class Watch:
    """Stands before and after the hooks of these modules, and notes those that changed what passes.

    Attributes:
        edited: the modules whose hooks gave something else, or wrote to it.
        unseen: those whose hooks wrote to `.data`, where neither autograd nor what follows attention can see it.
    """

    def __init__(self, modules: Iterable[nn.Module], active: Callable[[], bool]) -> None:
        self.modules, self.active = list(modules), active
        self.edited: list[nn.Module] = []
        self.unseen: list[nn.Module] = []
        self._passing: dict[tuple[nn.Module, str], Any] = {}

    def listen(self, stack: ExitStack) -> None:
        """Register the hooks, until the stack ends."""
        for module in self.modules:
            first, last = self._pair("input")
            stack.callback(module.register_forward_pre_hook(first, prepend=True, with_kwargs=True).remove)
            stack.callback(module.register_forward_pre_hook(last, with_kwargs=True).remove)
            first, last = self._pair("output")
            stack.callback(module.register_forward_hook(first, prepend=True).remove)
            stack.callback(module.register_forward_hook(last).remove)

    def _pair(self, what: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """One that notes what passes, and one that compares. Both see (args, kwargs), or (args, output)."""

        def passing(args: tuple, last: Any) -> Any:
            return (args, last) if what == "input" else last

        def first(module: nn.Module, args: tuple, last: Any = None) -> None:
            if self.active():
                now = passing(args, last)  # kept, so that nothing else gets its address meanwhile
                self._passing[module, what] = now, _identity(now), _contents(now)

        def compare(module: nn.Module, args: tuple, last: Any = None) -> None:
            if self.active():
                _kept, before, contents = self._passing.pop((module, what), (None, None, []))
                now = passing(args, last)
                if before != _identity(now):
                    self.edited.append(module)
                elif not _hold(now, contents):
                    self.unseen.append(module)

        return first, compare


def without_hooks(model: nn.Module, tables: Sequence[str] = (*TABLES, *BACKWARD)) -> nn.Module:
    """A copy of a module and all in it that shares every parameter and buffer, and has no hook but those of the
    package that made it, which may collect hidden states by them."""
    return _copied(model, tables, {})


def unheard(adapter: Adapter, *, listened: bool) -> Adapter:
    """Access to a model that can run again with nobody hearing it.

    listened: whether forward hooks of somebody else's are on it that only listen; those that edit are part of it.
    """
    model = adapter.model
    if listened:
        return adapt(without_hooks(model))
    heard = any(getattr(module, table) for module in model.modules() for table in BACKWARD)
    return adapt(without_hooks(model, BACKWARD)) if heard else adapter


def _copied(module: nn.Module, tables: Sequence[str], known: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in known:
        copy = known[id(module)] = object.__new__(type(module))
        copy.__dict__.update(module.__dict__)
        children = {name: child and _copied(child, tables, known) for name, child in module._modules.items()}
        copy.__dict__["_modules"] = children
        for table in tables:
            own = [(key, hook) for key, hook in list(getattr(module, table).items()) if _is_of(module, hook)]
            copy.__dict__[table] = OrderedDict(own)
    return known[id(module)]


def _hooks(module: nn.Module) -> Iterator[Any]:
    for table in TABLES:
        yield from list(getattr(module, table).values())  # other threads put theirs on and off


def _is_foreign(module: nn.Module, hook: Any) -> bool:
    """Neither ours, nor of the package that made the module."""
    return _origin(hook) != "captum_vit" and not _is_of(module, hook)


def _is_of(module: nn.Module, hook: Any) -> bool:
    return _origin(hook) == type(module).__module__.split(".")[0]


def _origin(hook: Any) -> str:
    return (getattr(hook, "__module__", None) or "").split(".")[0]


def _identity(x: Any) -> Any:
    """Which objects pass, and in which version: changed where another is put in their place, or one is written to."""
    if isinstance(x, Tensor):
        return id(x), x._version if not x.is_inference() else 0
    if isinstance(x, (list, tuple)):
        return tuple(map(_identity, x))
    if isinstance(x, Mapping):
        return tuple((key, _identity(value)) for key, value in x.items())
    return id(x)


def _contents(x: Any) -> list[Tensor]:
    """What stands in the tensors that pass: a hook may write to their `.data`, which no version counts."""
    return [value.detach().clone() for value in tree_leaves(x) if isinstance(value, Tensor)]


def _hold(x: Any, contents: list[Tensor]) -> bool:
    """Whether the tensors that pass still hold the same."""
    tensors = [value.detach() for value in tree_leaves(x) if isinstance(value, Tensor)]
    return len(tensors) == len(contents) and all(
        now.shape == before.shape and bool(((now == before) | (now != now)).all())
        for now, before in zip(tensors, contents, strict=True)
    )
