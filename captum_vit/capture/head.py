"""What follows the last block of a model, run on the token streams of other blocks: the score of each layer.

Nothing needs to be known of it: the model runs again, and the stream after its last block is replaced by those of the
blocks in question, side by side as one larger batch. Before that place the tokens are of no matter, so that a few of
them do where the blocks can run on a part.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access import Adapter, AttentionCall, LayerLayout, Readout, TokenLayout
from ..errors import UnsupportedModelError
from ..targets import Joined, Output, Target
from ..targets.base import check_attached
from .few import AgainTap
from .forward import Forward
from .inputs import Inputs
from .listeners import unheard
from .replay import check_same
from .scopes import Attention
from .streams import with_stream
from .twice import twice_differentiable
from .untouched import untouched

NOT_TOGETHER = (RuntimeError, ValueError, TypeError, IndexError)  # of a head that expects as many images as came in
TOGETHER = 64  # single tokens that the head is given at once, each at every place
MOST = 4096  # of them where a few places do
Pooled = tuple[AttentionCall, Tensor]  # the attention of a pool, and the gradient at its output


def last_read(adapter: Adapter, readout: Readout) -> str:
    """The attention layer after whose block the head reads.

    Raises:
        UnsupportedModelError: there is none, or the head reads several depths.
    """
    blocks = adapter.blocks()
    if not blocks:
        raise UnsupportedModelError(f"{type(adapter).__name__} names no block, so that no layer has a stream after it")
    if readout.shares is None or readout.latents:
        return [name for name in adapter.reading_layers(readout) if name in blocks][-1]
    read = {blocks[name]: name for name, share in readout.shares.items() if name in blocks and share.any()}
    if len(read) != 1:
        raise UnsupportedModelError(
            f"the head of {type(adapter.model).__name__} reads the tokens after {len(read)} blocks "
            f"({', '.join(read.values())}): what it would make of one block's tokens alone is not defined"
        )
    return next(iter(read.values()))


def check_once(adapter: Adapter, names: Sequence[str]) -> None:
    """Raise UnsupportedModelError where one block runs several times, so that its streams cannot be told apart."""
    for module, called in adapter.calls().items():
        if len([name for name in called if name in names]) > 1 and len({adapter.blocks()[n] for n in called if n}) == 1:
            raise UnsupportedModelError(
                f"a block with {type(module).__name__} in {type(adapter.model).__name__} computes several attentions "
                f"({', '.join(filter(None, called))}): which stream follows each is not known"
            )


class HeadTap(AgainTap):
    """A forward whose last block gives other streams than its own, (copies*B, N, D).

    last: that block.  few: how many tokens enter the blocks; None if all do.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        layout: TokenLayout,
        last: nn.Module,
        streams: Tensor,
        few: int | None,
        create_graph: bool = False,
    ) -> None:
        super().__init__(adapter, inputs, layout)
        self.create_graph, self.detached = create_graph, not create_graph
        self.last, self.streams, self.few = last, streams, few
        self.reached = False
        self.pools: list[AttentionCall] = []

    def listen(self, stack: ExitStack) -> None:
        """Register the hooks, until the stack ends."""
        if self.few is not None:
            stack.enter_context(self.slicing(self.few))
        stack.callback(self.last.register_forward_hook(self._put).remove)

    def layer_layout(self, name: str, queries: int, keys: int) -> LayerLayout:
        if self.few is not None and not self.reached:
            queries = keys = self.full.tokens
        return super().layer_layout(name, queries, keys)

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        if not self.reached and self.few is not None:
            return call.v[:, :, : call.queries]  # of the right shape; what comes of it is replaced
        out = run(lambda x: x)
        if self.reached and call.layout.cross:
            self.pools.append(replace(call, out=out))
        return out

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return twice_differentiable(func)(*args, **kwargs) if self.create_graph else super().other(func, args, kwargs)

    def kernel(self, args: tuple, kwargs: dict) -> Tensor:
        kernel = F.scaled_dot_product_attention
        return (twice_differentiable(kernel) if self.create_graph else kernel)(*args, **kwargs)

    def _put(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self.active:
            return None
        self.reached, self.batch = True, len(self.streams)
        return with_stream(self.adapter, output, self.streams)


class Head:
    """The part of a model after its last block.

    Args:
        forward: through which the model was run, with its streams.
        inputs: what it was called with.
        readout: what is read of the tokens.
        listened: whether hooks of somebody else's, which must not hear this, are on the model.
    """

    def __init__(self, forward: Forward, inputs: Inputs, readout: Readout, *, listened: bool) -> None:
        self.forward, self.inputs, self.readout = forward, inputs, readout
        self.adapter = unheard(forward.adapter, listened=listened)
        self.last = last_read(self.adapter, readout)
        self.own = forward.streams[self.last].detach()

    def gradients(self, target: Target, streams: Sequence[Tensor]) -> list[Tensor]:
        """ds/dx at each stream x, (B, N, D), or (B, 1, D) for one token that stands at every place.

        Raises:
            UnsupportedModelError: the head does not take them, or does not depend on them.
        """
        found: list[Tensor | None] = []
        with untouched(self.adapter), torch.enable_grad():
            for score, leaves, _ in self._scores(target, streams):
                graph = self.forward.create_graph
                found += torch.autograd.grad(score.sum(), leaves, allow_unused=True, create_graph=graph)
        missing = [gradient for gradient in found if gradient is None]
        if missing:
            raise UnsupportedModelError(
                f"the scores of {type(self.adapter.model).__name__} do not depend on the tokens after {self.last}"
            )
        return [gradient for gradient in found if gradient is not None]

    def pool_gradients(self, target: Target, streams: Sequence[Tensor]) -> list[Pooled]:
        """The attention that pools the tokens of each stream, and ds/dO there.

        Raises:
            UnsupportedModelError: as `gradients`; or there is not one pool.
        """
        found: list[Pooled] = []
        with untouched(self.adapter), torch.enable_grad():
            for score, leaves, pools in self._scores(target, streams):
                if len(pools) != 1:
                    raise UnsupportedModelError(
                        f"expected one attention pool behind the last block of {type(self.adapter.model).__name__}, "
                        f"{len(pools)} ran"
                    )
                graph = self.forward.create_graph
                (gradient,) = torch.autograd.grad(score.sum(), [pools[0].out], create_graph=graph)
                count = len(self.own)
                for first in range(0, count * len(leaves), count):
                    own = slice(first, first + count)
                    v, out = pools[0].v[own], pools[0].out[own]
                    call = replace(pools[0], v=v if graph else v.detach(), out=out if graph else out.detach())
                    found.append((call, gradient[own]))
        return found

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """The scores of single tokens (K, D), each standing at every place of the stream, (K, C).

        Raises:
            UnsupportedModelError: the head does not take them.
        """
        self._check_shapes([tokens[:, None]])
        with untouched(self.adapter), torch.no_grad():
            try:
                found = [self._of_few(tokens[:TOGETHER], checked=True)]
                length = self._copies(tokens[:TOGETHER], found[0])
                at_once = max(TOGETHER, min(TOGETHER * self.own.shape[1] // length, MOST))
                rest = tokens[TOGETHER:].split(at_once)
                return torch.cat([*found, *(self._of_few(part, length=length) for part in rest if len(part))])
            except NOT_TOGETHER:
                if self.readout.declared:
                    raise
            count = len(self.own)
            check_same(self.forward.output.scores, self._run(self.own)[1].scores, self.adapter)
            return torch.cat([self._of_few(part, fill=count - len(part)) for part in tokens.split(count)])

    def _copies(self, tokens: Tensor, scores: Tensor) -> int:
        """How many copies of a token stand for a whole stream of them: as few as the head takes with these scores."""
        few = self.forward.layout.prefix + 1  # one is a patch
        try:
            again = self._of_few(tokens, length=few)
        except (UnsupportedModelError, *NOT_TOGETHER):
            return self.own.shape[1]
        near = 8 * torch.finfo(scores.dtype).eps * scores.abs().max()
        return few if bool(((again - scores).abs() <= near).all()) else self.own.shape[1]

    def _of_few(self, tokens: Tensor, *, checked: bool = False, fill: int = 0, length: int | None = None) -> Tensor:
        """The scores of tokens, each at every place of a stream; with them go the forward's own, or copies to fill."""
        copies = torch.cat([tokens, tokens[-1:].expand(fill, -1)])[:, None]
        stream = copies.expand(-1, length or self.own.shape[1], -1)
        scores = self._run(torch.cat([stream, self.own]) if checked else stream)[1].scores
        expected = len(tokens) + (len(self.own) if checked else fill)
        if len(scores) != expected:
            raise UnsupportedModelError(
                f"expected scores of {expected} images behind the last block of {type(self.adapter.model).__name__}, "
                f"got {len(scores)}"
            )
        if checked:
            check_same(self.forward.output.scores, scores[len(tokens) :], self.adapter)
        return scores[: len(tokens)]

    def _scores(
        self, target: Target, streams: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, list[Tensor], list[AttentionCall]]]:
        """The score of each stream, with these as leaves, and the attention that pooled them; in one or more parts."""
        graph = self.forward.create_graph  # a copy is a node of its own, past which the gradient of another does not go
        leaves = [stream.clone() if graph else stream.detach().requires_grad_() for stream in streams]
        self._check_shapes(leaves)
        whole = self.own.shape[1] == self.forward.layout.tokens  # otherwise the others go another way
        if whole and target.reads_scores and not self.adapter.training:
            try:
                together = self._score(target, leaves, checked=True)
            except NOT_TOGETHER:
                if self.readout.declared:
                    raise
            else:
                yield together
                return
        _, output = self._run(self.own)
        check_same(self.forward.output.scores.detach(), output.scores.detach(), self.adapter)
        for leaf in leaves:
            yield self._score(target, [leaf])

    def _score(
        self, target: Target, leaves: list[Tensor], *, checked: bool = False
    ) -> tuple[Tensor, list[Tensor], list[AttentionCall]]:
        """The scores of streams side by side; checked by the stream that the head had in the forward."""
        tokens = self.own.shape[1]
        parts = [leaf.expand(-1, tokens, -1) for leaf in leaves] + [self.own] * checked
        tap, output = self._run(torch.cat(parts))
        count = len(self.own)
        if len(output.scores) != count * len(parts):
            raise UnsupportedModelError(
                f"expected scores of {count * len(parts)} images behind the last block of "
                f"{type(self.adapter.model).__name__}, got {len(output.scores)}"
            )
        if checked:
            check_same(self.forward.output.scores.detach(), output.scores[-count:].detach(), self.adapter)
            output = replace(output, scores=output.scores[:-count])
        score = (Joined([target] * len(leaves)) if checked else target).score(output)
        check_attached(score, output, target)
        return score, leaves, tap.pools

    def _run(self, streams: Tensor) -> tuple[HeadTap, Output]:
        tap = HeadTap(
            self.adapter,
            self.inputs,
            self.forward.layout,
            self.adapter.blocks()[self.last],
            streams,
            self._few(),
            self.forward.create_graph,
        )
        with tap.listening(), ExitStack() as stack:
            tap.listen(stack)
            raw = self.inputs.run(self.adapter)
            scores = self.inputs.scores(self.adapter, raw)
        return tap, Output(raw, scores, self.adapter.headless)

    def _few(self) -> int | None:
        """How many tokens do for the blocks, whose output is replaced; None where all have to go through them."""
        layout, adapter = self.forward.layout, self.adapter
        parted = adapter.first_block is not None and (layout.prefix > 0 or not adapter.patch_arguments())
        known = self.readout.declared and not adapter.training and layout.order is None
        return (layout.prefix or 1) if parted and known else None

    def _check_shapes(self, streams: Sequence[Tensor]) -> None:
        for stream in streams:
            if stream.shape[-1] != self.own.shape[-1] or stream.shape[1] not in (1, self.own.shape[1]):
                raise UnsupportedModelError(
                    f"the head of {type(self.adapter.model).__name__} reads tokens of shape "
                    f"{tuple(self.own.shape[1:])}, and an earlier block gives {tuple(stream.shape[1:])}: choose layers "
                    f"from where on they are alike, by layer="
                )
