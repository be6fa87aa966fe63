"""Dynamic Accumulated Attention Map."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..access import AttentionCall
from ..capture import ATTENTION, GRADIENTS, VALUES, Need, Run, rules_named
from ..checking import check_flag
from ..facts import Facts
from ..targets import FeatureImportance, Target
from .base import ViTAttribution
from .ways import Ways, under


class DAAM(ViTAttribution):
    """Dynamic Accumulated Attention Map: how the map of a class builds up from block to block.

    >>> DAAM(model).attribute_flow(images, target=281).shape
    torch.Size([2, 12, 14, 14])

    Block l contributes relu(sum_i sum_k relu(dy/dO_l[i, k]) * A_l[i, j] * v_l[j, k]) to patch j, over the rows i that
    the score is read from and the channels k of all heads, with full gradients; the map is the sum over the blocks. Of
    a self-supervised model the target is a `FeatureImportance`: the score is <f, w> for the feature f, and the
    gradient is not rectified.

    Options of `attribute`:
        signed: keep what speaks against the target, by default False: neither the gradient nor a block's sum is
            rectified. The map is then linear in the score: that of a contrast is the difference of two maps.
        rules: "none" (default) takes gradients; "cp", "attn" and "libra" take dy/dO_l by what stands in the place of
            derivatives in `CPLRP`, `AttnLRP` and `LibraGrad`. An attention's own weights and values meet as above.

    Source: "Dynamic Accumulated Attention Map for Interpreting Evolution of Decision-Making in Vision Transformer"
        (arXiv:2503.14640), supervised and self-supervised. With both signs
        after Su & Luo 2026, "What Helps - and What Hurts: Bidirectional Explanations for Vision Transformers"
        (arXiv:2603.01605), without their temperature and over all chosen blocks.
    """

    name, title = "daam", "DAAM"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({ATTENTION, VALUES, GRADIENTS})
    weighs = False
    paper = "arXiv:2503.14640"

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        """With the name of the map that has both signs."""
        found = super().facts()
        return replace(found, title=f"{found.title}, signed", signed=True) if options.get("signed") else found

    def needed(self, **options: Any) -> frozenset[Need]:
        """Attention and gradients, or what stands in the place of these."""
        return under(options.get("rules", "none"), self.needs)

    def _maps(self, run: Run, target: Target, *, flow: bool, signed: bool = False, rules: Ways = "none") -> Tensor:
        check_flag("signed", signed)
        run = run.under(rules_named(rules))
        names = self.layers_read(run.readout)
        gradients = run.gradients(target, names)
        calls = run.calls(names, {ATTENTION, VALUES})
        rectified = not (signed or isinstance(target, FeatureImportance))

        def block_map(name: str) -> Tensor:
            gradient = gradients[name].relu() if rectified else gradients[name]
            weighted = _weighted_values(calls[name], gradient)
            return calls[name].layout.to_map(weighted if signed else weighted.relu())

        maps = torch.stack([block_map(name) for name in names], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)


def _weighted_values(call: AttentionCall, gradient: Tensor) -> Tensor:
    """sum_i sum_k dy/dO[i, k] * A[i, j] * v[j, k] over the rows i that are read: (B, N)."""
    maps = [
        (call.weights(rows) * call.weight_grad(rows, gradient)).sum((1, 2))
        for rows in call.parts(call.layout.read_rows)
    ]
    return torch.stack(maps).sum(0)
