"""Rows over the tokens, carried from the last layer down to the image, as rollouts and relevances multiply layers."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..access import AttentionCall, LayerLayout, Readout
from ..errors import OptionError, brief

FusedRows = Callable[[AttentionCall, slice], Tensor]  # rows of a layer's fused matrix F_l, (B, R, N)
Start = Callable[[AttentionCall], Tensor]  # rows that begin at a layer, over its keys; of cross-attention its queries


@dataclass(frozen=True)
class Step:
    """What a layer does to a row that passes it: `r <- r rownorm(F + I)`, and without the norm `r <- r (F + I)`.

    discard_ratio: share of the entries of F that is set to 0, the lowest ones.
    keep_first: whether entry [0, 0] is exempt from it.
    normalised: whether the rows of F + I are divided by their sums.
    passed: names of the layers that leave the rows as they are.
    """

    fused: FusedRows
    discard_ratio: float = 0.0
    keep_first: bool = False
    normalised: bool = True
    passed: Collection[str] = ()

    def __call__(self, rows: Tensor, call: AttentionCall) -> Tensor:
        """Rows over the tokens, (B, V, N), through self-attention."""
        if call.name in self.passed:
            return rows
        queries, keys = len(call.layout.share), call.layout.keys
        return ops.rollout_step(
            rows,
            partial(self.fused, call),
            call.heads,
            queries,
            keys,
            self.discard_ratio,
            keep_first=self.keep_first,
            normalised=self.normalised,
        )

    def alone(self, rows: Tensor, call: AttentionCall) -> Tensor:
        """`r <- r F` of self-attention, whatever else the step does."""
        queries, keys = len(call.layout.share), call.layout.keys
        fused = partial(self.fused, call)
        return ops.rollout_step(
            rows[..., :queries], fused, call.heads, queries, keys, skip=False, normalised=self.normalised
        )

    def across(self, rows: Tensor, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Rows over the queries of cross-attention, carried to the tokens and, past it, to the queries before it.

        With a skip connection the layer's matrix is [F | I], over tokens and queries together.
        """
        queries, keys = len(call.layout.share), call.layout.keys
        through = partial(ops.rollout_step, heads=call.heads, queries=queries, skip=False, normalised=self.normalised)
        if call.name in self.passed:
            return rows.new_zeros(*rows.shape[:2], keys), rows if call.layout.skip else torch.zeros_like(rows)
        if not call.layout.skip:
            fused = partial(self.fused, call)
            carried = through(rows, fused, keys=keys, discard_ratio=self.discard_ratio, keep_first=False)
            return carried, torch.zeros_like(rows)  # nothing passes it
        chunks = ops.row_chunks(queries, keys, len(rows) * call.heads)
        whole = torch.cat([self.fused(call, part) for part in chunks], 1)  # of few queries
        whole = ops.discard_lowest(whole, self.discard_ratio, keep_first=False)

        def with_identity(part: slice) -> Tensor:
            eye = torch.eye(queries, device=whole.device, dtype=whole.dtype)[part]
            return torch.cat([whole[:, part], eye.expand(len(whole), -1, -1)], -1)

        carried = through(rows, with_identity, keys=keys + queries)
        return carried[..., :keys], carried[..., keys:]


def readout_row(call: AttentionCall) -> Tensor:
    """What each token that comes out of a layer contributes to the score, (B, 1, N).

    Raises:
        UnsupportedModelError: that is not known.
    """
    call.layout.check_weighed()
    return (call.layout.mass * call.layout.start).to(ops.widen(call.out)).expand(call.batch, 1, -1)


def carried(
    calls: Sequence[AttentionCall], step: Step, *, flow: bool, start: Start = readout_row, alone: bool = False
) -> Tensor:
    """The rows that start at the last layer, carried down to the tokens that come in, (B, V, N).

    For a flow, those that start at each layer in which the score is read stand one after another, the first layer's
    first.

    alone: whether a row passes the layer that it starts at by its attention alone, without the identity.
    """
    tokens, latents = None, None  # rows over the image's tokens, and over the queries of cross-attention
    for call in reversed(calls):
        layout, begun = call.layout, start(call)
        if layout.cross:
            older = 0 if latents is None else latents.shape[1]
            latents = _joined(begun, latents, layout, flow)
            read, latents = step.across(latents, call)
            if alone:
                fresh = latents.shape[1] - older
                latents = torch.cat([torch.zeros_like(latents[:, :fresh]), latents[:, fresh:]], 1)
            below = F.pad(tokens, (0, 0, read.shape[1] - tokens.shape[1], 0)) if tokens is not None else 0
            tokens = read + below
            continue
        tokens = None if tokens is None else _with_prefix(tokens, layout)
        if alone:
            passed = None if tokens is None else step(tokens, call)
            begun = step.alone(begun, call) if passed is None or flow else begun
            tokens = _joined(begun, passed, layout, flow)
        else:
            tokens = step(_joined(begun, tokens, layout, flow), call)
        latents = latents if latents is None else F.pad(latents, (0, 0, tokens.shape[1] - latents.shape[1], 0))
    assert tokens is not None
    return tokens


def layers_from(names: Sequence[str], start_layer: int) -> list[str]:
    """The layers from `start_layer` on, an index that may count from the end.

    Raises:
        OptionError: there is no such layer.
    """
    count = len(names)
    if isinstance(start_layer, bool) or not isinstance(start_layer, int) or not -count <= start_layer < count:
        raise OptionError(
            f"start_layer is the index of one of the {count} attention layers that are read, from 0, or from -1 "
            f"backwards, got {brief(start_layer)}"
        )
    return list(names[start_layer:])


def read_below(readout: Readout, names: Collection[str]) -> bool:
    """Whether the score is also read right after one of these layers, as by a head that reads several depths."""
    return readout.shares is not None and any(bool(readout.shares[name].any()) for name in names)


def _joined(begun: Tensor, state: Tensor | None, layout: LayerLayout, flow: bool) -> Tensor:
    """What came down so far, and for a flow what starts here, before it."""
    if state is None:
        return begun
    if layout.direct is not None:
        state = state + layout.direct.to(state)  # of a head that reads several depths
    return torch.cat([begun, state], 1) if flow and layout.read_rows else state


def _with_prefix(state: Tensor, layout: LayerLayout) -> Tensor:
    """Row vectors over another layer's tokens, for this one's: tokens that are not here yet, or not read, get 0."""
    return F.pad(state, (layout.keys - state.shape[2], 0))  # negative: cut
