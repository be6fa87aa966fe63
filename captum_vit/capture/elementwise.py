"""Rules for functions of each number for itself, also written out in several steps, and for factors that meet.

f(z) with f(0) = 0 is z times the constant f(z) / z. So that x * sigmoid(x), or a GELU written out, is what the function
of one name is, it is known of each number of which other it is a function, its root. What is made of several that have
one root is a function of that. f(z) with another f(0), as a sigmoid, is a constant: a factor of what it multiplies.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from .rule_functions import gelu, proportional, scaled
from .ruled import Call, Root, Rooted, tensors_in

HOMOGENEOUS = {"relu", "leaky_relu", "abs", "absolute"}  # f(z) = z f'(z): the derivative is the rule
EXACT = (torch.float32, torch.float64)  # precise enough for what a fused function computes in steps


def elementwise(call: Call) -> Tensor:
    """A function of each number for itself."""
    rooted = alike(call)
    if rooted is None or len(call.active) != 1:
        raise UnsupportedModelError(
            f"under the rules of {call.state.title} {call.name} is a function of one activation, and here it is given "
            f"other tensors beside it: no map of these rules is possible, those of gradients are"
        )
    (z,) = call.active
    root = Root(z)
    with torch.enable_grad():
        own = Rooted(root, _at_zero(call, [Rooted(root, root.zero)]))
    if call.name in HOMOGENEOUS and not call.overwritten:
        out = call.run()
    elif call.name == "gelu" and call.argument(1, "approximate", "none") == "none" and z.dtype in EXACT:
        out = gelu(z)  # in a third less time
    else:
        with torch.no_grad():
            value = call.changed(Tensor.detach).run()
        slope = own.slope
        through_zero = float(own.zero.detach()) == 0 and abs(slope) < torch.inf
        out = proportional(z, value, slope) if through_zero else call.state.hold(value, call.name)
    call.state.set_rooted(out, rooted)
    return out


def multiplied(call: Call, *, gates: bool = False) -> Tensor:
    """A product, or quotient, number by number.

    gates: whether of two factors one that went through a function such as SiLU is a constant; else each has one half.
    """
    rooted, active = alike(call), call.active
    several = len(list(tensors_in((call.args, call.kwargs)))) > 1
    if rooted is not None and several and float(rooted.zero.detach()) == 0:
        with torch.no_grad():
            value = call.changed(Tensor.detach).run()
        out = proportional(rooted.root.x, value, rooted.slope)
    elif len(active) > 1:
        bent = [x for x in active if call.state.known_root(x) and call.state.rooted(x).bent] if gates else []
        if 0 < len(bent) < len(active):
            out = call.changed(lambda x: x.detach() if any(x is gate for gate in bent) else x).run()
        else:
            first = call.args[0] if call.overwritten else None
            kept = call.changed(lambda x: x.clone() if x is first and x is not None else x)
            out = kept.changed(lambda x: scaled(x, 1 / len(active)) if x.requires_grad else x).run()
    else:
        out = call.run()
    if rooted is not None:
        call.state.set_rooted(out, rooted)
    return out


def divided(call: Call, *, gates: bool = False) -> Tensor:
    """A quotient. What activations are divided by counts as a constant."""
    args = [*call.args, *(call.kwargs[key] for key in ("other",) if key in call.kwargs)]
    by = args[0] if call.name in ("rtruediv", "rdiv") else args[1]
    of = args[1] if by is args[0] else args[0]
    if call.argument(2, "rounding_mode") is not None:
        raise UnsupportedModelError(f"the rules of {call.state.title} have none for a quotient that is rounded")
    rooted = alike(call)
    if rooted is not None and float(rooted.zero.detach()) == 0:
        return multiplied(call)
    if not isinstance(by, Tensor) or not by.requires_grad:
        return multiplied(call, gates=gates)
    if isinstance(of, Tensor) and of.requires_grad:
        return call.changed(lambda x: x.detach() if x is by else x).run()
    with torch.no_grad():
        out = call.state.hold(call.run(), call.name)
    if rooted is not None:
        call.state.set_rooted(out, rooted)
    return out


def alike(call: Call) -> Rooted | None:
    """What comes out as a function of one root, where all tensors that go in are; None if they are not."""
    tensors = list(tensors_in((call.args, call.kwargs)))
    if len(tensors) > 1 and not any(map(call.state.known_root, tensors)) and tensors[0] is not tensors[-1]:
        return None
    if any(not (x.requires_grad or call.state.known_root(x)) for x in tensors):
        return None
    rooted = [call.state.rooted(x) for x in tensors]
    if any(each.root is not rooted[0].root for each in rooted):
        return None
    bent = any(each.bent for each in rooted) or not _is_linear(call, tensors)
    with torch.enable_grad():
        return Rooted(rooted[0].root, _at_zero(call, rooted), bent)


def _is_linear(call: Call, tensors: Sequence[Tensor]) -> bool:
    return call.name in ("add", "radd", "sub", "rsub", "neg", "negative") or (
        len(tensors) == 1 and call.name in ("mul", "rmul", "multiply", "div", "divide", "true_divide", "truediv")
    )


def _at_zero(call: Call, rooted: Sequence[Rooted]) -> Tensor:
    zeros = iter([each.zero for each in rooted])
    found: Any = call.changed(lambda x: next(zeros)).run()
    return found
