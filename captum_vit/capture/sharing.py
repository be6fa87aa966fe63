"""Relevance that is shared among what went in, function by function: the rules of Chefer et al.

What comes back as a gradient is relevance here. Each rule shares out what it is given among the activations of its
function; what numbers are merely changed by, as a norm or an activation function, hands it on as it is.
"""

from collections.abc import Callable
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import UnsupportedModelError
from .rule_names import CASTS, DIVIDING, ELEMENTWISE, PLACING
from .ruled import Call, out_of_place, tensors_in
from .rules import Rule, Rules

HANDED_ON = ELEMENTWISE | {"layer_norm", "rms_norm", "batch_norm", "softmax", "dropout", "normalize"}
PLACED = PLACING | {"cat", "concat", "concatenate", "stack", "fill", "setitem", "copy"}
DIFFERENCES = {"sub", "subtract"}
ADDING = DIFFERENCES | {"add", "radd"}
LINEAR = frozenset(["mean", "sum", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"])


class _HandedOn(torch.autograd.Function):
    """A function's value, whose relevance is that of what it was made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Any]) -> Any:
        return run()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None


class _Proportional(torch.autograd.Function):
    """A function linear in each of its operands, each of which has an equal part, shared by what it added."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        out = run(*operands)
        ctx.save_for_backward(out, *operands)
        ctx.run = run
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        out, *operands = ctx.saved_tensors
        with torch.enable_grad():
            own = [x.detach().requires_grad_() for x in operands]
            again = ctx.run(*own)
        found = torch.autograd.grad(again, own, ops.safe_divide(relevance, out))
        return (None, *(x.detach() * g / len(own) for x, g in zip(own, found, strict=True)))


class _Linear(torch.autograd.Function):
    """The z+ rule: products x w of one sign with what they add to, biases not.

    With |x| and |w| one product of matrices does for two: x+ w+ + x- w- = (x w + |x| |w|) / 2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product = F.linear(x, weight)
        ctx.save_for_backward(x, weight, product)
        return product if bias is None else product + bias

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        x, weight, product = ctx.saved_tensors
        size, heavy = x.abs(), weight.abs()
        share = ops.safe_divide(relevance, (product + F.linear(size, heavy)) / 2)
        return (x * (share @ weight) + size * (share @ heavy)) / 2, None, None


class _Sum(torch.autograd.Function):
    """a + b, each with a part of the image's whole relevance that is as its own sum."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, image_axis: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.image_axis = image_axis
        return a + b

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        share = ops.safe_divide(relevance, a + b)
        parts = [a * share, b * share]
        axes = tuple(axis for axis in range(a.dim()) if axis != ctx.image_axis)
        whole = relevance.sum(axes, keepdim=True)
        sums = [part.sum(axes, keepdim=True) for part in parts]
        both = sums[0].abs() + sums[1].abs()
        first, second = (
            part * ops.safe_divide(ops.safe_divide(own.abs(), both) * whole, own)
            for part, own in zip(parts, sums, strict=True)
        )
        return first, second, None


class _Attention(torch.autograd.Function):
    """Fused attention, as two products, A v and q k^T, of which each gives its operands a half."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: dict) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, **options)
        ctx.save_for_backward(q, k, v, out, *([] if bias is None else [bias]))
        ctx.scale = options["scale"]
        return out

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *bias = ctx.saved_tensors
        share = ops.safe_divide(relevance, out)
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        batch, heads, queries = q.shape[:3]
        for rows in ops.row_chunks(queries, k.shape[2], batch * heads):
            own = bias[0] if bias else None
            own = own[..., rows, :] if own is not None and own.shape[-2] > 1 else own
            products = q[:, :, rows] @ k.mT
            weights = ops.attention_scores(q[:, :, rows], k, ctx.scale, own).softmax(-1)
            of_v += weights.mT @ share[:, :, rows]
            inner = ops.safe_divide(weights * (share[:, :, rows] @ v.mT) / 2, products)
            of_q[:, :, rows] = inner @ k
            of_k += inner.mT @ q[:, :, rows]
        return q * of_q / 2, k * of_k / 2, v * of_v / 2, None, None


def handed_on(call: Call) -> Any:
    """A function that changes numbers where they stand."""
    if len(call.active) > 1:
        raise _refused(call)
    (x,) = call.active
    out = _HandedOn.apply(x, call.changed(Tensor.detach).run)
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise _refused(call)
    return out


def kept(call: Call) -> Any:
    """A change of type, which would lose what double precision is here for."""
    (x,) = call.active[:1]
    return x if call.name != "to" or _only_of_type(call) else call.run()


def linear(call: Call) -> Tensor:
    """A layer with weights and a bias."""
    x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
    if weight.requires_grad:
        raise _refused(call)
    return _Linear.apply(x, weight, bias)


def added(call: Call) -> Tensor:
    """A sum of two token streams, of which the first block's own is no activation yet; a bias has no part in it."""
    if call.in_place:
        alone = out_of_place(call) if call.args[0].requires_grad else None  # a state of the model's is no stream
        return call.run() if alone is None else call.args[0].copy_(added(alone))
    operands = list(tensors_in((call.args, call.kwargs)))
    both = len(operands) == 2 and call.kwargs.get("alpha", 1) == 1
    if both and (len(call.active) == 2 or _each_images_own(call, *operands)):
        a, b = torch.broadcast_tensors(*operands)
        return _Sum.apply(a, -b if call.name in DIFFERENCES else b, call.state.image_axis(a, call.name))
    return handed_on(call)


def _each_images_own(call: Call, a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have numbers for the same places, be it that those of one are the same for all images.

    Of one image such a one is like any other: so it has to count as much among several.
    """
    if a.dim() != b.dim():
        return False
    unlike = [axis for axis, sizes in enumerate(zip(a.shape, b.shape, strict=True)) if sizes[0] != sizes[1]]
    if len(unlike) != 1 or 1 not in (a.shape[unlike[0]], b.shape[unlike[0]]):
        return not unlike
    return unlike[0] == call.state.image_axis(call.active[0], call.name)


def product(call: Call) -> Tensor:
    """A product of activations, or an average; by a constant number by number, as a scale, relevance is handed on.

    Tokens times a matrix of weights are a linear layer, as CLIP's last projection.
    """
    if len(call.active) == 1 and call.name in ("mul", "rmul", "multiply"):
        return handed_on(call)
    if call.name == "matmul" and (weight := _weights(call)) is not None:
        return _Linear.apply(call.args[0], weight.mT, None)
    operands = call.active

    def run(*given: Tensor) -> Tensor:
        of = {id(x): x_now for x, x_now in zip(operands, given, strict=True)}
        return call.changed(lambda x: of.get(id(x), x)).run()

    return _Proportional.apply(run, *operands)


def _weights(call: Call) -> Tensor | None:
    """The matrix that tokens are multiplied by, (D, D'); None where it is made of activations, or they come second."""
    tensors = [x for x in call.args if isinstance(x, Tensor)]
    if len(tensors) != 2 or len(call.args) != 2 or call.kwargs or not tensors[0].requires_grad:
        return None
    weight = tensors[1]
    known = weight.requires_grad or call.state.held_by(weight) is not None
    return None if known or weight.dim() != 2 else weight


def attention(call: Call) -> Tensor:
    """Fused attention."""
    q, k, v, bias = (call.argument(i, name) for i, name in enumerate(("query", "key", "value", "attn_mask")))
    options = {"scale": call.argument(6, "scale"), "dropout_p": call.argument(4, "dropout_p", 0.0)}
    return _Attention.apply(q, k, v, bias, options)


def _only_of_type(call: Call) -> bool:
    return any(isinstance(x, (torch.dtype, Tensor)) for x in (*call.args[1:], *call.kwargs.values()))


def _refused(call: Call) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the rules of {call.state.title} have none for {call.name} as it is called here: no map of these rules is "
        f"possible, those of gradients are"
    )


@cache
def sharing_rules() -> Rules:
    """Those of Chefer et al. 2021 (arXiv:2012.09838), section 3: a gradient under them is relevance.

    In double precision: q k^T, by which relevance is divided, comes near 0, and in single precision the published
    program differs from itself by up to 28 % of its largest value.

    >>> sharing_rules().title
    'relevance propagation'
    """
    kinds: list[tuple[Any, Rule]] = [
        (PLACED, Call.run),
        (CASTS, kept),
        (HANDED_ON | DIVIDING, handed_on),
        (ADDING, added),
        (("mul", "rmul", "multiply", "matmul", "bmm", "einsum"), product),
        (LINEAR, product),
        (("linear",), linear),
        (("scaled_dot_product_attention",), attention),
    ]
    table = {name: rule for names, rule in kinds for name in names}
    return Rules("relevance propagation", MappingProxyType(table), PLACED | ADDING, double=True)
