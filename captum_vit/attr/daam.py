"""Dynamic Accumulated Attention Map."""

import torch
from torch import Tensor

from ..access import AttentionCall
from ..capture import ATTENTION, GRADIENTS, VALUES, Run
from ..targets import FeatureImportance, Target
from .base import ViTAttribution


class DAAM(ViTAttribution):
    """Dynamic Accumulated Attention Map: how the map of a class builds up from block to block.

    >>> DAAM(model).attribute_flow(images, target=281).shape
    torch.Size([2, 12, 14, 14])

    Block l contributes relu(sum_i sum_k relu(dy/dO_l[i, k]) * A_l[i, j] * v_l[j, k]) to patch j, over the rows i that
    the score is read from and the channels k of all heads, with full gradients; the map is the sum over the blocks. Of
    a self-supervised model the target is a `FeatureImportance`: the score is <f, w> for the feature f, and the
    gradient is not rectified.

    Source: "Dynamic Accumulated Attention Map for Interpreting Evolution of Decision-Making in Vision Transformer"
        (arXiv:2503.14640), supervised and self-supervised.
    """

    name, title = "daam", "DAAM"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({ATTENTION, VALUES, GRADIENTS})
    paper = "arXiv:2503.14640"

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        names = self.layers_read(run.readout)
        gradients = run.gradients(target, names)
        calls = run.calls(names, {ATTENTION, VALUES})
        rectified = not isinstance(target, FeatureImportance)
        maps = torch.stack([_block_map(calls[name], gradients[name], rectified) for name in names], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)


def _block_map(call: AttentionCall, gradient: Tensor, rectified: bool) -> Tensor:
    """relu of the patches' weighted values: (B, patches)."""
    gradient = gradient.relu() if rectified else gradient
    maps = [
        (call.weights(rows) * call.weight_grad(rows, gradient)).sum((1, 2))
        for rows in call.parts(call.layout.read_rows)
    ]
    return call.layout.to_map(torch.stack(maps).sum(0).relu())
