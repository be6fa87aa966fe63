"""Attention rollout, with and without gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..access import AttentionCall, LayerLayout
from ..capture import ATTENTION, GRADIENTS, VALUES, Run
from ..targets import Target
from .base import ViTAttribution

Fusion = Literal["mean", "max", "min"]
FusedRows = Callable[[AttentionCall, slice], Tensor]  # rows of a layer's fused matrix F_l, (B, R, N)


class AttentionRollout(ViTAttribution):
    """Attention multiplied through the layers, with the skip connections as identity.

    >>> AttentionRollout(model).attribute(images, fusion="max", discard_ratio=0.9).shape
    torch.Size([2, 1, 14, 14])

    F_l = heads of A_l fused; the lowest entries of each image discarded; the map is the readout row of
    rownorm((F_L + I) / 2) ... rownorm((F_1 + I) / 2).

    Options of `attribute`:
        fusion: how the heads are fused, "mean" (default), "max" or "min".
        discard_ratio: share of the N*N entries of each F_l that is set to 0, the lowest ones, in [0, 1), by default
            0; entry [0, 0] never is. Above 0 one N x N matrix an image is held at a time.

    Source: Abnar & Zuidema 2020 (arXiv:2005.00928), section 3; max and min fusion and the discard after Gildenblat's
        vit-explain, with the rows divided by their own sums.
    """

    name, title = "rollout", "attention rollout"
    class_specific, signed, unit = False, False, "attention"
    needs = frozenset({ATTENTION})
    multiplies_layers = True
    paper = "arXiv:2005.00928"

    def _maps(
        self, run: Run, target: Target, *, flow: bool, fusion: Fusion = "mean", discard_ratio: float = 0.0
    ) -> Tensor:
        ops.check_fusion(fusion)
        ops.check_ratio(discard_ratio)

        def fused(call: AttentionCall, rows: slice) -> Tensor:
            return ops.fuse_heads(call.weights(rows), fusion)

        calls = list(run.calls(self.layers_read(run.readout), {ATTENTION}).values())
        return _roll(calls, fused, flow=flow, discard_ratio=discard_ratio, keep_first=True)


class GradientRollout(ViTAttribution):
    """Attention rollout weighted by the gradient of the target's score.

    >>> GradientRollout(model).attribute(images, target=281, discard_ratio=0.9).shape
    torch.Size([2, 1, 14, 14])

    F_l = relu(mean_h(A_h * dy/dA_h)) with full gradients; the map is the readout row of
    rownorm((F_L + I) / 2) ... rownorm((F_1 + I) / 2).

    Options of `attribute`:
        discard_ratio: share of the N*N entries of each F_l that is set to 0, the lowest ones, in [0, 1), by default
            0.9.

    Source: Abnar & Zuidema 2020 (arXiv:2005.00928), with gradients after Gildenblat's vit-explain.
    """

    name, title = "gradient_rollout", "gradient rollout"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({ATTENTION, VALUES, GRADIENTS})
    multiplies_layers = True
    paper = "arXiv:2005.00928"

    def _maps(self, run: Run, target: Target, *, flow: bool, discard_ratio: float = 0.9) -> Tensor:
        ops.check_ratio(discard_ratio)
        names = self.layers_read(run.readout)
        gradients = run.gradients(target, names)

        def fused(call: AttentionCall, rows: slice) -> Tensor:
            return (call.weights(rows) * call.weight_grad(rows, gradients[call.name])).mean(1).relu()

        calls = list(run.calls(names, {ATTENTION, VALUES}).values())
        return _roll(calls, fused, flow=flow, discard_ratio=discard_ratio, keep_first=False)


def _roll(
    calls: Sequence[AttentionCall], fused: FusedRows, *, flow: bool, discard_ratio: float, keep_first: bool
) -> Tensor:
    """The readout carried from the last layer down, (B, 1, patches); for a flow, one row that starts at each layer in
    which the score is read."""
    tokens, latents = None, None  # rows over the image's tokens, and over the queries of cross-attention
    for call in reversed(calls):
        layout = call.layout
        layout.check_weighed()
        start = (layout.mass * layout.start).to(ops.widen(call.out)).expand(call.batch, 1, -1)
        if layout.cross:
            latents = _joined(start, latents, layout, flow)
            read, latents = _through_cross(call, latents, fused, discard_ratio)
            below = F.pad(tokens, (0, 0, read.shape[1] - tokens.shape[1], 0)) if tokens is not None else 0
            tokens = read + below
            continue
        tokens = _joined(start, None if tokens is None else _with_prefix(tokens, layout), layout, flow)
        tokens = ops.rollout_step(
            tokens,
            partial(fused, call),
            call.heads,
            len(layout.share),
            layout.keys,
            discard_ratio,
            keep_first=keep_first,
        )
        latents = latents if latents is None else F.pad(latents, (0, 0, tokens.shape[1] - latents.shape[1], 0))
    assert tokens is not None
    return calls[0].layout.to_map(tokens)


def _joined(start: Tensor, state: Tensor | None, layout: LayerLayout, flow: bool) -> Tensor:
    """What came down so far, and for a flow what starts here, before it."""
    if state is None:
        return start
    if layout.direct is not None:
        state = state + layout.direct.to(state)  # of a head that reads several depths
    return torch.cat([start, state], 1) if flow and layout.read_rows else state


def _through_cross(
    call: AttentionCall, state: Tensor, fused: FusedRows, discard_ratio: float
) -> tuple[Tensor, Tensor | None]:
    """Rows over the queries of cross-attention, carried to the tokens and, past it, to the queries before it.

    With a skip connection the layer's matrix is [F | I], over tokens and queries together.
    """
    queries, keys = len(call.layout.share), call.layout.keys
    if not call.layout.skip:
        carried = ops.rollout_step(
            state, partial(fused, call), call.heads, queries, keys, discard_ratio, keep_first=False, skip=False
        )
        return carried, torch.zeros_like(state)  # nothing passes it
    chunks = ops.row_chunks(queries, keys, len(state) * call.heads)
    whole = torch.cat([fused(call, rows) for rows in chunks], 1)  # of few queries
    whole = ops.discard_lowest(whole, discard_ratio, keep_first=False)

    def with_identity(rows: slice) -> Tensor:
        eye = torch.eye(queries, device=whole.device, dtype=whole.dtype)[rows]
        return torch.cat([whole[:, rows], eye.expand(len(whole), -1, -1)], -1)

    carried = ops.rollout_step(state, with_identity, call.heads, queries, keys + queries, skip=False)
    return carried[..., :keys], carried[..., keys:]


def _with_prefix(state: Tensor, layout: LayerLayout) -> Tensor:
    """Row vectors over another layer's tokens, for this one's: tokens that are not here yet, or not read, get 0."""
    return F.pad(state, (layout.keys - state.shape[2], 0))  # negative: cut
