"""Training with maps: losses that say where the evidence of a class should lie, or that it should lie still.

`attribute(..., create_graph=True)` gives maps that are differentiable by the model's parameters, and so do
`attribute_flow` and `attribute_classes`, of methods that read the attention, the tokens or the gradients of one
forward. Those whose maps are made otherwise refuse, and say why.

**What it costs.** One forward, in which attention is computed by its formula, since no fused kernel can be
differentiated twice: each layer holds its attention, heads x tokens x tokens. Of methods that read gradients one
backward, whose own graph is held too; `LeGrad` runs the model's head once more, in train mode all of it once for each
layer. Then the loss's own backward through both. Measured on a small ViT of 197 tokens, one image, CPU, in forwards
without a graph, map and loss together, where a plain step of training (forward and backward) takes 3.3: attention
rollout 3.8, Grad-CAM 5, AGCAM and LeGrad 7, DAAM and gradient rollout 8 to 8.5. Without `create_graph` nothing of
this is held or computed.

**In train mode** a map is that of a forward as training makes it, with dropout. It draws the numbers that the model's
next own call will draw, and leaves the process's where they stood: maps and scores of one step see the same dropout,
and two maps without a call of the model between them are the same. What a forward would change, as the statistics of a
batch norm, stays as it is.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .attr import ViTAttribution
from .errors import InputError

Back = Callable[[Tensor], Tensor]


def mass_outside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's mass that lies outside its mask, (N,), from 0 to 1.

    >>> from captum_vit.training import mass_outside
    >>> mass_outside(torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[True, False]]]))
    tensor([0.2500])

    sum_p relu(m_p) (1 - mask_p) / sum_p relu(m_p): negative values count as 0, and a map without any mass has none
    outside, nor a gradient. It is 1 less `captum_vit.metrics.localization.energy_inside`.

    Args:
        maps: (N, 1, rows, cols).
        masks: (N, rows, cols), bool, or how much of each cell counts as inside, from 0 to 1.
    Raises:
        InputError: shapes do not fit, or a mask holds other numbers.
    """
    if maps.dim() != 4 or maps.shape[1] != 1 or masks.shape != maps.shape[:1] + maps.shape[2:]:
        raise InputError(
            f"expected maps (N, 1, rows, cols) and a mask for each, (N, rows, cols), got {tuple(maps.shape)} and "
            f"{tuple(masks.shape)}"
        )
    inside = masks.to(maps)
    if not bool(((inside >= 0) & (inside <= 1)).all()):
        raise InputError("a mask is bool, or lies between 0 (outside) and 1 (inside)")
    mass = maps[:, 0].relu()
    whole = mass.sum((1, 2))
    return (mass * (1 - inside)).sum((1, 2)) / whole.where(whole > 0, 1)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """How far two maps of each image point apart, (N,): 0 where one is a multiple of the other, at most 2.

    >>> from captum_vit.training import disagreement
    >>> disagreement(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]]))
    tensor([1.])

    1 - <a, b> / (|a| |b|), the cosine over all cells, so that the scale of a map is of no matter; 1, without a
    gradient, where a map is 0 everywhere.

    Args:
        first, second: of one shape, (N, ...).
    Raises:
        InputError: shapes differ.
    """
    if first.shape != second.shape or first.dim() < 2:
        raise InputError(f"expected two maps of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b = first.flatten(1), second.flatten(1)
    some = a.detach().any(1) & b.detach().any(1)
    a, b = (x.where(some[:, None], 1) for x in (a, b))  # the norm has no derivative at 0
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return (1 - cosine).where(some, 1)


class MapLoss:
    """Losses on the maps of a method, each a number for every image, differentiable by the model's parameters.

    >>> from captum_vit.training import MapLoss
    >>> loss = MapLoss(GradCAM(model))
    >>> masks = torch.zeros(2, 224, 224, dtype=torch.bool)
    >>> masks[:, 60:160, 60:160] = True  # where the object is
    >>> outside = loss.outside(images, masks, target=281)
    >>> outside.shape, outside.requires_grad
    (torch.Size([2]), True)
    >>> loss.apart(images, images.flip(-1), back=lambda maps: maps.flip(-1), target=281).shape
    torch.Size([2])

    A step of training adds the mean of one to its own loss: `(task + 0.5 * outside.mean()).backward()`.

    Args:
        method: of the model that is trained.
        call: what else its `attribute` is asked, as options of the method, or `forward_kwargs`.
    Raises:
        OptionError: with the first loss, maps of this method cannot train a model.
    """

    def __init__(self, method: ViTAttribution, **call: Any) -> None:
        self.method, self.call = method, call

    def outside(self, images: Tensor, masks: Tensor, target: Any = None) -> Tensor:
        """The share of the map's mass outside a mask, (N,): `mass_outside` of the map over the pixels.

        Args:
            images: (N, C, H, W), as for `attribute`.
            masks: where the evidence may lie, (N, H, W), over the pixels of the images.
            target: what is explained, as for `attribute`.
        """
        return mass_outside(self._maps(images, target, "spatial"), masks)

    def apart(self, images: Tensor, others: Tensor, *, back: Back, target: Any = None) -> Tensor:
        """How far the maps of two views of each image disagree, (N,): `disagreement` of the maps over the pixels.

        Args:
            images: one view of each image, (N, C, H, W).
            others: another, as a flip, or a change of colours.
            back: brings maps (N, 1, H, W) of the others to where `images` have them; what it does has to be
                differentiable.
            target: what is explained of both.
        """
        return disagreement(self._maps(images, target, "spatial"), back(self._maps(others, target, "spatial")))

    def _maps(self, images: Tensor, target: Any, output_shape: str) -> Tensor:
        found = self.method.attribute(images, target, output_shape=output_shape, create_graph=True, **self.call)
        assert isinstance(found, Tensor)
        return found
