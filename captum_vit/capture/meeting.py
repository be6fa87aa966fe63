"""Whether a head weighs tokens by what they hold, seen on copies of an image in which two tokens are exchanged."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .softmaxes import DROPOUTS
from .taps import ForwardTap

COPIES = 4


def exchanged(stream: Tensor, first: int, second: int) -> Tensor:
    """Of one stream, (4, N, D): with the tokens at two places as (a, b), (b, a), (a, a), (b, b)."""
    a, b = stream[0, first], stream[0, second]
    copies = stream[:1].repeat(COPIES, 1, 1)
    copies[:, first], copies[:, second] = torch.stack([a, b, a, b]), torch.stack([b, a, a, b])
    return copies


class Meeting(ForwardTap):
    """Looks where two tokens meet on four copies of an image, in which they are (a, b), (b, a), (a, a), (b, b).

    Of a sum of what is made of each token alone, the first two copies together give as much as the last two. Where
    that ends at what is still made of single tokens, these are weighed by what they hold; where it ends at the sum,
    the weights are fixed, and what comes after no longer matters.
    """

    by_content = False

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        out = super().other(func, args, kwargs)
        for x in out if isinstance(out, (tuple, list)) else (out,):
            self._look(x, args, kwargs)
        return out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = super().linear(input, weight, bias)
        self._look(out, (input,), {})
        return out

    def _look(self, out: Any, args: tuple, kwargs: dict) -> None:
        if not _of_copies(out) or _adds(out):
            return
        given = {id(x): x for x in tree_leaves((args, kwargs)) if _of_copies(x) and _changes(x)}
        if all(_adds(x) for x in given.values()) and (len(given) > 1 or any(map(_single, given.values()))):
            self.by_content = True


def _of_copies(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and x.is_floating_point() and x.dim() > 0 and len(x) == 4


def _noise(x: Tensor) -> float:
    return 50 * torch.finfo(x.dtype).eps * float(x.abs().max())


def _adds(x: Tensor) -> bool:
    """Whether the copies (a, b) and (b, a) together give what (a, a) and (b, b) do."""
    x = x.detach()
    wide = x.double()
    difference = (wide[0] + wide[1] - wide[2] - wide[3]).abs().max()
    return not difference > _noise(x) + 1e-5 * (wide[2] - wide[3]).abs().max()


def _changes(x: Tensor) -> bool:
    x = x.detach()
    return bool((x[2].double() - x[3].double()).abs().max() > _noise(x))


def _single(x: Tensor) -> bool:
    """Whether what is made of the two tokens stands in different places."""
    x = x.detach()
    first, second = ((x[2].double() - x[i].double()).abs() > _noise(x) for i in (1, 0))  # only one of the two changes
    return not bool((first & second).any())
