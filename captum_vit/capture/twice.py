"""Functions whose gradient has a gradient itself."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def twice_differentiable(func: Callable) -> Callable:
    """The function itself, or attention by its formula in place of a fused kernel, whose gradient has none.

    >>> from captum_vit.capture.twice import twice_differentiable
    >>> q, k, v = torch.randn(3, 1, 2, 5, 4)  # of one image, two heads and five tokens
    >>> attention = twice_differentiable(torch.nn.functional.scaled_dot_product_attention)
    >>> torch.allclose(attention(q, k, v), (q @ k.mT / 2).softmax(-1) @ v, atol=1e-6)
    True
    """
    return _attention_by_formula if func is F.scaled_dot_product_attention else func


def _attention_by_formula(*args: Any, **kwargs: Any) -> Tensor:
    return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
