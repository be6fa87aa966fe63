"""Grad-CAM and its kin, on tokens."""

from typing import Any, Literal

from torch import Tensor

from ..capture import Need, Run, rules_named
from ..errors import OptionError, brief
from ..targets import Target
from .token_cam import TokenCAM
from .ways import Ways, under

Weights = Literal["mean", "elementwise"]
WEIGHTS = ("mean", "elementwise")


class GradCAM(TokenCAM):
    """Grad-CAM on tokens: channels of the patches, each weighed by the mean of its gradients.

    >>> GradCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(sum_k w_k a_pk) with w_k = mean_p dy/da_pk, for patches p and channels k of what the last attention is given;
    see `TokenCAM` for other layers. `weights="elementwise"` gives sum_k relu(dy/da_pk a_pk). An image on which all that
    counts speaks against the target has a map of zeros.

    Options of `attribute`:
        weights: "mean" (default) of the gradients over all patches, or "elementwise", each patch by its own.
        rules: "none" (default) takes gradients; "cp", "attn" and "libra" what stands in their place in `CPLRP`,
            `AttnLRP` and `LibraGrad`.

    Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"
        (arXiv:1610.02391), equations 1 and 2; element-wise as the program grad-cam has it (GradCAMElementWise).
    """

    name, title = "gradcam", "Grad-CAM"
    class_specific, signed, unit = True, False, "evidence"
    paper = "arXiv:1610.02391"

    def needed(self, **options: Any) -> frozenset[Need]:
        """The gradients, or what stands in their place."""
        return under(options.get("rules", "none"), self.needs)

    def _maps(self, run: Run, target: Target, *, flow: bool, weights: Weights = "mean", rules: Ways = "none") -> Tensor:
        if not isinstance(weights, str) or weights not in WEIGHTS:
            raise OptionError(f"weights must be one of {', '.join(WEIGHTS)}, got {brief(weights)}")
        run = run.under(rules_named(rules))
        return self._by_layer(run, target, flow, self._cam if weights == "mean" else elementwise)

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, g.mean(1, keepdim=True)).relu()


class GradCAMPlusPlus(TokenCAM):
    """Grad-CAM++ on tokens: channels weighed by gradients that count the more, the fewer patches share them.

    >>> GradCAMPlusPlus(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(sum_k w_k a_pk) with w_k = sum_p alpha_pk relu(G_pk), for G = dy/da and
    alpha = G^2 / (2 G^2 + sum_q(a_qk) G^3 + 1e-6), 0 where G is 0. The denominator crosses 0 where a channel's sum over
    the patches is negative, as it may be behind a norm: single channels then outweigh all others, and rounding shows:
    in float32 maps differed from those in float64 by up to 0.7 % of their maximum on three models.

    Source: Chattopadhay et al. 2018, "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
        Networks" (arXiv:1710.11063), for a score that is an exponential; epsilon as in the program grad-cam.
    """

    name, title = "gradcam_plus_plus", "Grad-CAM++"
    class_specific, signed, unit = True, False, "evidence"
    paper = "arXiv:1710.11063"
    cancels = "a sum that crosses 0 where what a channel holds adds up to less than 0"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        square = g.square()
        alpha = square / (2 * square + a.sum(1, keepdim=True) * square * g + 1e-6)
        return weighted(a, (alpha.where(g != 0, 0) * g.relu()).sum(1, keepdim=True)).relu()


class HiResCAM(TokenCAM):
    """HiResCAM on tokens: the patches times their own gradients.

    >>> HiResCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(sum_k dy/da_pk a_pk), for patches p and channels k of what the last attention is given; see `TokenCAM` for
    other layers. Without the relu, it is `CDAM`.

    Source: Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
        networks" (arXiv:2011.08891).
    """

    name, title = "hirescam", "HiResCAM"
    class_specific, signed, unit = True, False, "evidence"
    paper = "arXiv:2011.08891"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, g).relu()


class CDAM(TokenCAM):
    """Class-discriminative attention map: the patches times their own gradients, with evidence against the target.

    >>> CDAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    sum_k dy/da_pk a_pk, for patches p and channels k of what the last attention is given. A target may be a class, or a
    function of the output that compares it with a concept. With a relu, it is `HiResCAM`.

    Source: Brocki, Binda & Chung 2023, "Class-Discriminative Attention Maps for Vision Transformers"
        (arXiv:2312.02364).
    """

    name, title = "cdam", "CDAM"
    class_specific, signed, unit = True, True, "evidence"
    paper = "arXiv:2312.02364"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, g)


class LayerCAM(TokenCAM):
    """LayerCAM on tokens: the patches times those of their own gradients that speak for the target.

    >>> LayerCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(sum_k relu(dy/da_pk) a_pk).

    Source: Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization"
        (doi:10.1109/TIP.2021.3089943).
    """

    name, title = "layercam", "LayerCAM"
    class_specific, signed, unit = True, False, "evidence"
    paper = "doi:10.1109/TIP.2021.3089943"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, g.relu()).relu()


class XGradCAM(TokenCAM):
    """XGrad-CAM on tokens: channels weighed by the mean of their gradients, each patch counting by what it holds.

    >>> XGradCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    relu(sum_k w_k a_pk) with w_k = sum_p(dy/da_pk a_pk) / (sum_p a_pk + 1e-7). A channel's sum over the patches may be
    near 0 behind a norm: single channels then outweigh all others, and rounding shows. In float32 maps differed from
    those in float64 by up to 0.13 % of their maximum on three models.

    Source: Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs"
        (arXiv:2008.02312); epsilon as in the program grad-cam.
    """

    name, title = "xgradcam", "XGrad-CAM"
    class_specific, signed, unit = True, False, "evidence"
    paper = "arXiv:2008.02312"
    cancels = "what a channel holds in all patches together, which may be nearly 0"

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, (g * a).sum(1, keepdim=True) / (a.sum(1, keepdim=True) + 1e-7)).relu()


def weighted(a: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_pk a_pk, (B, P)."""
    return (a * weights).sum(-1)


def elementwise(a: Tensor, g: Tensor) -> Tensor:
    """sum_k relu(G_pk a_pk), (B, P)."""
    return (a * g).relu().sum(-1)
