"""Whether a head weighs tokens by what they hold, seen on copies of an image in which two tokens are exchanged."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .basis import Passing
from .still import still

COPIES = 4


def exchanged(stream: Tensor, first: int, second: int) -> Tensor:
    """Of one stream, (4, N, D): with the tokens at two places as (a, b), (b, a), (a, a), (b, b)."""
    a, b = stream[0, first], stream[0, second]
    copies = stream[:1].repeat(COPIES, 1, 1)
    copies[:, first], copies[:, second] = torch.stack([a, b, a, b]), torch.stack([b, a, a, b])
    return copies


class Meeting(Passing):
    """Looks where two tokens meet on four copies of an image, in which they are (a, b), (b, a), (a, a), (b, b).

    Of a sum of what is made of each token alone, the first two copies together give as much as the last two. Where
    that ends at what is still made of single tokens, these are weighed by what they hold; where it ends at the sum,
    the weights are fixed, and what comes after no longer matters.
    """

    by_content = False

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        out = still(func, args, kwargs, super().other)
        for x in out if isinstance(out, (tuple, list)) else (out,):
            self._look(x, args, kwargs)
        return out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = super().linear(input, weight, bias)
        self._look(out, (input,), {})
        return out

    def _look(self, out: Any, args: tuple, kwargs: dict) -> None:
        copies = _of_copies(out)
        if copies is None or _adds(copies):
            return
        found = {id(x): _of_copies(x) for x in tree_leaves((args, kwargs))}
        given = [x for x in found.values() if x is not None and _changes(x)]
        single = not given or any(map(_single, given))  # what comes from nothing that is known may be anything
        if all(map(_adds, given)) and (len(given) > 1 or single):
            self.by_content = True


def _of_copies(x: Any) -> Tensor | None:
    """With the copies as the first axis, whether they stand there, behind the tokens, or in one axis with the heads."""
    if not isinstance(x, Tensor) or isinstance(x, nn.Parameter) or not x.dim():
        return None
    if not x.requires_grad or not x.is_floating_point():
        return None
    x = x.detach()
    if len(x) == COPIES:
        return x
    if x.dim() > 1 and x.shape[1] == COPIES:
        return x.transpose(0, 1)
    return x.unflatten(0, (COPIES, -1)) if len(x) % COPIES == 0 and len(x) else None


def _noise(x: Tensor) -> float:
    return 50 * torch.finfo(x.dtype).eps * float(x.abs().max())


def _adds(x: Tensor) -> bool:
    """Whether the copies (a, b) and (b, a) together give what (a, a) and (b, b) do."""
    wide = x.double()
    difference = (wide[0] + wide[1] - wide[2] - wide[3]).abs().max()
    return not difference > _noise(x) + 1e-5 * (wide[2] - wide[3]).abs().max()


def _changes(x: Tensor) -> bool:
    return bool((x[2].double() - x[3].double()).abs().max() > _noise(x))


def _single(x: Tensor) -> bool:
    """Whether what is made of the two tokens stands in different places."""
    first, second = ((x[2].double() - x[i].double()).abs() > _noise(x) for i in (1, 0))  # only one of the two changes
    return not bool((first & second).any())
