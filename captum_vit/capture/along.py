"""Gradients along the path from a black image to the one that is explained."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..targets import Target
from .backward import Backward, check_alike
from .forward import Forward, check_reached
from .keeping import Keeping
from .needs import GRADIENTS, OUTPUTS
from .untouched import untouched

Asked = tuple[tuple[Target, ...], str, int]


class Along(Backward):
    """What a run knows of the model on the way to its images: the mean of it, kept for the newest targets."""

    def __init__(self, kept: Keeping, once: bool) -> None:
        super().__init__(kept, once)
        self._along: tuple[Asked, Tensor] | None = None

    def path_gradients(self, targets: Sequence[Target], layer: str, steps: int) -> Tensor:
        """The mean over alpha of dy(alpha x)/dA of one layer, at the R queries that are read, (K, B, H, R, N).

        alpha takes `steps` values, evenly from 0 to 1 with both ends; x are the images as the model is given them, so
        that 0 is an image of the colour that is subtracted. Each step is one forward, and a backward a target from the
        score to that layer.

        Raises:
            UnsupportedModelError: no gradient reaches the layer.
        """
        self.kept.check_no_graph("a mean over forwards of darkened images, each without a graph,")
        asked = (tuple(targets), layer, steps)
        if self._along is None or not _same(asked, self._along[0]):
            self._along = None  # before the next ones are there
            self._along = asked, self._mean(targets, layer, steps)
        return self._along[1]

    @torch.no_grad()
    def _mean(self, targets: Sequence[Target], layer: str, steps: int) -> Tensor:
        self.kept.forward(())  # which shows whether hooks only listen, and is compared with a plain call
        check_alike(self.kept, targets)
        total: Tensor | None = None
        for alpha in torch.linspace(0, 1, steps, dtype=torch.float64).tolist():
            found = self._step(alpha, targets, layer)
            total = found if total is None else total.add_(found)
        if total is None:
            raise ValueError("a path has at least one step")
        return total.div_(steps)

    def _step(self, alpha: float, targets: Sequence[Target], layer: str) -> Tensor:
        outputs = set() if all(target.reads_scores for target in targets) else {OUTPUTS}
        scaled = self.kept.beside(self.inputs.images * alpha, {GRADIENTS, *outputs}, [layer])
        with untouched(scaled.adapter):
            forward = scaled.forward({GRADIENTS, *outputs})
            found = [
                self._of_weights(forward, target, layer, retain=number < len(targets))
                for number, target in enumerate(targets, 1)
            ]
        return torch.stack(found)

    def _of_weights(self, forward: Forward, target: Target, layer: str, *, retain: bool) -> Tensor:
        call = forward.calls.get(layer)
        if call is None:
            raise UnsupportedModelError(f"the attention of layer {layer!r} did not run for darkened images")
        (gradient,) = forward.gradients(target, [call.out], retain=retain)
        check_reached(self.adapter, {layer: gradient}, [layer])
        gradient = torch.zeros_like(call.out) if gradient is None else gradient
        return call.weight_grad(call.layout.read_rows, gradient)


def _same(asked: Asked, known: Asked) -> bool:
    """Whether these are the very targets, in the same layer and as many steps."""
    (targets, *rest), (others, *known_rest) = asked, known
    return (
        rest == known_rest and len(targets) == len(others) and all(a is b for a, b in zip(targets, others, strict=True))
    )
