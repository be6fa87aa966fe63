"""Whether tokens stay where they are from block to block, and meet in attention alone.

The model runs with the output of every attention given, the same whatever comes in, but for some copies of the image:
in one for each binary digit of the tokens' numbers, it is another for the tokens with a 1 there. As tokens meet nowhere
else, each must tell its own number at every later attention, and at the end of the last block. What goes into the first
block is given too: few different tokens again and again, as layers then have few different rows to compute.
"""

from contextlib import ExitStack
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Adapter, AttentionCall
from ..errors import TokenLayoutError, UnsupportedModelError
from .few import changed_argument
from .inputs import Inputs
from .place import Place
from .repeated import few_kinds
from .scopes import Attention
from .stem import EnoughError, StemTap, run_until_enough
from .streams import stream_of

DIGITS = 8  # of the numbers of tokens, up to 255; in more tokens than that numbers come twice, far apart
STRIDE = 37  # between the numbers of neighbours; it has no divisor in common with 255
MUCH = 0.1  # of a token's own change: more than each of many tokens has in a mean over them
KINDS = 4  # of tokens that go into the first block, and of what attention gives them
END = "the end of the last block"


class TrunkTap(StemTap):
    """Gives every attention's output, and looks where a change in one shows in the later ones.

    Args:
        start: from which attention on tokens are changed, counted from 0.
    Attributes:
        mixed: the attention before which tokens were seen to meet; None while they were not.
    """

    first: AttentionCall
    changed: Tensor  # bool (DIGITS, queries)

    def __init__(self, adapter: Adapter, inputs: Inputs, place: Place, start: int) -> None:
        super().__init__(adapter, inputs, None, place)
        self.start, self.index = start, -1
        self.mixed: int | None = None
        self.gone_on = False  # whether a later attention has been seen

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        values = call.v
        self.index += 1
        size = values[:1].float().std().clamp_min(1e-3)
        draw = torch.Generator().manual_seed(self.index)
        kind = torch.arange(call.queries) % KINDS
        out = size.cpu() * torch.randn(1, call.heads, KINDS, values.shape[-1], generator=draw)[:, :, kind]
        out = out.repeat(call.batch, 1, 1, 1)
        if self.index == self.start:
            self.first = call
            self.changed = _digits(call.queries)
        elif self.index > self.start and self._alike(call):
            self._look(call.v.transpose(1, 2).flatten(2), f"layer {call.name!r}")
        if self.index >= self.start and self._alike(call) and call.queries == self.changed.shape[1]:
            change = size.cpu() * torch.randn(call.heads, KINDS, out.shape[-1], generator=draw)[:, kind]
            other = out[0] + 2**0.5 * change * _signs(call.queries)[:, None]
            for copy, rows in enumerate(self.changed, 1):
                out[copy, :, rows] = other[:, rows]
        return out.to(values)

    def enter(self, tokens: Any) -> Any:
        """What goes into the first block in place of a stream of tokens."""
        if not isinstance(tokens, Tensor) or tokens.dim() != 3 or not tokens.is_floating_point():
            return tokens
        if self.index >= 0:
            return tokens  # the block that is listed first runs after another
        if self.adapter.tokens_first:
            return few_kinds(tokens.transpose(0, 1), KINDS).transpose(0, 1)
        return few_kinds(tokens, KINDS)

    def _alike(self, call: AttentionCall) -> bool:
        """Whether a layer has the tokens of the one from which on they are changed."""
        return call.layout.grid == self.first.layout.grid and not call.layout.cross

    def look_at_end(self, module: nn.Module, args: tuple, output: Any) -> None:
        """A hook on the last block, before those of others, who have to do with its head."""
        if not self.active or self.index < self.start:
            return
        stream, layout = stream_of(self.adapter, output), self.layout
        if stream is None or stream.shape[1] != layout.tokens or layout.grid != self.first.layout.grid:
            return
        self._look(stream if layout.order is None else stream[:, layout.order.to(stream.device)], END)

    def _look(self, tokens: Tensor, where: str) -> None:
        """At tokens (B, N, D), patches last."""
        changes = (tokens - tokens[:1])[1:].float().square().sum(2).sqrt().cpu()  # (DIGITS, N)
        patches = prod(self.first.layout.grid)
        own, expected = changes[:, -patches:], self.changed[:, -patches:]
        noise = torch.finfo(tokens.dtype).eps ** 0.5 * tokens.float().square().sum(2).sqrt().max().cpu()
        if self.first.queries < patches:
            return
        if own.max() < noise:
            if not self.gone_on:
                return  # side by side with the first
            raise UnsupportedModelError(
                f"{where} of {type(self.adapter.model).__name__} does not depend on the first attention, as where two "
                f"Vision Transformers look at one image, or at two views of it: pass the one to explain"
            )
        self.gone_on = True
        largest = own.amax(0)
        kept = largest > noise  # others were set to something fixed
        moved = (((own > largest / 2) != expected).any(0) & kept).nonzero().flatten()
        if len(moved):
            raise TokenLayoutError(
                f"{len(moved)} of the {patches} patches of {type(self.adapter.model).__name__} are no longer where "
                f"they were when they reach {where}: tokens are dropped, merged or put in another order on "
                f"the way, as where a model prunes them or a hook does. Which patch a token stands for is not known"
            )
        idle, busy = own[:, kept][~expected[:, kept]], own[:, kept][expected[:, kept]]
        if idle.max() > 1e-3 * busy.max():  # from here on a token's own change can no longer be told from others'
            self._meet(idle, busy, where)

    def _meet(self, idle: Tensor, busy: Tensor, where: str) -> None:
        """Tokens have met before `where`.

        Args:
            idle, busy: how much tokens changed where they ought not to, and where they ought to.
        Raises:
            UnsupportedModelError: they meet by where they stand, or where no attention follows.
        """
        name = type(self.adapter.model).__name__
        if idle.max() > MUCH * busy.median() and idle.min() < 1e-3 * busy.median():
            raise UnsupportedModelError(
                f"what the attention of {name} gives to some tokens reaches others by {where}: a convolution lies "
                f"there, or somebody's hook or method moves tokens. A map would show it where it does not belong"
            )
        if where == END:
            raise UnsupportedModelError(
                f"the tokens of {name} meet once more after its last attention, before the end of the last block, as "
                f"where a hook or a replaced module mixes them: which of them the score is read from is not known"
            )
        self.mixed = self.index
        raise EnoughError


def _signs(count: int) -> Tensor:
    """1 or -1 for each token, so that changes of tokens of one kind do not add up in a mean over them."""
    return 2.0 * torch.randint(2, (count,), generator=torch.Generator().manual_seed(0)) - 1


def _digits(count: int) -> Tensor:
    """Of each token's number, bool (DIGITS, tokens); none is 0."""
    numbers = 1 + torch.arange(count) * STRIDE % (2**DIGITS - 1)
    return (numbers >> torch.arange(DIGITS)[:, None] & 1).bool()


def tokens_stay(adapter: Adapter, inputs: Inputs, place: Place) -> bool:
    """Whether tokens meet in attention alone.

    Raises:
        TokenLayoutError: they do not stay where they are.
    """
    copies = inputs.copies(1 + DIGITS)
    meeting, start = False, 0
    while True:
        tap = TrunkTap(adapter, copies, place, start)
        with ExitStack() as stack:
            for block in list(adapter.blocks().values())[:1]:
                hook = changed_argument(partial(getattr, tap, "active"), None, tap.enter)
                stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for block in list(adapter.blocks().values())[-1:]:
                stack.callback(block.register_forward_hook(tap.look_at_end, prepend=True).remove)
            run_until_enough(tap)
        if tap.mixed is None:
            return not meeting
        meeting, start = True, tap.mixed
