"""Random numbers out of generators of one's own, for all that draws from those that everybody shares."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UnsupportedModelError

CHANCES = ("dropout_p", "dropout")  # arguments with which an op draws nothing if they are 0
aten = torch.ops.aten


@cache
def draws(op: Any) -> bool:
    """Whether an op draws random numbers, or is made of ops that may."""
    names = [argument.name for argument in op._schema.arguments]
    if op._can_decompose() and any(name in CHANCES for name in names):
        return True
    return torch.Tag.nondeterministic_seeded in op.tags and "backward" not in op._schema.name


@cache
def with_generator(op: Any) -> Any:
    """The overload of an op that takes a generator, and else the same; None if there is none."""
    packet, names = op.overloadpacket, [a.name for a in op._schema.arguments if a.name != "generator"]
    for overload in (op, *(getattr(packet, name) for name in packet.overloads())):
        found = [a.name for a in overload._schema.arguments]
        if "generator" in found and [name for name in found if name != "generator"] == names:
            return overload
    return None


class Draws:
    """What one forward draws.

    Args:
        begun: a generator that begins where that of a device, or the one that was given, stands.
        mode: the mode in which ops are seen.
    """

    def __init__(self, begun: Callable[[Generator | None, torch.device], Generator], mode: TorchDispatchMode) -> None:
        self.begun, self.mode = begun, mode
        self.generators: dict[Any, Generator] = {}

    def instead(self, func: Any, args: tuple, kwargs: dict) -> tuple[Any, dict]:
        """An op that draws the same numbers from a generator of the forward's own, and its keyword arguments.

        Raises:
            UnsupportedModelError: there is none.
        """
        values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        tensors = (x for x in values.values() if isinstance(x, Tensor))
        device = torch.device(values.get("device") or next((x.device for x in tensors), "cpu"))
        if device.type == "meta":
            return func, kwargs
        other = with_generator(func)
        if other is not None:
            return other, {**kwargs, "generator": self.generator(values.get("generator"), device)}
        if func is aten.native_dropout.default:
            return self._dropout, kwargs
        if func._can_decompose():  # in inference mode ops come as they are called
            return self._in_parts(func), kwargs
        if all(values.get(a.name, a.default_value) == 0 for a in func._schema.arguments if a.name in CHANCES):
            return func, kwargs
        raise UnsupportedModelError(
            f"the model draws random numbers by {func}, which takes no generator: to explain it would disturb the "
            f"random numbers of this process. Put that part of the model into eval mode, or set its dropout to 0"
        )

    def generator(self, given: Generator | None, device: torch.device) -> Generator:
        """The forward's own, in place of the one that was given or of the device's."""
        key = device if given is None else address(given)
        if key not in self.generators:
            self.generators[key] = self.begun(given, device)
        return self.generators[key]

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """native_dropout."""
        if train is False:
            return aten.native_dropout.default(x, p, train)
        kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=self.generator(None, x.device))
        return x * kept * (1 / (1 - p) if p < 1 else 0.0), kept

    def _in_parts(self, func: Any) -> Callable:
        def parts(*args: Any, **kwargs: Any) -> Any:
            with self.mode:
                return func.decompose(*args, **kwargs)

        return parts


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


def address(generator: Generator) -> int:
    """Of the generator itself: torch makes several objects of one."""
    return generator._cdata  # type: ignore[attr-defined]


def state_of(device: torch.device) -> Tensor:
    """Where the generator of a device stands that everybody draws from."""
    if device.type == "cpu":
        return torch.default_generator.get_state()
    return torch.get_device_module(device).get_rng_state(device)
