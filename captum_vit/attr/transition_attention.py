"""Transition attention maps."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from ..access import AttentionCall
from ..capture import Run
from ..targets import Target
from .carrying import Step
from .path_weighted import PathWeighted


class TransitionAttention(PathWeighted):
    """Transition attention maps: attention passed on from layer to layer as a Markov chain, weighted by the score.

    >>> TransitionAttention(model).attribute(images, target=281, start_layer=4).shape
    torch.Size([2, 1, 14, 14])

    The state begins as the last attention of the readout, s = mean_h A_L[readout], and takes up every layer below,
    s <- s + s mean_h A_l, down to `start_layer`. The map is s * W with W = mean_h relu(mean over alpha of
    dy(alpha x)/dA_L[readout]), integrated gradients of the score at the last attention.

    Options of `attribute`:
        start_layer: the lowest layer that takes part, counted from 0 as the authors do, or from the end; by default a
            third of the layers up, which is their 4 of 12.
        steps: how many images from black to the given one the gradient is taken at, by default 20, each a forward.

    Source: Yuan, Li, Xiong, Xu & Dou 2021, "Explaining Information Flow Inside Vision Transformers Using Markov Chain"
        (NeurIPS 2021 workshop on explainable AI).
    """

    name, title = "transition_attention", "transition attention"
    class_specific, signed, unit = True, False, "evidence"
    paper = "NeurIPS 2021 workshop on explainable AI for debugging"
    alone = True

    @classmethod
    def first_layer(cls, count: int, **options: Any) -> int:
        """A third of the layers up."""
        return 4 * count // 12

    def _step(
        self, run: Run, target: Target, calls: Sequence[AttentionCall], passed: Collection[str], **options: Any
    ) -> Step:
        return Step(lambda call, rows: call.weights(rows).mean(1), normalised=False, passed=passed)

    def _maps(self, run: Run, target: Target, *, flow: bool, start_layer: int | None = None, steps: int = 20) -> Tensor:
        return self._weighted(run, target, flow=flow, start_layer=start_layer, steps=steps)
