"""A plain call of a model, and what its blocks gave in it.

What comes after the blocks is asked about these streams, and about others made of them; the blocks then run on tokens
that are all the same, which costs next to nothing.
"""

from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Adapter, AttentionCall
from .inputs import Inputs
from .repeated import of_rows
from .scopes import Attention
from .streams import stream_of
from .taps import ForwardTap

_noted: ContextVar["dict[str, Tensor] | None"] = ContextVar("captum_vit_noted_streams", default=None)


@dataclass(frozen=True)
class Basis:
    """What a plain call gave.

    scores: its scores, (B, ...).
    raw: all that the model gave.
    streams: the token stream after each block, (B, N, D), as the block gave it, by the last attention layer in it.
    """

    scores: Tensor
    raw: Any = None
    streams: dict[str, Tensor] = field(default_factory=dict)

    def gives(self, scores: Tensor) -> bool:
        """Whether scores of these images, or of the first of them and of others, are those of the plain call."""
        count = min(len(scores), len(self.scores))
        return scores.shape[1:] == self.scores.shape[1:] and same_scores(scores[:count], self.scores[:count])

    def first(self) -> "Basis":
        """That of the first image alone."""
        return Basis(self.scores[:1], None, {name: stream[:1] for name, stream in self.streams.items()})

    def after(self, layer: str, rows: int) -> Tensor:
        """The stream after a block, (rows, N, D): those of the plain call, or the first of them and others that
        are as uneven: its tokens in reverse order, mirrored about their mean, and noise.
        """
        found = self.streams[layer]
        return found if rows == len(found) else _like(found[:1], turned=(1,), over=(1,))[:rows]


def images_like(inputs: Inputs) -> Inputs:
    """The first image, turned by half, as a negative, and noise: all as dark and as uneven as it is."""
    copies, first = inputs.copies(4), inputs.images[:1]
    if not first.is_floating_point():
        return copies
    return replace(copies, images=_like(first, turned=(-1, -2), over=tuple(range(first.dim()))))


def _like(first: Tensor, turned: tuple[int, ...], over: tuple[int, ...]) -> Tensor:
    """One image or stream, turned round along some axes, mirrored about its mean, and noise of its mean and spread."""
    mean = first.mean(over, keepdim=True)
    std = (first - mean).square().mean(over, keepdim=True).sqrt()
    noise = mean + std * torch.randn(first.shape, generator=torch.Generator().manual_seed(0)).to(first)
    return torch.cat([first, first.flip(turned), 2 * mean - first, noise])


def plain_call(adapter: Adapter, inputs: Inputs, *, streams: bool = False) -> Basis:
    """One call of the model, by itself.

    Args:
        adapter, inputs: the model and what it is called with.
        streams: whether hooks note what its blocks give; of none, where one gives no stream of tokens.
    """
    blocks = {block: name for name, block in adapter.blocks().items()} if streams else {}
    found: dict[str, Tensor] = {}
    token = _noted.set(found)
    try:
        with torch.no_grad(), ExitStack() as stack:
            for block, name in blocks.items():
                hook = _noting(adapter, name, len(inputs.images), found)
                stack.callback(block.register_forward_hook(hook, prepend=True).remove)
            raw = inputs.run(adapter)
            scores = inputs.scores(adapter, raw)
    finally:
        _noted.reset(token)
    return Basis(scores, raw, found if len(found) == len(blocks) else {})


def _noting(adapter: Adapter, name: str, images: int, found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        stream = stream_of(adapter, output) if _noted.get() is found else None
        if isinstance(stream, Tensor) and stream.dim() == 3 and len(stream) == images and stream.is_floating_point():
            found[name] = stream.clone()  # somebody may write to it

    return hook


def same_scores(scores: Tensor, plain: Tensor) -> bool:
    """Whether scores are those of a plain call but for rounding; also where these are no numbers."""
    difference = (scores.detach().double() - plain.double()).abs().max()
    size = plain.double().abs().max().clamp(min=1e-6)
    return bool(difference <= torch.finfo(plain.dtype).eps ** 0.5 * size) or bool(plain.isnan().any())


class Passing(ForwardTap):
    """A forward whose blocks are given tokens that are all alike, as what they give is known.

    Attention over such tokens gives their value, and each different row of a linear layer is computed once.

    inside: whether a block runs.
    """

    inside = False

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        if not self.inside:
            return super().attend(call, run)
        self._check_batch(call)
        out = call.v[:, :, :1].expand(-1, -1, call.queries, -1).clone()
        self._keep(replace(call, out=out))
        return out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        def layer(x: Tensor) -> Tensor:
            return super(Passing, self).linear(x, weight, bias)

        return of_rows(input, layer) if self.inside and not input.requires_grad else layer(input)
