"""What makes forwards differ by chance, or images depend on others, held still while a model is examined."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ..access import Adapter
from .softmaxes import DROPOUTS

PERMUTED = {torch.multinomial, Tensor.multinomial}
RANDOM = {torch.rand, torch.rand_like}


def draws_in_training(adapter: Adapter) -> bool:
    """Whether modules in train mode make the images of a batch unlike each other, or depend on each other."""
    return adapter.training and any(
        isinstance(module, _BatchNorm)
        or ("drop" in type(module).__name__.lower() and getattr(module, "p", getattr(module, "drop_prob", 1)))
        for module in adapter.model.modules()
        if module.training
    )


def still(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], run: Callable[..., Any]) -> Any:
    """`run(func, args, kwargs)`, without dropout, dropped paths and the statistics of a batch."""
    if func in DROPOUTS:
        return args[0] if args else kwargs["input"]
    kept = kwargs.get("p", args[1] if len(args) > 1 else None)
    if func is Tensor.bernoulli_ and isinstance(kept, float) and args[0].numel() == len(args[0]):
        return args[0].fill_(kept)  # by which a path that is kept is divided
    if func is F.batch_norm:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if given.get("running_mean") is not None:
            return run(func, (), given | {"training": False})
    out = run(func, args, kwargs)
    # one number for each image decides whether a path is kept; numbers for tokens may decide where these go
    return out.fill_(0.5) if func in RANDOM and out.numel() == len(out) else out


def in_own_order(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The numbers of all rows one after another, where each is drawn once at random; None of any other call.

    A model that puts its tokens in such an order, as ViLT does, gives the same whatever it is, or is refused: its
    scores are compared with those of a plain call.
    """
    if func not in PERMUTED:
        return None
    names = ("input", "num_samples", "replacement")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    weights = given["input"]
    if given.get("replacement") or weights.dim() != 1 or len(weights) != given["num_samples"] or not weights.all():
        return None
    return torch.arange(len(weights), device=weights.device)


class InOwnOrder(TorchFunctionMode):
    """A context in which a model that draws the order of its tokens has them one after another, as under a tap."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        rows = in_own_order(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if rows is None else rows
