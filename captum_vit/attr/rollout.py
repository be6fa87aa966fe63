"""Attention rollout, with and without gradients."""

from typing import Literal

from torch import Tensor

from .. import ops
from ..access import AttentionCall
from ..capture import ATTENTION, GRADIENTS, VALUES, Run
from ..targets import Target
from .base import ViTAttribution
from .carrying import Step, carried

Fusion = Literal["mean", "max", "min"]


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
        step = Step(fused, discard_ratio, keep_first=True)
        return calls[0].layout.to_map(carried(calls, step, flow=flow))


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
        return calls[0].layout.to_map(carried(calls, Step(fused, discard_ratio), flow=flow))
