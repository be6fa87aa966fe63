"""Functions of which the way back is a rule's; they take tensors and give tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _Proportional(torch.autograd.Function):
    """f(z) as z times the constant f(z) / z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Sequence[Tensor], slope: float) -> Tensor:
        ctx.save_for_backward((value[0] / z).nan_to_num_(nan=slope, posinf=torch.inf, neginf=-torch.inf))
        return value[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None


class _Gated(torch.autograd.Function):
    """z times a constant."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return z * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


class _Wide(torch.autograd.Function):
    """A linear layer that gives several times as many channels as it is given, as queries, keys and values at once.

    Channels that no gradient comes back to, as those of queries and keys that count as constants, are left out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None]:
        (weight,) = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        if not rows[:1].all():
            reached = rows.any(0).nonzero().flatten()
            if 2 * len(reached) < len(weight) and len(reached):
                part = slice(int(reached[0]), int(reached[-1]) + 1)
                return gradient[..., part] @ weight[part].to(gradient.dtype), None, None
        return gradient @ weight.to(gradient.dtype), None, None


class _LayerNorm(torch.autograd.Function):
    """A layer norm whose standard deviation is a constant, and whose mean is not."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        out, _, scale = torch.native_layer_norm(x, list(shape), weight, bias, eps)
        ctx.save_for_backward(scale, *(() if weight is None else (weight,)))
        ctx.axes = tuple(range(-len(shape), 0))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale, *weight = ctx.saved_tensors
        inner = gradient * weight[0] if weight else gradient
        inner = (inner - inner.mean(ctx.axes, keepdim=True)) * scale
        return inner, None, None, None, None


class _Noted(torch.autograd.Function):
    """The identity, which notes what a tensor times its gradient comes to, in all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, notes: list[Tensor], sign: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.notes, ctx.sign = notes, sign
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        ctx.notes.append(ctx.sign * held_in(x, gradient))
        return gradient, None, None


class _Gamma(torch.autograd.Function):
    """A linear map, with positive parts favoured by gamma on the way back.

    Eight matrix products instead of two: each of the parts of input and weights, by sign, goes its own way.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: float,
        linear: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        out = linear(x, weight)
        if bias is not None:
            out = out + bias.view([-1, *[1] * (out.dim() - 2)]) if weight.dim() > 2 else out + bias
        ctx.save_for_backward(x, weight, bias, out)
        ctx.gamma, ctx.linear = gamma, linear
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, out = ctx.saved_tensors
        up, down = _raised(weight, ctx.gamma), -_raised(-weight, ctx.gamma)
        with torch.enable_grad():
            above, below = (part.detach().requires_grad_() for part in (x.clamp(min=0), x.clamp(max=0)))
            high = ctx.linear(above, up) + ctx.linear(below, down)
            low = ctx.linear(below, up) + ctx.linear(above, down)
        constant = None
        if bias is not None:
            shaped = bias.view([-1, *[1] * (out.dim() - 2)]) if weight.dim() > 2 else bias
            constant = _raised(shaped, ctx.gamma), -_raised(-shaped, ctx.gamma)
        relevance = gradient * out
        first, second = (part.detach() for part in (high, low))
        if constant is not None:
            first, second = first + constant[0], second + constant[1]
        shares = [
            torch.where(out > 0, relevance, 0) / _away_from_zero(first, 1e-6),
            torch.where(out < 0, relevance, 0) / _away_from_zero(second, 1e-6),
        ]
        of_above, of_below = torch.autograd.grad([high, low], [above, below], shares)
        inner = (above * of_above + below * of_below).detach() / _away_from_zero(x, 1e-10)
        held = None
        if bias is not None and ctx.needs_input_grad[2]:
            raised = [1 + ctx.gamma * (bias > 0), 1 + ctx.gamma * (bias < 0)]
            axes = [axis for axis in range(out.dim()) if axis != (1 if weight.dim() > 2 else out.dim() - 1)]
            held = sum(share.sum(axes) * factor for share, factor in zip(shares, raised, strict=True))
        return inner, None, held, None, None


def scaled(x: Tensor, factor: float) -> Tensor:
    """`x`, whose gradient is multiplied by a factor."""
    return _Scaled.apply(x, factor)


def proportional(z: Tensor, value: Tensor, slope: float) -> Tensor:
    """`value`, taken as z times the constant value / z; where z is 0, that constant is the slope there."""
    return _Proportional.apply(z, [value.detach()], slope)  # of no argument itself, since a view is never written to


def gelu(z: Tensor) -> Tensor:
    """GELU as z times the constant Phi(z)."""
    return _Gated.apply(z, (z.detach() * 2**-0.5).erf_().add_(1).mul_(0.5))


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer, whose way back leaves out channels that no gradient comes to."""
    return _Wide.apply(x, weight, bias)


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """A layer norm whose standard deviation is a constant, and whose mean is not."""
    return _LayerNorm.apply(x, shape, weight, bias, eps)


def noted(x: Tensor, notes: list[Tensor], sign: int) -> Tensor:
    """`x`; the way back notes the sum of x times its gradient, with this sign."""
    return _Noted.apply(x, notes, sign)


def gamma_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float, linear: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """`linear(x, weight) + bias`, whose way back is the generalised gamma rule.

    R = gradient * out is shared out by the parts x+ and x- of the input and w+, w- of the weights: what made an output
    positive, or negative, with (1 + gamma) times the weight of the parts that agree with it. A bias is shared in, and
    keeps its part.

    Source: Andeol et al. 2021, "Learning Domain Invariant Representations by Joint Wasserstein Distance Minimization"
        (arXiv:2106.04923), as zennit's Gamma has it.
    """
    return _Gamma.apply(x, weight, bias, gamma, linear)


def held_in(x: Tensor, gradient: Tensor) -> Tensor:
    """Sum of x times its gradient, in double precision; 0 where the gradient is 0, whatever x is."""
    product = x.detach().double() * gradient.double()
    return torch.where(gradient == 0, 0.0, product).sum()


def _raised(x: Tensor, gamma: float) -> Tensor:
    return x + gamma * x.clamp(min=0)


def _away_from_zero(x: Tensor, by: float) -> Tensor:
    return x + torch.where(x < 0, -by, by).to(x)
