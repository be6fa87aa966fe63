"""The rules of conserving gradients: those that keep what a score is made of, on the way back to what made it.

Input times gradient, taken under them, sums to the score but for what constants hold that are added on the way. Three
sets of one table, which differ where activations meet as factors: in attention, and in gates.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..errors import OptionError, brief
from . import norms
from .elementwise import alike, divided, elementwise, multiplied
from .rule_functions import gamma_linear, noted, scaled, wide_linear
from .rule_names import (
    ADDING,
    CHOOSING,
    DIVIDING,
    ELEMENTWISE,
    LAYERS,
    MULTIPLYING,
    PLACING,
    SCALES,
    SUMMED_PRODUCTS,
    WEIGHING,
)
from .ruled import Call
from .rules import Rule, Rules

# functions of which a plain number may be an operand
NUMBERS = {"add", "radd", "sub", "subtract", "rsub", "where", "masked_fill"}


def added(call: Call) -> Any:
    """A sum, or constants that stand beside activations; of numbers of one root, another function of it."""
    numbers = call.name in NUMBERS
    rooted = alike(call) if numbers and not call.in_place else None

    def constant(x: Any) -> Any:
        if numbers and call.state.leaves is not None and type(x) in (int, float) and x:
            x = call.active[0].new_tensor(x)
        return call.state.added(x, call.name)

    own = int(call.in_place)  # what it writes into
    call.state.check_added(call.args[:own], call.name)
    kwargs = {key: x if key == "alpha" else constant(x) for key, x in call.kwargs.items()}
    out = call.func(*call.args[:own], *map(constant, call.args[own:]), **kwargs)
    if rooted is not None:
        call.state.set_rooted(out, rooted)
    return out


def linear(call: Call, gamma: float = 0.0) -> Tensor:
    """A layer with weights and a bias; of weights that are activations themselves, a product."""
    x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
    rest = call.args[3:]
    options = {key: value for key, value in call.kwargs.items() if key not in ("input", "weight", "bias")}
    if x.requires_grad and weight.requires_grad:
        x, weight = scaled(x, 0.5), scaled(weight, 0.5)
    bias = call.state.added(bias, call.name)
    if not gamma or weight.requires_grad:
        constant = not weight.requires_grad and call.state.leaves is None
        if constant and call.name == "linear" and len(weight) == 3 * weight.shape[1] and weight.dim() == 2:
            return wide_linear(x, weight, bias)
        return call.func(x, weight, bias, *rest, **options)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return call.func(x, weight, None, *rest, **options)

    return gamma_linear(x, weight, bias, gamma, plain)


def product(call: Call) -> Tensor:
    """A product of matrices: of several activations each has an equal part."""
    count = len(call.active)
    if count < 2:
        return call.run()
    return call.changed(lambda x: scaled(x, 1 / count) if x.requires_grad else x).run()


def summed_product(call: Call) -> Tensor:
    """A sum with a product, as addmm."""
    first, *factors = call.args
    count = sum(isinstance(x, Tensor) and x.requires_grad for x in factors)
    if not first.requires_grad:
        first = call.state.added(first, call.name)
    factors = [scaled(x, 1 / count) if count > 1 and isinstance(x, Tensor) and x.requires_grad else x for x in factors]
    return call.func(first, *factors, **call.kwargs)


def sampled(call: Call) -> Tensor:
    """An image at points between its pixels: the points are constants, and the image is shared out by their weights."""
    image, points = call.argument(0, "input"), call.argument(1, "grid")
    out = call.changed(lambda x: x.detach() if x is points else x).run()
    return out if image.requires_grad else call.state.hold(out, call.name)


def gated_half(call: Call) -> Tensor:
    """a * sigmoid(b), the sigmoid a constant."""
    signal, gate = call.argument(0, "input").chunk(2, call.argument(1, "dim", -1))
    return signal * gate.detach().sigmoid()


def held(call: Call) -> Tensor:
    """A softmax, as a constant."""
    return call.state.hold(call.run(), call.name)


def softmax(call: Call) -> Tensor:
    """A softmax with its derivative, which keeps a part for itself."""
    notes = call.state.absorbed
    if notes is None:
        return call.run()
    x = call.argument(0, "input")
    return noted(call.changed(lambda y: noted(y, notes, -1) if y is x else y).run(), notes, 1)


def constant_attention(call: Call) -> Tensor:
    """Fused attention whose weights are constants: all goes to the values."""
    values = call.argument(2, "value")
    out = call.changed(lambda x: x if x is values else x.detach()).run()
    return out if values.requires_grad else call.state.hold(out, call.name)


def shared_attention(call: Call) -> Tensor:
    """Fused attention as the steps that it stands for: equal parts for weights and values, then for queries and keys.

    So the values have one half, and queries and keys one quarter each of what the softmax leaves.
    """
    notes = call.state.absorbed
    names = ("query", "key", "value", "attn_mask")
    given = {name: call.argument(place, name) for place, name in enumerate(names)}
    active = {name for name, x in given.items() if isinstance(x, Tensor) and x.requires_grad}
    weights = 0.5 if "value" in active else 1.0
    parts = {"query": weights / len(active & {"query", "key"} or {1}), "attn_mask": weights}
    parts |= {"key": parts["query"], "value": 0.5 if active - {"value"} else 1.0}
    if given["attn_mask"] is not None and active - {"value"}:
        given["attn_mask"] = call.state.added(given["attn_mask"], call.name)  # a bias on the scores
    for name, x in given.items():
        if isinstance(x, Tensor) and x.requires_grad:
            given[name] = scaled(x if notes is None else noted(x, notes, -1), parts[name])
    kwargs = {key: x for key, x in call.kwargs.items() if key not in names}
    out = call.func(*given.values(), *call.args[4:], **kwargs)
    return out if notes is None else noted(out, notes, 1)


def _table(own: Mapping[str, Rule], gamma: tuple[float, float], *, gates: bool) -> dict[str, Rule]:
    kinds: list[tuple[Any, Rule]] = [
        (PLACING | WEIGHING, Call.run),
        (ADDING | CHOOSING, added),
        (MULTIPLYING, product),
        (("mul", "rmul", "multiply"), partial(multiplied, gates=gates)),
        (DIVIDING, partial(divided, gates=gates)),
        (SUMMED_PRODUCTS, summed_product),
        (ELEMENTWISE, elementwise),
        (SCALES, norms.statistic),
        (("sqrt", "rsqrt", "reciprocal", "exp"), elementwise),
        (("prelu",), Call.run),
        (("glu",), gated_half),
        (("grid_sample", "grid_sampler"), sampled),
        (("linear",), partial(linear, gamma=gamma[1])),
        ((name for name in LAYERS if name != "linear"), partial(linear, gamma=gamma[0])),
    ]
    table = {name: rule for names, rule in kinds for name in names}
    for norm in (
        norms.layer_norm,
        norms.rms_norm,
        norms.group_norm,
        norms.instance_norm,
        norms.batch_norm,
        norms.local_response_norm,
    ):
        table[norm.__name__] = norm
    return {**table, "normalize": norms.normalize, **own}


IN_PLACE = PLACING | WEIGHING | CHOOSING | ADDING
CONSTANT = {"softmax": held, "scaled_dot_product_attention": constant_attention}
SHARED = {"softmax": softmax, "scaled_dot_product_attention": shared_attention}


def cp_rules(gamma: tuple[float, float] = (0.0, 0.0)) -> Rules:
    """Those of CP-LRP: attention and gates are constants, so that evidence goes through values and signals alone.

    >>> cp_rules() == cp_rules((0.0, 0.0))
    True

    gamma: of convolutions and of linear layers, 0 for none.
    """
    return _made("CP-LRP", gamma)


def attn_rules(gamma: tuple[float, float] = (0.0, 0.0)) -> Rules:
    """Those of AttnLRP: factors that meet have equal parts, and a softmax its derivative; gamma as of `cp_rules`."""
    return _made("AttnLRP", gamma)


def libra_rules(gamma: tuple[float, float] = (0.0, 0.0)) -> Rules:
    """Those of LibraGrad: attention is a constant, and factors that meet elsewhere, as in gated MLPs, have equal parts;
    gamma as of `cp_rules`."""
    return _made("LibraGrad", gamma)


@lru_cache(maxsize=256)
def _made(title: str, gamma: tuple[float, float]) -> Rules:
    """The same object for the same rules, by which a run knows them again."""
    table = _table(SHARED if title == "AttnLRP" else CONSTANT, gamma, gates=title == "CP-LRP")
    if title == "AttnLRP":
        del table["exp"]  # of a softmax that is written out, whose derivative would be needed
    told = f" with gamma {gamma[0]:g} and {gamma[1]:g}" if any(gamma) else ""
    return Rules(title + told, MappingProxyType(table), IN_PLACE)


def rules_named(word: str) -> Rules | None:
    """The rules that a method's option names: "none", "cp", "attn" or "libra".

    >>> rules_named("cp").title, rules_named("none")
    ('CP-LRP', None)

    Raises:
        OptionError: another word.
    """
    if not isinstance(word, str) or word not in WORDS:
        raise OptionError(f"rules are one of {', '.join(WORDS)}, got {brief(word)}")
    made = WORDS[word]
    return None if made is None else made()


WORDS: dict[str, Callable[[], Rules] | None] = {"none": None, "cp": cp_rules, "attn": attn_rules, "libra": libra_rules}
