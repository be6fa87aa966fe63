"""What a head reads of the token stream itself, and at which depth.

After each block the stream is cut: whoever reads it, but for the next block, reads a leaf, so that the gradient there
is what the score takes from these tokens directly. That needs no backward through any block.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access import Adapter, TokenLayout
from ..targets import Target
from .basis import Basis, Passing
from .forward import Forward, run_forward
from .inputs import Inputs
from .place import Place
from .repeated import few_kinds
from .streams import stream_of, with_stream
from .taps import ForwardTap, Keep

Leaf = Callable[[Tensor], Tensor]  # what the head is given for a stream (B, N, D)
SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


class Depths:
    """The streams after the blocks, as leaves for what reads them past the next block.

    basis: what the blocks give in a plain call; then they run on tokens that are all alike.
    """

    def __init__(self, adapter: Adapter, leaf: Leaf, basis: Basis | None = None) -> None:
        self.adapter, self.leaf, self.basis = adapter, leaf, basis
        self.layers = {block: name for name, block in adapter.blocks().items()}  # the last attention in each block
        self.leaves: dict[str, Tensor] = {}
        self.tap: ForwardTap

    def listen(self, tap: ForwardTap, stack: ExitStack) -> None:
        """Register the hooks, until the stack ends."""
        self.tap = tap
        for block in self.layers:
            stack.callback(block.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(self._after, prepend=True).remove)

    def _before(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        if not self.tap.active or kwargs is None:
            return None
        enter = _constant if self.basis is None else partial(self._passing, self.basis.streams[self.layers[module]])
        if isinstance(self.tap, Passing):
            self.tap.inside = self.basis is not None
        return tuple(map(enter, args)), {key: enter(value) for key, value in kwargs.items()}

    def _passing(self, stream: Tensor, x: Any) -> Any:
        """What goes into a block, whose tokens are of no matter."""
        x = _constant(x)
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 3:
            return x
        given = x.transpose(0, 1) if self.adapter.tokens_first else x
        if given.shape != (len(self.tap.inputs.images), *stream.shape[1:]):
            return x
        given = few_kinds(given)
        return given.transpose(0, 1) if self.adapter.tokens_first else given

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self.tap.active:
            return None
        stream = stream_of(self.adapter, output)
        if self.basis is not None:
            stream = self.basis.after(self.layers[module], len(self.tap.inputs.images))
        if isinstance(self.tap, Passing):
            self.tap.inside = False
        leaf = self.leaves[self.layers[module]] = self.leaf(stream.detach()).requires_grad_()
        return with_stream(self.adapter, output, leaf.clone())  # somebody may write to it


class LastSum:
    """The stream after the last sum of a skip connection, where no module gives it: as a leaf for what reads it.

    Args:
        adapter, leaf: as for `Depths`.
        at: which of the sums of tokens after the last attention it is, counted from 1; None only counts them.
    """

    def __init__(self, adapter: Adapter, leaf: Leaf, at: int | None) -> None:
        self.adapter, self.leaf, self.at, self.count = adapter, leaf, at, 0
        self.layers = [name for name in adapter.attention_layers() if name not in adapter.cross_attention]
        self.leaves: dict[str, Tensor] = {}
        self.tap: ForwardTap

    def listen(self, tap: ForwardTap, stack: ExitStack) -> None:
        """Begin to look at the functions that the tap sees."""
        self.tap = tap
        tap.changing = self._after

    def _after(self, func: Any, args: tuple, out: Any) -> Any:
        if func not in SUMS or not all(self.tap.seen[name] for name in self.layers):
            return out
        if not isinstance(out, Tensor) or not self.tap.is_tokens(out):
            return out
        if any(not isinstance(x, Tensor) or x.shape != out.shape for x in args[:2]):
            return out
        self.count += 1
        if self.count != self.at:
            return out
        leaf = self.leaves[self.layers[-1]] = self.leaf(out.detach()).requires_grad_()
        return leaf.clone()


def cut_of(
    adapter: Adapter, inputs: Inputs, place: Place, basis: Basis | None = None
) -> Callable[[Leaf], Depths | LastSum] | None:
    """Where the streams can be cut; None if nowhere.

    basis: a plain call of the image, as far as blocks gave their streams in it.
    """
    if adapter.blocks():
        return partial(Depths, adapter, basis=basis)
    sums = LastSum(adapter, as_it_is, None)
    run_forward(
        adapter, inputs.first() if not adapter.training else inputs, None, Keep(()), place=place, also=sums.listen
    )
    return partial(LastSum, adapter, at=sums.count) if sums.count else None


@dataclass(frozen=True)
class Read:
    """The gradients at the streams after the blocks.

    layout: where the tokens lie.
    by_target: of each target, by attention layer, (B, prefix + patches, D), 0 at tokens that a stream does not have.
        Empty where patches are queries of no layer, so that a stream holds what came past attention.
    scores: those of the images, (B, ...).
    beside: whether something is read past the cut.
    """

    layout: TokenLayout
    by_target: list[dict[str, Tensor]]
    scores: Tensor
    beside: bool = False

    @property
    def classes(self) -> int:
        """How many scores an image has."""
        return self.scores[0].numel()


def gradients_at(
    adapter: Adapter, inputs: Inputs, targets: Sequence[Target], place: Place, cut: Depths | LastSum
) -> Read:
    """By one forward."""
    whole = isinstance(cut, LastSum)
    keep = Keep(list(adapter.attention_layers()) if whole else ())
    tap = Passing(adapter, inputs, None, keep, True, place)
    forward = run_forward(adapter, inputs, None, keep, graph=True, place=place, tap=tap, also=cut.listen)
    leaves, layout, scores = cut.leaves, forward.layout, forward.output.scores.detach()
    if not any(call.queries > call.layout.prefix for call in forward.calls.values()):
        return Read(layout, [{} for _ in targets], scores)
    outs = [call.out for call in forward.calls.values() if call.out.requires_grad] if whole else []
    if not forward.output.scores.requires_grad:
        return Read(layout, [{} for _ in targets], scores)
    by_target, beside = [], False
    for target in targets:
        found = forward.gradients(target, [*leaves.values(), *outs], retain=target is not targets[-1])
        beside |= any(gradient is not None and bool(gradient.any()) for gradient in found[len(leaves) :])
        pairs = zip(leaves.items(), found, strict=False)
        by_target.append({name: _of_tokens(forward, name, leaf, gradient) for (name, leaf), gradient in pairs})
    return Read(layout, by_target, scores, beside)


def _of_tokens(forward: Forward, name: str, leaf: Tensor, gradient: Tensor | None) -> Tensor:
    """A gradient after a layer, with all tokens, in the order of the layout."""
    gradient, layout, tokens = torch.zeros_like(leaf) if gradient is None else gradient, forward.layout, leaf.shape[1]
    own = forward.kept.layouts.get(name) or layout.of_layer(name, tokens, tokens)  # of one that is not named
    lacking = layout.prefix + prod(own.grid) - gradient.shape[1]
    if gradient.shape[1] < own.keys:  # a class token alone
        return F.pad(gradient, (0, 0, 0, lacking))
    if layout.order is not None:
        gradient = gradient[:, layout.order[lacking:].argsort().argsort().to(gradient.device)]
    return F.pad(gradient, (0, 0, lacking, 0))  # who joins later comes before the others


def as_it_is(stream: Tensor) -> Tensor:
    """A copy, as whoever is given it may write to it."""
    return stream.clone()


class Alike:
    """Every token the same one, at all depths: then all that is left between their gradients is their weights."""

    def __init__(self) -> None:
        self.tokens: dict[int, Tensor] = {}  # by their width

    def __call__(self, stream: Tensor) -> Tensor:
        token = self.tokens.setdefault(stream.shape[2], stream[:, -1:].clone())
        return token.expand_as(stream).clone()


def _constant(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) and x.requires_grad else x
