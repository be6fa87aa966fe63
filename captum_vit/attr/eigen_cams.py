"""The main direction in which patches differ, as a map."""

import torch
from torch import Tensor

from .. import ops
from ..capture import GIVEN, Run
from ..targets import Target
from .token_cam import TokenCAM


class EigenCAM(TokenCAM):
    """Eigen-CAM on tokens: where the patches lie along the direction in which they differ most.

    >>> EigenCAM(model).attribute(images).shape
    torch.Size([2, 1, 14, 14])

    relu(b v), for the patches b_p = a_p - mean_q a_q of what the last attention is given, see `TokenCAM` for other
    layers, and the first right singular vector v of b (P, D). It depends on no target. The sign of v is not defined: it
    is the one with which the patch that lies farthest out is positive. Where two directions are about as long, or two
    patches about as far out on both sides, the map is unstable.

    Source: Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components" (arXiv:2008.00299);
        with the mean removed, as the program grad-cam has it.
    """

    name, title = "eigencam", "Eigen-CAM"
    class_specific, signed, unit = False, False, "evidence"
    needs = frozenset({GIVEN})
    paper = "arXiv:2008.00299"

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        return self._by_layer(run, None, flow)

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return outermost_positive(principal(a)).relu()


class EigenGradCAM(TokenCAM):
    """Eigen-Grad-CAM on tokens: the main direction in which the patches times their gradients differ.

    >>> EigenGradCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(b v), for b_p = x_p - mean_q x_q of x_pk = dy/da_pk a_pk, and the first right singular vector v of b (P, D). Of
    the two signs of v it is the one with which the map rises with the evidence, sum_k x_pk over the patches p. Where
    two directions are about as long the map is unstable.

    Source: the program grad-cam (EigenGradCAM); after Muhammad & Yeasin 2020 (arXiv:2008.00299).
    """

    name, title = "eigengradcam", "Eigen-Grad-CAM"
    class_specific, signed, unit = True, False, "evidence"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        x = a * g
        maps = principal(x)
        evidence = x.sum(-1) - x.sum(-1).mean(1, keepdim=True)
        return (maps * (maps * evidence).sum(1, keepdim=True).sign()).relu()


def principal(x: Tensor) -> Tensor:
    """Where rows x_p of (B, P, D) lie along their first principal axis, (B, P), of either sign.

    From the smaller of the two matrices of products, which is much cheaper than a singular value decomposition.
    """
    x = x - x.mean(1, keepdim=True)
    with ops.full_precision(x.device):
        if x.shape[1] > x.shape[2]:
            return (x @ torch.linalg.eigh(x.mT @ x).eigenvectors[..., -1:])[..., 0]
        values, vectors = torch.linalg.eigh(x @ x.mT)
        return vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()


def outermost_positive(maps: Tensor) -> Tensor:
    """With the sign that makes the entry of largest magnitude positive, (B, P)."""
    return maps * maps.gather(1, maps.abs().argmax(1, keepdim=True)).sign()
