"""Tokens of few kinds in place of tokens that all differ, while attention is looked for.

What a token holds is of no matter then: only which softmax meets which values, and whether the score depends on it. So
after the first attention whatever modules give is made of its first few tokens, again and again, and a linear layer
computes each kind once, on the way back too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KINDS = 4  # of tokens


class FewKinds:
    """Makes few kinds of tokens of one image.

    Attributes:
        counts: how many tokens attention was seen over.
        made: whether any were made.
    """

    def __init__(self) -> None:
        self.counts: set[int] = set()
        self.made = False

    def given(self, output: Any, followed: Callable[[Tensor], bool]) -> Any:
        """What stands for what a module gives; the same object where that is no tokens, or of few kinds already.

        followed: tells the attention itself, which is left as it is.
        """
        if type(output) is tuple:
            parts = tuple(self.given(part, followed) for part in output)
            return output if all(a is b for a, b in zip(parts, output, strict=True)) else parts
        axis = self._axis(output)
        if axis is None or output.shape[-1] in self.counts or followed(output):
            return output
        few = self.along(output, axis)
        return output if torch.equal(few, output) else few

    def along(self, x: Tensor, axis: int) -> Tensor:
        """The first tokens again and again, if attention was seen over as many as lie along this axis."""
        count = x.shape[axis]
        if count not in self.counts:
            return x
        self.made = True
        return _spread(x.narrow(axis, 0, min(KINDS, count)), axis, count)

    def linear(self, layer: Callable[..., Tensor], args: tuple, kwargs: dict) -> Tensor:
        """A linear layer, of each kind of tokens once."""
        x = args[0] if args else None
        axis = self._axis(x)
        if x is None or axis is None or not torch.equal(self.along(x, axis), x):
            return layer(*args, **kwargs)
        return _spread(layer(x.narrow(axis, 0, KINDS), *args[1:], **kwargs), axis, x.shape[axis])

    def _axis(self, x: Any) -> int | None:
        """Along which axis of (1, N, D) or (N, 1, D) tokens lie; None where it is no more of them than kinds."""
        if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
            return None
        for axis, other in ((1, 0), (0, 1)):
            if x.shape[other] == 1 and x.shape[axis] in self.counts and x.shape[axis] > KINDS:
                return axis
        return None


def _spread(rows: Tensor, axis: int, count: int) -> Tensor:
    """So many rows along an axis, of these again and again."""
    with torch.enable_grad():
        return rows.index_select(axis, torch.arange(count, device=rows.device) % rows.shape[axis])
