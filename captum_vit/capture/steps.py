"""An attention between its projections, computed step by step by the layer itself."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, AttentionCall, Projections
from ..errors import LayerNotRecordedError, UnsupportedModelError

CHECKED_ROWS = (0, -1)


class Listener(Protocol):
    """What hands an attention on: a tap."""

    adapter: Adapter
    found: bool
    scope: list[list[str | None]]

    @property
    def layer(self) -> str | None:
        """The innermost layer."""

    @property
    def active(self) -> bool:
        """Whether it listens to the current context."""

    def call(self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> AttentionCall:
        """The attention that the innermost layer is about to compute."""

    def in_order(self, call: AttentionCall, run: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        """Its output (B, H, M, d)."""


def listen_to_steps(tap: Listener, stack: ExitStack) -> None:
    """Hooks at the projections of every layer that its adapter names, until the stack ends."""
    for projections in tap.adapter.projections().values():
        Steps(tap, projections).listen(stack)


class Steps:
    """The hooks of one layer: they hold what its projections gave until its output is there."""

    def __init__(self, tap: Listener, projections: Projections) -> None:
        self.tap, self.projections = tap, projections
        self.projected: dict[int, Tensor] = {}

    def listen(self, stack: ExitStack) -> None:
        """Register the hooks."""
        for index, module in enumerate(self.projections.inputs):
            stack.callback(module.register_forward_hook(self._after_input(index)).remove)
        stack.callback(self.projections.output.register_forward_pre_hook(self._before_output).remove)

    def _after_input(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self.tap.active:
                self.projected[index] = output

        return hook

    def _before_output(self, module: nn.Module, args: tuple) -> tuple | None:
        if not self.tap.active or not self.tap.scope:
            return None
        p, merged, projected = self.projections, args[0], self.projected  # merged: (B, M, H*d)
        self.projected = {}
        if self.tap.found:
            return None
        if len(projected) != len(p.inputs):
            raise LayerNotRecordedError(
                f"layer {self.tap.layer!r} computes its attention without calling the modules that project its "
                f"queries, keys and values, so that these are not seen: call them, not F.linear with their weights"
            )
        q, k, v = p.split(*(projected[index] for index in range(len(p.inputs))))
        call = replace(self.tap.call(q, k, v, p.scale, None), mix=p.mix, mix_scores=p.mix_scores)
        own = merged.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)  # (B, H, M, d)

        def run(hold: Callable[[Tensor], Tensor]) -> Tensor:
            if call.layout.cross:  # of which the values stay in the graph
                raise UnsupportedModelError(f"{call.name}: attention pools computed step by step are not supported")
            self._compare(call, own)
            return own

        out = self.tap.in_order(call, run)
        return (out.transpose(1, 2).flatten(2), *args[1:])

    def _compare(self, call: AttentionCall, own: Tensor) -> None:
        """The layer must compute what it is taken for."""
        if self.tap.adapter.training:
            return  # with dropout
        rows = [row % call.queries for row in CHECKED_ROWS]
        call, own = replace(call, q=call.q.detach(), k=call.k.detach(), v=call.v.detach()), own.detach()
        with torch.no_grad():  # detached all the same, as a graph is built under anybody's no_grad
            expected = call.weights(rows) @ ops.widen(call.v)
            worst = (expected - own[:, :, rows]).abs().max().item()
            size = own.abs().max().item()
            # large scores are rounded by much in half precision, and the softmax takes their difference as an exponent
            rounding = torch.finfo(own.dtype).eps * call.scores(rows).abs().max().item()
        if worst > (0.02 + rounding) * size:
            raise LayerNotRecordedError(
                f"layer {call.name!r} computes something else than softmax(scale q k^T) v between its projections: "
                f"values differ by {worst:.2g}, of at most {size:.2g}"
            )
