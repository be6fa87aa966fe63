"""Attention Guided CAM."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..access import AttentionCall
from ..capture import HELD_GRADIENTS, READ_ATTENTION, VALUES, Run
from ..targets import Target
from .base import ViTAttribution

TARGETS_AT_ONCE = 512


class AGCAM(ViTAttribution):
    """Attention Guided CAM: gradients of the score at the attention, guided by the attention itself.

    >>> AGCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    sum_l sum_h sum_i relu(dy/dA_lh[i, patches]) * sigmoid(S_lh[i, patches]) over the rows i that the score is read
    from, where gradients flow through skip connections and MLPs only: every attention layer's input is a constant. An
    attention pool has no skip connection: there queries and keys are constants, and gradients pass its values to the
    tokens, as they pass a mean over them.

    Where the score is read from prefix tokens, that gradient lives on them alone, and after one forward the model is
    run again on these few tokens instead of backwards through all.

    Source: Leem & Seo 2024, "Attention Guided CAM: Visual Explanations of Vision Transformer Guided by
        Self-Attention" (arXiv:2402.04563).
    """

    name, title = "agcam", "AGCAM"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({READ_ATTENTION, VALUES, HELD_GRADIENTS})
    of_words = True
    weighs = False
    paper = "arXiv:2402.04563"

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        names = self.layers_read(run.readout)
        gradients = run.held_gradients(target, names)
        calls = run.calls(names, {READ_ATTENTION, VALUES})
        maps = torch.stack([_guided(calls[name], gradients[name]) for name in names], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)

    def _class_maps(self, run: Run, targets: Sequence[Target], *, flow: bool, **options: Any) -> Iterator[Tensor]:
        names = self.layers_read(run.readout)
        at_once = _fitting(list(run.calls(names, {READ_ATTENTION, VALUES}).values()))
        for first in range(0, len(targets), at_once):
            gradients = run.held_gradients_of(targets[first : first + at_once], names)
            calls = run.calls(names, {READ_ATTENTION, VALUES})
            maps = torch.stack([_guided_by_several(calls[name], gradients[name]) for name in names], 2)
            yield maps.cumsum(2) if flow else maps.sum(2, keepdim=True)


def _fitting(calls: Sequence[AttentionCall]) -> int:
    """How many targets' gradients at the attention are held at once."""
    attention = max(len(c.layout.read_rows) * c.layout.keys * c.heads * c.batch for c in calls)
    fits = 4 * ops.CHUNK_ELEMENTS // max(attention, sum(c.out.numel() for c in calls), 1)
    return min(max(fits, 1), TARGETS_AT_ONCE)


def _guided(call: AttentionCall, gradient: Tensor) -> Tensor:
    """relu(dy/dA) * sigmoid(S) summed over heads and readout rows: (B, patches)."""
    maps = [
        (call.weight_grad(rows, gradient).relu() * call.scores(rows).sigmoid()).sum((1, 2))
        for rows in call.parts(call.layout.read_rows)
    ]
    return call.layout.to_map(torch.stack(maps).sum(0))


def _guided_by_several(call: AttentionCall, gradients: Tensor) -> Tensor:
    """The same for gradients of several targets, (K, B, H, M, d): (K, B, patches); targets stand where rows would."""
    rows = call.layout.read_rows
    chosen = gradients[:, :, :, rows].permute(1, 2, 0, 3, 4)  # (B, H, K, R, d)
    pulled = call.weight_grad(slice(None), chosen.flatten(2, 3)).unflatten(2, chosen.shape[2:4]).relu()
    gate = call.scores(rows).sigmoid().unsqueeze(2)  # (B, H, 1, R, N)
    return call.layout.to_map((pulled * gate).sum((1, 3))).transpose(0, 1)
