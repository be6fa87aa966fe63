"""What a head reads of the token stream itself, at which depth, and by which weights.

After each block the stream is cut: whoever reads it, but for the next block, reads a leaf, so that the gradient there
is what the score takes from these tokens directly. That needs no backward through any block.
"""

from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..access import Adapter, Readout, TokenLayout
from ..targets import Target
from .forward import run_forward
from .inputs import Inputs
from .place import Place
from .softmaxes import DROPOUTS
from .taps import ForwardTap, Keep

Leaf = Callable[[Tensor], Tensor]  # what the head is given for a stream (B, N, D)
PARALLEL = 0.999  # cosine from which two tokens count as read by the same map
BY_CONTENT = "the head weighs tokens by what they hold, as attention or max pooling does"
BY_PLACE = "the head reads each patch by weights of its own, as one linear layer over all of them does"
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


def measured(adapter: Adapter, inputs: Inputs, target: Target, place: Place, *, alone: bool) -> Readout | None:
    """The readout by depth and token; None where the score reads the stream after no block.

    Args:
        adapter, inputs: the model, and what it is called with.
        target: what the gradient is taken of.
        place: where the tokens lie on the images.
        alone: whether the first image is enough.
    """
    tokens, found = _gradients(adapter, inputs, target, place, _as_it_is)
    prefix = tokens.prefix
    if found is None:
        return None
    largest = max((float(gradient.abs().max()) for gradient in found.values()), default=0.0)
    if not largest:
        return None
    sizes = {name: gradient.abs().amax((0, 2)) for name, gradient in found.items()}
    read = {name: size > 1e-6 * largest for name, size in sizes.items()}
    shares: dict[str, Tensor] = {name: rows.double() for name, rows in read.items()}
    unclear = None
    if sum(int(rows.sum()) for rows in read.values()) > 1:
        _, same = _gradients(adapter, inputs.first() if alone else inputs, target, place, _alike)
        assert same is not None
        shares, unclear = _shares(prefix, read, {name: gradient[0] for name, gradient in same.items()})
        unclear = unclear or _by_content(adapter, inputs, prefix, sizes)
    last = next(rows for rows in reversed(read.values()) if rows[:prefix].any() or rows.any())
    any_patch = any(bool(rows[prefix:].any()) for rows in read.values())
    own = tuple(last[:prefix].nonzero().flatten().tolist())
    even = bool(own) and any_patch and len({round(float(x), 9) for x in torch.cat([*shares.values()]) if x}) == 1
    return Readout(own, any_patch, even, declared=False, shares=_cpu(shares), unclear=unclear)


def _gradients(
    adapter: Adapter, inputs: Inputs, target: Target, place: Place, leaf: Leaf
) -> tuple[TokenLayout, dict[str, Tensor] | None]:
    """The gradient at each stream, (B, prefix + patches, D), 0 at tokens that it does not have; None where patches are
    queries of no layer, so that a stream holds what came past attention."""
    depths = Depths(adapter, leaf)
    forward = run_forward(adapter, inputs, None, Keep(()), graph=True, place=place, also=depths.listen)
    leaves, layout = depths.leaves, forward.layout
    if not any(call.queries > call.layout.prefix for call in forward.calls.values()):
        return layout, None
    found = forward.gradients(target, list(leaves.values())) if forward.output.scores.requires_grad else []
    whole = {}
    for name, gradient in zip(leaves, found, strict=bool(found)):
        gradient = torch.zeros_like(leaves[name]) if gradient is None else gradient
        patches = prod(layout.grids.get(name, layout.grid))
        lacking = layout.prefix + patches - gradient.shape[1]
        # a class token that joins late comes before the patches, or alone
        before, after = (0, lacking) if gradient.shape[1] <= layout.prefix else (lacking, 0)
        gradient = F.pad(gradient, (0, 0, before, after))
        whole[name] = gradient if layout.order is None or lacking else gradient[:, layout.order.to(gradient.device)]
    return layout, whole


def _cpu(shares: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: share.cpu() for name, share in shares.items()}


def _as_it_is(stream: Tensor) -> Tensor:
    return stream.clone()


def _alike(stream: Tensor) -> Tensor:
    """Every token the same one: then all that is left between their gradients is their weights."""
    return stream[:, -1:].expand_as(stream).clone()


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


class _Meeting(ForwardTap):
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


def _by_content(adapter: Adapter, inputs: Inputs, prefix: int, sizes: dict[str, Tensor]) -> str | None:
    """Whether the two patches that the score reads most are weighed by what they hold, in words."""
    last = next(size for size in reversed(sizes.values()) if size.any())
    patches = last[prefix:]
    if int((patches > 0).sum()) < 2:
        return None
    first, second = (patches.topk(2).indices - len(patches)).tolist()  # from the end: streams may be of any length

    def exchanged(stream: Tensor) -> Tensor:
        if stream.shape[1] < -min(first, second):
            return stream.clone()  # of prefix tokens alone
        stream = stream[:1].repeat(len(stream), 1, 1)
        a, b = stream[0, first].clone(), stream[0, second].clone()
        stream[:, first], stream[:, second] = torch.stack([a, b, a, b]), torch.stack([b, a, a, b])
        return stream

    four = inputs.copies(4)
    tap = _Meeting(adapter, four, None, Keep(()), True)
    run_forward(adapter, four, None, Keep(()), graph=True, tap=tap, also=Depths(adapter, exchanged).listen)
    return BY_CONTENT if tap.by_content else None


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


def _constant(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) and x.requires_grad else x
