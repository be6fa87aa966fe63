"""Attention rollout, with and without gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..access import AttentionCall, LayerLayout, TokenLayout
from ..capture.running import Inputs, differentiate, record
from ..capture.shelf import Shelf
from .base import GradientViTAttribution, ViTAttribution

FusedRows = Callable[[AttentionCall, slice], Tensor]  # rows of a layer's fused matrix F_l, (B, R, N)


class AttentionRollout(ViTAttribution):
    """Attention multiplied through the layers, with the skip connections as identity.

    F_l = heads of A_l fused; the lowest entries of each image discarded; the map is the readout row of
    rownorm((F_L + I) / 2) ... rownorm((F_1 + I) / 2).

    Options of `attribute`:
        fusion: how the heads are fused, "mean" (default), "max" or "min".
        discard_ratio: share of the N*N entries of each F_l that is set to 0, the lowest ones, in [0, 1), by default
            0; entry [0, 0] never is. Above 0 one N x N matrix an image is held at a time.

    Source: Abnar & Zuidema 2020 (arXiv:2005.00928), section 3; max and min fusion and the discard after Gildenblat's
        vit-explain, with the rows divided by their own sums.
    """

    class_specific = False
    multiplies_layers = True

    def _maps(
        self, inputs: Inputs, target: Any, *, flow: bool, fusion: str = "mean", discard_ratio: float = 0.0
    ) -> tuple[Tensor, TokenLayout]:
        ops.check_fusion(fusion)
        ops.check_ratio(discard_ratio)
        readout, names = self._read(inputs)
        shelf = Shelf(len(names))

        def keep(call: AttentionCall) -> AttentionCall | None:
            return shelf.put_call(call, "q", "k") if call.name in names else None

        def fused(call: AttentionCall, rows: slice) -> Tensor:
            return ops.fuse_heads(call.weights(rows), fusion)

        recording = record(self.adapter, inputs, keep, readout)
        calls = [call for call in recording.kept.values() if call is not None]
        maps = _roll(calls, fused, flow=flow, discard_ratio=discard_ratio, keep_first=True)
        return maps, recording.layout


class GradientRollout(GradientViTAttribution):
    """Attention rollout weighted by the gradient of the target's score.

    F_l = relu(mean_h(A_h * dy_c/dA_h)) with full gradients; the map is the readout row of
    rownorm((F_L + I) / 2) ... rownorm((F_1 + I) / 2).

    Options of `attribute`:
        discard_ratio: share of the N*N entries of each F_l that is set to 0, the lowest ones, in [0, 1), by default
            0.9.

    Source: Abnar & Zuidema 2020 (arXiv:2005.00928), with gradients after Gildenblat's vit-explain.
    """

    multiplies_layers = True

    def _maps(
        self, inputs: Inputs, target: Any, *, flow: bool, discard_ratio: float = 0.9
    ) -> tuple[Tensor, TokenLayout]:
        ops.check_ratio(discard_ratio)
        readout, names = self._read(inputs)
        run = differentiate(self.adapter, inputs, names, readout)
        gradients = run.gradients(self._score(target))

        def fused(call: AttentionCall, rows: slice) -> Tensor:
            return (call.weights(rows) * call.weight_grad(rows, gradients[call.name])).mean(1).relu()

        calls = list(run.calls.values())
        maps = _roll(calls, fused, flow=flow, discard_ratio=discard_ratio, keep_first=False)
        return maps, run.layout


def _roll(
    calls: list[AttentionCall], fused: FusedRows, *, flow: bool, discard_ratio: float, keep_first: bool
) -> Tensor:
    """The readout carried from the last layer down, (B, 1, patches); for a flow, one that starts at each layer in
    which the score is read."""
    state = torch.empty(0)
    for call in reversed(calls):
        layout = call.layout
        start = layout.start.to(ops.widen(call.k)).expand(len(call.k), 1, -1)
        if call is calls[-1]:
            state = start
        else:
            state = _with_prefix(state, layout)
            state = torch.cat([start, state], 1) if flow and layout.read_rows else state
        queries = len(layout.share)
        state = ops.rollout_step(
            state,
            partial(fused, call),
            call.heads,
            queries,
            layout.keys,
            discard_ratio,
            keep_first=keep_first and layout.skip,
            skip=layout.skip,
        )
    return calls[0].layout.to_map(state)


def _with_prefix(state: Tensor, layout: LayerLayout) -> Tensor:
    """Row vectors over another layer's tokens, for this one's: tokens that are not here yet, or not read, get 0."""
    return F.pad(state, (layout.keys - state.shape[2], 0))  # negative: cut
