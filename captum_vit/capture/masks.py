"""Masks of attention that torch's own kernel reads wrongly."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedModelError

WRONG_FROM = 16  # keys


class CheckedMasks(TorchFunctionMode):
    """Refuses attention of which torch makes wrong numbers; where it stands, what listens to attention is seen too."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            check_mask(*args, **kwargs)
        return func(*args, **kwargs)


def in_double(model: nn.Module) -> bool:
    """Whether a model computes where masks may be read wrongly: in float64 on the processor."""
    return any(weight.dtype == torch.float64 and weight.is_cpu for weight in model.parameters())


def check_mask(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any) -> None:
    """Raise UnsupportedModelError where torch's fused attention gives wrong numbers, without a word.

    It reads a mask of float32 beside queries of float64 as if it were of float64, on the processor, from 16 keys on.
    """
    if attn_mask is None or query.dtype != torch.float64 or not query.is_cpu or key.shape[-2] < WRONG_FROM:
        return
    if attn_mask.is_floating_point() and attn_mask.dtype != query.dtype:
        raise UnsupportedModelError(
            f"scaled_dot_product_attention is given queries in float64 and a mask in "
            f"{str(attn_mask.dtype).removeprefix('torch.')}, of which torch makes wrong numbers on the processor: the "
            f"model's own scores are wrong. Give the mask the type of the queries, or compute in float32"
        )
