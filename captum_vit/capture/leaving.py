"""Two ways to run a model with some of its tokens left out.

- `Entering`: only the chosen tokens go into the first block; the others are not there, and cost nothing.
- `Unseen`: all go in, and no attention sees the others, so that what becomes of them is of no matter. It serves where
  blocks do not take a part of the tokens, as with a table of relative positions, or a mask over all tokens.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, AttentionCall, Grid, Readout, TokenLayout
from ..errors import UnsupportedModelError
from ..targets import Output
from .chosen import Chosen
from .few import changed_argument
from .head import last_read
from .inputs import Inputs
from .interrupts import INTERRUPTS
from .scopes import Attention
from .still import InOwnOrder
from .streams import stream_of, with_stream
from .tap import Tap
from .untouched import untouched

_chosen: ContextVar[Chosen | None] = ContextVar("captum_vit_chosen_tokens", default=None)


class Way(Protocol):
    """A way to leave tokens out."""

    def listening(self, inputs: Inputs, chosen: Chosen) -> AbstractContextManager[None]:
        """Hooks in place for one forward; at the end it is sure that they did what they had to.

        Raises:
            UnsupportedModelError: they did not.
        """


def run(adapter: Adapter, way: Way, inputs: Inputs, chosen: Chosen) -> Output:
    """One forward without the tokens that are not chosen, of as many images as there are rows."""
    with untouched(adapter), torch.no_grad(), way.listening(inputs, chosen):
        INTERRUPTS.let_through(sys._getframe())
        raw = inputs.run(adapter)
        scores = inputs.scores(adapter, raw)
    if len(scores) != len(chosen.patches):
        raise UnsupportedModelError(f"of {len(chosen.patches)} rows it gives {len(scores)} scores")
    return Output(raw, scores, adapter.headless)


class Entering:
    """Only the chosen tokens go into the first block.

    Raises:
        UnsupportedModelError: it is not known which block that is.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        first = adapter.first_block or next(iter(adapter.blocks().values()), None)
        if first is None:
            raise UnsupportedModelError("no block is known into which all of them go")
        self.first = first

    @contextmanager
    def listening(self, inputs: Inputs, chosen: Chosen) -> Iterator[None]:
        """See `Way`."""
        entered: list[nn.Module] = []

        def enter(stream: Tensor) -> Tensor:
            entered.append(self.first)
            first = self.adapter.tokens_first
            stream = chosen.of_stream(stream.transpose(0, 1) if first else stream)
            return stream.transpose(0, 1) if first else stream

        def listened() -> bool:
            return _chosen.get() is chosen

        token = _chosen.set(chosen)
        try:
            with ExitStack() as stack:
                for block, name in self.adapter.patch_arguments().items():
                    hook = changed_argument(listened, name, chosen.of_rows)
                    stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
                hook = changed_argument(listened, None, enter)
                stack.callback(self.first.register_forward_pre_hook(hook, with_kwargs=True).remove)
                stack.enter_context(InOwnOrder())  # the layout is that of a forward under a tap
                yield
        finally:
            _chosen.reset(token)
        if len(entered) != 1:
            raise UnsupportedModelError(f"its first block ran {len(entered)} times")


class Unseen:
    """All tokens go into the blocks, and attention is computed over the keys that are chosen.

    Args:
        adapter, layout: the model, and where its tokens lie.
        readout: the tokens that the score is read from. Where these are patches, only the chosen ones leave the last
            block, unless an attention pool reads them.
        noise: what is added to that which attention gives to the others, times its spread: so that it shows whether
            anything of them is seen.
    Raises:
        UnsupportedModelError: it is not known where the patches that are read go out.
    """

    def __init__(self, adapter: Adapter, layout: TokenLayout, readout: Readout, noise: float = 0.0) -> None:
        self.adapter, self.layout, self.noise = adapter, layout, noise
        self.last: nn.Module | None = None
        if readout.patches and not readout.latents:
            self.last = adapter.blocks()[last_read(adapter, readout)] if adapter.blocks() else None
            if self.last is None:
                raise UnsupportedModelError("no block is known out of which the patches go that are read")

    @contextmanager
    def listening(self, inputs: Inputs, chosen: Chosen) -> Iterator[None]:
        """See `Way`."""
        tap = UnseenTap(self.adapter, inputs, self.layout, chosen, self.noise)
        left: list[nn.Module] = []

        def leave(module: nn.Module, args: tuple, output: Any) -> Any:
            if not tap.active:
                return None
            left.append(module)
            return with_stream(self.adapter, output, chosen.of_stream(stream_of(self.adapter, output)))

        with tap.listening(), ExitStack() as stack:
            if self.last is not None:
                stack.callback(self.last.register_forward_hook(leave).remove)
            yield
        if len(left) != (self.last is not None):
            raise UnsupportedModelError(f"its last block ran {len(left)} times")


class UnseenTap(Tap):
    """A forward whose attention has the chosen tokens for its keys, and no others."""

    def __init__(
        self, adapter: Adapter, inputs: Inputs, layout: TokenLayout, chosen: Chosen, noise: float = 0.0
    ) -> None:
        super().__init__(adapter, inputs, layout.readout)
        self.full, self.chosen, self.noise = layout, chosen, noise
        self.draw = torch.Generator().manual_seed(0)

    def _set_layout(self, size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        self._layout = self.full
        return self._layout

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        if call.batch != len(self.chosen.patches):
            raise UnsupportedModelError(f"of {len(self.chosen.patches)} rows {call.batch} reach layer {call.name}")
        if call.layout.grid != self.full.grid:
            raise UnsupportedModelError(f"patches are pooled on the way to layer {call.name}")
        prefix, patches = call.layout.prefix, self.chosen.patches.to(call.v.device)
        keys = torch.cat([torch.arange(prefix, device=patches.device).expand(len(patches), -1), patches + prefix], 1)
        if not keys.shape[1]:  # nothing is kept of the queries either
            return torch.zeros_like(run(lambda x: x))
        v = ops.widen(_keys(call.v.mT, keys).mT)  # (R, H, k, d)
        parts = []
        for rows in call.parts(range(call.queries)):
            weights = _keys(call.scores(rows), keys).softmax(-1)
            with ops.full_precision(v.device):
                weights = weights if call.mix is None else call.mix(weights, rows)
                parts.append(weights @ v)
        out = torch.cat(parts, 2).to(call.v.dtype)
        if self.noise and not call.layout.cross and call.queries == call.layout.keys:
            noise = torch.randn(out.shape, generator=self.draw).to(out) * out.std() * self.noise
            own = keys[:, None, :, None].expand(-1, call.heads, -1, out.shape[-1])
            out = out + noise.scatter(2, own, 0.0)
        return out


def _keys(x: Tensor, keys: Tensor) -> Tensor:
    """Some of the last axis of (R, H, M, N), of each row its own, (R, k)."""
    return x.gather(-1, keys[:, None, None].expand(*x.shape[:3], -1))
