"""One call of a torch function that meets activations, and what is known of tensors while rules are at work."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import UnsupportedModelError


class State:
    """What is known of the tensors of one forward.

    An activation is a tensor that the gradient will come back to; all others are constants. A held constant was made
    of activations, and counts as a factor: it may multiply activations, and nothing else.

    Attributes:
        title: whose rules are at work, for messages.
        images: how many there are; None if each is by itself along the first axis, whatever that is.
        tokens_first: whether token streams are (N, B, D).
        leaves: where constants are collected that are added to activations; None where nobody asks what they hold.
        absorbed: what softmaxes keep for themselves on the way back, written there as it comes; None likewise.
    """

    def __init__(
        self, title: str, *, images: int | None = None, tokens_first: bool = False, accounting: bool = False
    ) -> None:
        self.title, self.images, self.tokens_first = title, images, tokens_first
        self.leaves: list[Tensor] | None = [] if accounting else None
        self.absorbed: list[Tensor] | None = [] if accounting else None
        self._held = WeakIdKeyDictionary()  # held constant -> the function that made it
        self._rooted = WeakIdKeyDictionary()  # activation -> its version, and what it is a function of by elements
        self._roots = WeakIdKeyDictionary()  # activation -> itself as such a one, kept alive by its functions alone

    def image_axis(self, x: Tensor, name: str) -> int:
        """The axis of an activation along which the images stand.

        Raises:
            UnsupportedModelError: that is not clear, to the function of this name, which asks for each image's whole.
        """
        images = self.images
        if images is None or (not self.tokens_first and x.dim() > 0 and len(x) == images):
            return 0
        if self.tokens_first:
            axes = [axis for axis, size in enumerate(x.shape[:2]) if size == images]
            if x.dim() < 3:
                axes = axes[:1]
            if len(axes) == 1:
                return axes[0]
        elif x.dim() > 2 and len(x) % images == 0:  # views of each, which stand alone
            return 0
        raise UnsupportedModelError(
            f"the rules of {self.title} share out each image's relevance in {name}, and which axis of "
            f"{tuple(x.shape)} is that of the {images} images is not known: explain one image, or fewer at once"
        )

    def hold(self, x: Tensor, name: str) -> Tensor:
        """What the function of this name gave, as a held constant."""
        held = x.detach()
        self._held[held] = name
        return held

    def held_by(self, x: Any) -> str | None:
        """The function that made a held constant; None of all else."""
        return self._held.get(x) if isinstance(x, Tensor) else None

    def follow(self, name: str, args: tuple, kwargs: Mapping[str, Any], out: Any) -> None:
        """What the function of this name makes of held constants alone is held too."""
        if not len(self._held) or made_like(name):
            return
        made_by = next(filter(None, map(self.held_by, tensors_in((args, kwargs)))), None)
        if made_by is not None:
            self.hold_all(out, made_by)

    def hold_all(self, out: Any, name: str) -> None:
        """Note of constants that the function of this name made them of activations."""
        for x in tensors_in(out):
            if x.is_floating_point():
                self._held[x] = name

    def added(self, x: Any, name: str) -> Any:
        """A constant that a function adds to activations.

        Raises:
            UnsupportedModelError: it is a held one, so that what it holds would be lost.
        """
        if isinstance(x, (list, tuple)):
            return type(x)(self.added(part, name) for part in x) if type(x) in (list, tuple) else x
        if not isinstance(x, Tensor) or x.requires_grad or not x.is_floating_point():
            return x
        self.check_added(x, name)
        if self.leaves is None:
            return x
        leaf = x.detach().clone().requires_grad_()
        self.leaves.append(leaf)
        return leaf

    def overwrite(self, x: Tensor, out: Tensor, name: str) -> Tensor:
        """An activation over which the function of this name writes what it gave."""
        x.copy_(out)
        if self.held_by(out) is None:
            return x
        if x._is_view():
            raise UnsupportedModelError(
                f"under the rules of {self.title} what {name} gives is a constant, and here it is written over a part "
                f"of activations: no map of these rules is possible, those of gradients are"
            )
        self.hold_all(x.detach_(), name)
        return x

    def check_added(self, x: Any, name: str) -> None:
        """Raise UnsupportedModelError where a function would add to activations what a held constant holds."""
        for made_by in filter(None, map(self.held_by, tensors_in(x))):
            raise UnsupportedModelError(
                f"under the rules of {self.title} what {made_by} gives is a constant, by which activations may be "
                f"multiplied; here it goes into {name} beside them, so that what it holds would be lost: no map of "
                f"these rules is possible, those of gradients are"
            )

    def rooted(self, x: Tensor) -> "Rooted":
        """What an activation is a function of, element by element: itself where nothing else is known."""
        found = self._noted(x)
        if found is not None and found.root.x._version == found.root.version:
            return found
        known = self._roots.get(x)
        root = None if known is None else known()
        if root is None or root.version != x._version:
            root = Root(x)
            self._roots[x] = ref(root)
        return Rooted(root, root.zero)

    def known_root(self, x: Tensor) -> bool:
        """Whether a tensor is known as a function of another one."""
        return self._noted(x) is not None

    def set_rooted(self, x: Tensor, rooted: "Rooted") -> None:
        """Note what `x` is a function of."""
        self._rooted[x] = x._version, rooted

    def _noted(self, x: Tensor) -> "Rooted | None":
        """What was noted of a tensor that nobody has written to since."""
        version, rooted = self._rooted.get(x, (None, None))
        return rooted if version == x._version else None


class Root:
    """An activation of which others are functions, element by element; beside it stands a 0 that goes the same way."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.version = x, x._version
        self.zero = torch.zeros((), dtype=torch.float64, requires_grad=True)


@dataclass(frozen=True)
class Rooted:
    """What a tensor is a function of, and where that function takes 0.

    root: the activation.  zero: f(0), with the graph of its derivative.
    bent: whether f is more than a sum or a multiple.
    """

    root: Root
    zero: Tensor
    bent: bool = False

    @property
    def slope(self) -> float:
        """f'(0); nan where f has none."""
        if not self.zero.requires_grad:
            return 0.0
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.zero, self.root.zero, retain_graph=True, allow_unused=True)
        return 0.0 if found is None else float(found)


@dataclass(frozen=True)
class Call:
    """A call of a torch function that meets activations.

    func, args, kwargs: the call.  name: of the function.  in_place: whether it writes into its first argument.
    state: what is known of tensors.
    overwritten: whether what comes out is written over its first argument afterwards, so that nothing of that may be
        kept for the way back.
    """

    func: Callable
    name: str
    args: tuple
    kwargs: Mapping[str, Any]
    in_place: bool
    state: State
    overwritten: bool = False

    @property
    def active(self) -> list[Tensor]:
        """The activations among its arguments."""
        return [x for x in tensors_in((self.args, self.kwargs)) if x.requires_grad]

    def run(self) -> Any:
        """What the function gives."""
        return self.func(*self.args, **self.kwargs)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def changed(self, change: Callable[[Any], Any]) -> "Call":
        """The call with every tensor among its arguments changed, in lists too."""
        args, kwargs = with_tensors((self.args, self.kwargs), change)
        return replace(self, args=args, kwargs=kwargs)


def made_like(name: str) -> bool:
    """Whether a function of this name takes no more from a tensor than its shape and type, as zeros_like."""
    return name.endswith("_like") or name.startswith("new_")


def tensors_in(x: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, in lists, tuples and dictionaries too."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from tensors_in(part)
    elif isinstance(x, dict):
        for part in x.values():
            yield from tensors_in(part)


def with_tensors(x: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same with its tensors changed, in lists, tuples and dictionaries too."""
    if isinstance(x, Tensor):
        return change(x)
    if type(x) in (list, tuple):
        return type(x)(with_tensors(part, change) for part in x)
    return {key: with_tensors(part, change) for key, part in x.items()} if type(x) is dict else x


def out_of_place(call: Call) -> Call | None:
    """A call that writes into its first argument as one that gives a new tensor; None if it does already."""
    if call.in_place:
        func = next((f for f in (getattr(home, call.name, None) for home in _HOMES) if f is not None), None)
        return None if func is None else replace(call, func=func, in_place=False, overwritten=True)
    place = _place_of_inplace(call.func)
    if place is None or not call.argument(place, "inplace"):  # F.relu(x, inplace=True)
        return None
    if place < len(call.args):
        return replace(call, args=(*call.args[:place], False, *call.args[place + 1 :]), overwritten=True)
    return replace(call, kwargs={**call.kwargs, "inplace": False}, overwritten=True)


_HOMES = (torch.Tensor, torch, torch.nn.functional)


@functools.lru_cache(maxsize=4096)
def _place_of_inplace(func: Callable) -> int | None:
    try:
        return list(inspect.signature(func).parameters).index("inplace")
    except (ValueError, TypeError):  # a builtin, or none of its arguments
        return None


@functools.lru_cache(maxsize=4096)
def name_of(func: Callable) -> tuple[str, bool]:
    """A function's name, the same in torch, `Tensor` and `torch.nn.functional`, and whether it writes in place."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):  # of a property, as x.T
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    name = name.removeprefix("special_").removeprefix("linalg_")
    if name.startswith("__"):
        name = name.strip("_")
        return _IN_PLACE.get(name, name), name in _IN_PLACE or name == "setitem"
    return name.strip("_"), name.endswith("_")


_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "idiv": "div", "ipow": "pow"}
