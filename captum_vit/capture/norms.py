"""Rules for normalisation: what activations are divided by is a constant, what is taken from them is not."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import rule_functions
from .ruled import Call


def layer_norm(call: Call) -> Tensor:
    """(x - mean) / std * w + b, std a constant."""
    x, shape, weight, bias, eps = _given(call, ("normalized_shape", "weight", "bias", "eps"), (None, None, None, 1e-5))
    if call.state.leaves is None:
        return rule_functions.layer_norm(x, shape, weight, bias, eps)
    return _plus(call, rule_functions.layer_norm(x, shape, weight, None, eps), bias)


def rms_norm(call: Call) -> Tensor:
    """x / rms(x) * w, the root mean square a constant."""
    x, shape, weight, eps = _given(call, ("normalized_shape", "weight", "eps"), (None, None, None))
    axes = tuple(range(-len(shape), 0))
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    out = (x * (wide.square().mean(axes, keepdim=True) + eps).rsqrt()).to(x.dtype)
    return out if weight is None else out * weight


def group_norm(call: Call) -> Tensor:
    """(x - mean) / std * w + b over each group of channels, std a constant."""
    x, groups, weight, bias, eps = _given(call, ("num_groups", "weight", "bias", "eps"), (None, None, None, 1e-5))
    grouped = x.reshape(len(x), groups, -1)
    out = _centred(grouped, (2,), eps).view_as(x)
    return _by_channel(call, out, weight, bias)


def instance_norm(call: Call) -> Tensor:
    """(x - mean) / std * w + b over each channel's space, std a constant; with running statistics both are."""
    names = ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    x, mean, var, weight, bias, own, _, eps = _given(call, names, (None, None, None, None, True, 0.1, 1e-5))
    if own:
        _update(call)
        return _by_channel(call, _centred(x, tuple(range(2, x.dim())), eps), weight, bias)
    return _with_statistics(call, x, mean, var, weight, bias, eps)


def batch_norm(call: Call) -> Tensor:
    """(x - mean) / std * w + b, std a constant; in eval mode the mean is too."""
    names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    x, mean, var, weight, bias, training, _, eps = _given(call, names, (None, None, None, None, False, 0.1, 1e-5))
    if training:
        _update(call)
        return _by_channel(call, _centred(x, (0, *range(2, x.dim())), eps), weight, bias)
    return _with_statistics(call, x, mean, var, weight, bias, eps)


def local_response_norm(call: Call) -> Tensor:
    """x times what its neighbours among the channels make of it, a constant."""
    x = call.argument(0, "input")
    scale = call.changed(Tensor.detach).run() / x.detach()
    return x * scale.where(x.detach() != 0, 0)


def normalize(call: Call) -> Tensor:
    """x / |x|, the norm a constant."""
    x, p, axis, eps = _given(call, ("p", "dim", "eps"), (2.0, 1, 1e-12))
    return x / x.detach().norm(p, axis, keepdim=True).clamp_min(eps)


def statistic(call: Call) -> Any:
    """What activations are usually divided by, as a standard deviation: a constant. A mean beside it is not."""
    out = call.run()
    if isinstance(out, Tensor):
        return call.state.hold(out, call.name)
    return type(out)([call.state.hold(out[0], call.name), *out[1:]])  # of var_mean


def _given(call: Call, names: Sequence[str], defaults: Sequence[Any]) -> list[Any]:
    """The input, and these arguments, which stand after it in this order."""
    given = [
        call.argument(place, name, default)
        for place, (name, default) in enumerate(zip(names, defaults, strict=True), 1)
    ]
    return [call.argument(0, "input"), *given]


def _centred(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.var(axes, unbiased=False, keepdim=True) + eps).rsqrt()
    return ((x - x.mean(axes, keepdim=True)) * scale).to(x.dtype)


def _update(call: Call) -> None:
    """The running statistics, as the function itself does it."""
    with torch.no_grad():
        call.run()


def _with_statistics(
    call: Call, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    scale = (var.detach() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.detach()
    shift = -mean.detach() * scale
    shift = shift if bias is None else shift + bias.detach()
    return _by_channel(call, x, scale, shift)


def _by_channel(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    x = x if weight is None else x * weight.view(shape)
    return _plus(call, x, None if bias is None else bias.view(shape)).to(x.dtype)


def _plus(call: Call, x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + call.state.added(bias, call.name)
