"""What a head reads of the token stream itself, at which depth, and by which weights.

After each block the stream is cut: whoever reads it, but for the next block, reads a leaf, so that the gradient there
is what the score takes from these tokens directly. That needs no backward through any block.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access import Adapter, Readout, TokenLayout
from ..targets import Target
from .forward import run_forward
from .inputs import Inputs
from .meeting import COPIES, Meeting, exchanged
from .place import Place
from .taps import ForwardTap, Keep

Leaf = Callable[[Tensor], Tensor]  # what the head is given for a stream (B, N, D)
PARALLEL = 0.999  # cosine from which two tokens count as read by the same map
BY_CONTENT = "the head weighs tokens by what they hold, as attention or max pooling does"
BY_PLACE = "the head reads each patch by weights of its own, as one linear layer over all of them does"
BESIDE = "the head reads the tokens of earlier blocks as well, and no module gives them by themselves"
SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
BY_SIGN = "the head takes some tokens from others"


class Depths:
    """The streams after the blocks, as leaves for what reads them past the next block."""

    def __init__(self, adapter: Adapter, leaf: Leaf) -> None:
        self.adapter, self.leaf = adapter, leaf
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
        return tuple(map(_constant, args)), {key: _constant(value) for key, value in kwargs.items()}

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self.tap.active:
            return None
        stream = self.adapter.stream(output)
        leaf = self.leaves[self.layers[module]] = self.leaf(stream.detach()).requires_grad_()
        given = leaf.clone()  # somebody may write to it
        if output is stream:
            return given
        if isinstance(output, (tuple, list)):
            return type(output)(given if part is stream else part for part in output)
        return None


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


def measured(adapter: Adapter, inputs: Inputs, target: Target, place: Place, *, alone: bool) -> Readout | None:
    """The readout by depth and token; None where the score reads the stream after no block.

    Args:
        adapter, inputs: the model, and what it is called with.
        target: what the gradient is taken of.
        place: where the tokens lie on the images.
        alone: whether the first image is enough.
    """
    cut = _cut(adapter, inputs, place)
    if cut is None:
        return None
    layout, found, beside = _gradients(adapter, inputs, target, place, cut(_as_it_is))
    prefix, largest = layout.prefix, max((float(gradient.abs().max()) for gradient in found.values()), default=0.0)
    if not largest:
        return None
    sizes = {name: gradient.abs().amax((0, 2)) for name, gradient in found.items()}
    read = {name: size > 1e-6 * largest for name, size in sizes.items()}
    shares: dict[str, Tensor] = {name: rows.double() for name, rows in read.items()}
    unclear = BESIDE if beside else None
    if _part(read, layout):
        _, moved, _ = _gradients(adapter, inputs, target, place, cut(partial(_rolled, layout)))
        _choices(read, {name: gradient.abs().amax((0, 2)) for name, gradient in moved.items()}, layout)
        shares = {name: rows.double() for name, rows in read.items()}
    if unclear is None and sum(int(rows.sum()) for rows in read.values()) > 1:
        _, same, _ = _gradients(adapter, inputs.first() if alone else inputs, target, place, cut(Alike()))
        shares, unclear = _shares(prefix, read, {name: gradient[0] for name, gradient in same.items()})
        copied = {name: gradient[0].abs().amax(1) for name, gradient in found.items()}  # of the first image
        copied = copied if any(size.any() for size in copied.values()) else sizes
        unclear = unclear or _by_content(adapter, inputs, layout, copied, read, cut)
    last = next(rows for rows in reversed(read.values()) if rows[:prefix].any() or rows.any())
    any_patch = any(bool(rows[prefix:].any()) for rows in read.values())
    own = tuple(last[:prefix].nonzero().flatten().tolist())
    even = bool(own) and any_patch and len({round(float(x), 9) for x in torch.cat([*shares.values()]) if x}) == 1
    return Readout(own, any_patch, even, declared=False, shares=_cpu(shares), unclear=unclear)


def _cut(adapter: Adapter, inputs: Inputs, place: Place) -> Callable[[Leaf], Depths | LastSum] | None:
    """Where the streams can be cut; None if nowhere."""
    if adapter.blocks():
        return partial(Depths, adapter)
    sums = LastSum(adapter, _as_it_is, None)
    run_forward(
        adapter, inputs.first() if not adapter.training else inputs, None, Keep(()), place=place, also=sums.listen
    )
    return partial(LastSum, adapter, at=sums.count) if sums.count else None


def _gradients(
    adapter: Adapter, inputs: Inputs, target: Target, place: Place, cut: Depths | LastSum
) -> tuple[TokenLayout, dict[str, Tensor], bool]:
    """The gradient at each stream, (B, prefix + patches, D), 0 at tokens that it does not have; and whether something
    is read past the cut. No gradients where patches are queries of no layer, so that a stream holds what came past
    attention."""
    whole = isinstance(cut, LastSum)
    keep = Keep(list(adapter.attention_layers()) if whole else ())
    forward = run_forward(adapter, inputs, None, keep, graph=True, place=place, also=cut.listen)
    leaves, layout = cut.leaves, forward.layout
    if not any(call.queries > call.layout.prefix for call in forward.calls.values()):
        return layout, {}, False
    outs = [call.out for call in forward.calls.values() if call.out.requires_grad] if whole else []
    if not forward.output.scores.requires_grad:
        return layout, {}, False
    found = forward.gradients(target, [*leaves.values(), *outs])
    beside = any(gradient is not None and bool(gradient.any()) for gradient in found[len(leaves) :])
    streams = {}
    for name, gradient in zip(leaves, found, strict=False):
        gradient = torch.zeros_like(leaves[name]) if gradient is None else gradient
        patches = prod(layout.grids.get(name, layout.grid))
        lacking = layout.prefix + patches - gradient.shape[1]
        # a class token that joins late comes before the patches, or alone
        before, after = (0, lacking) if gradient.shape[1] <= layout.prefix else (lacking, 0)
        gradient = F.pad(gradient, (0, 0, before, after))
        streams[name] = gradient if layout.order is None or lacking else gradient[:, layout.order.to(gradient.device)]
    return layout, streams, beside


def _cpu(shares: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: share.cpu() for name, share in shares.items()}


def _as_it_is(stream: Tensor) -> Tensor:
    return stream.clone()


class Alike:
    """Every token the same one, at all depths: then all that is left between their gradients is their weights."""

    def __init__(self) -> None:
        self.tokens: dict[int, Tensor] = {}  # by their width

    def __call__(self, stream: Tensor) -> Tensor:
        token = self.tokens.setdefault(stream.shape[2], stream[:, -1:].clone())
        return token.expand_as(stream).clone()


def _part(read: dict[str, Tensor], layout: TokenLayout) -> bool:
    """Whether some patches are read after a block, and others not."""
    return any(bool(rows[layout.prefix :].any() and not rows[layout.prefix :].all()) for rows in read.values())


def _rolled(layout: TokenLayout, stream: Tensor) -> Tensor:
    """The patches one third of them further on."""
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    places = order[layout.prefix :].to(stream.device)
    stream = stream.clone()
    if stream.shape[1] == layout.tokens:
        stream[:, places] = stream[:, places.roll(1 + len(places) // 3)]
    return stream


def _choices(read: dict[str, Tensor], moved: dict[str, Tensor], layout: TokenLayout) -> None:
    """Mark all patches as read where others are read as soon as they have moved: they are chosen by what they hold."""
    largest = max(float(size.max()) for size in moved.values())
    for name, rows in read.items():
        patches = rows[layout.prefix :]  # a view
        if not torch.equal(patches, moved[name][layout.prefix :] > 1e-6 * largest):
            patches.fill_(True)


def _shares(prefix: int, read: dict[str, Tensor], gradients: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The weight of each token, from gradients (N, D) at equal tokens; and why there is none.

    Tokens with parallel gradients are read by one map, and weighed within; maps side by side weigh the same, as a class
    token and the mean of the patches.
    """
    shares = {name: rows.double() for name, rows in read.items()}
    groups: list[tuple[Tensor, list[tuple[str, int, float]], bool]] = []
    for name, rows in read.items():
        for index in rows.nonzero().flatten().tolist():
            gradient, patch = gradients[name][index].double(), index >= prefix
            size = float(gradient.norm())
            if not size or not torch.isfinite(gradient).all():
                return shares, BY_CONTENT
            for direction, members, _ in groups:
                cosine = float(direction @ gradient) / size
                if abs(cosine) > PARALLEL:
                    if cosine < 0:
                        return shares, BY_SIGN
                    members.append((name, index, size))
                    break
            else:
                if patch and any(of_patches for *_, of_patches in groups):
                    return shares, BY_PLACE
                groups.append((gradient / size, [(name, index, size)], patch))
    for _, members, _ in groups:
        total = sum(size for *_, size in members) * len(groups)
        for name, index, size in members:
            shares[name][index] = size / total
    return shares, None


def _by_content(
    adapter: Adapter,
    inputs: Inputs,
    layout: TokenLayout,
    sizes: dict[str, Tensor],
    read: dict[str, Tensor],
    cut: Callable[[Leaf], Depths | LastSum],
) -> str | None:
    """Whether the patches that the score reads most and least are weighed by what they hold, in words."""
    last = next(name for name, size in reversed(sizes.items()) if size.any())
    patches, among = sizes[last][layout.prefix :], read[last][layout.prefix :]
    if int(among.sum()) < 2:
        return None
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    ranked = patches.where(among, -1).argsort(descending=True)
    chosen = layout.prefix + ranked[[0, int(among.sum()) - 1]].cpu()
    first, second = (order[chosen] - layout.tokens).tolist()  # from the end: streams may be of any length

    def leaf(stream: Tensor) -> Tensor:
        alone = stream.shape[1] < -min(first, second)  # of prefix tokens alone
        return stream.clone() if alone else exchanged(stream, first, second)

    copies = inputs.copies(COPIES)
    tap = Meeting(adapter, copies, None, Keep(()), True)
    run_forward(adapter, copies, None, Keep(()), graph=True, tap=tap, also=cut(leaf).listen)
    return BY_CONTENT if tap.by_content else None


def _constant(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) and x.requires_grad else x
