"""Dynamic Accumulated Attention Map."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..access import AttentionCall, TokenLayout
from ..capture.running import Inputs, differentiate
from ..errors import OptionError, TargetError
from .base import GradientViTAttribution


@dataclass(frozen=True)
class FeatureImportance:
    """What stands for the class where there is none: the importance w of each dimension of the feature f.

    The explained score is <f, w>. With a memory bank, w comes from the nearest neighbours' vote (see
    ops.importance_by_neighbours); without one, w = f_hat * f_hat with f_hat = f / |f|.

    Args:
        bank: features of known images, (M, D); scaled to unit length here.
        labels: their labels, (M,), integers >= 0; any clustering will do.
        k: neighbours that vote.
        temperature: votes weigh exp(cosine similarity / temperature).
    Source: DAAM's self-supervised protocol (see DAAM).
    """

    bank: Tensor | None = None
    labels: Tensor | None = None
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if (self.bank is None) != (self.labels is None):
            raise OptionError("a memory bank needs both its features (M, D) and its labels (M,)")
        if self.bank is not None and self.labels is not None:
            if self.bank.dim() != 2 or self.labels.shape != self.bank.shape[:1] or not len(self.bank):
                shapes = f"{tuple(self.bank.shape)} and {tuple(self.labels.shape)}"
                raise OptionError(f"expected bank (M, D) and labels (M,) with M >= 1, got {shapes}")
            if self.labels.is_floating_point() or self.labels.dtype == torch.bool or bool((self.labels < 0).any()):
                raise OptionError("labels of the memory bank must be integers >= 0")
        if self.k < 1 or self.temperature <= 0:
            raise OptionError(f"expected k >= 1 and temperature > 0, got {self.k} and {self.temperature}")

    def score(self, features: Tensor) -> Tensor:
        """<f, w> for features (N, D), (N,); w is a constant."""
        return (ops.widen(features) * self.weights(features.detach())).sum(1)

    def weights(self, features: Tensor) -> Tensor:
        """w for features (N, D), (N, D)."""
        if self.bank is None or self.labels is None:
            return F.normalize(ops.widen(features), dim=1).square()
        bank, labels = self._bank_for(features)
        return ops.importance_by_neighbours(features, bank, labels, self.k, self.temperature)[0]

    def predict(self, features: Tensor) -> Tensor:
        """The label that the neighbours vote for, (N,)."""
        bank, labels = self._bank_for(features)
        return ops.importance_by_neighbours(features, bank, labels, self.k, self.temperature)[1]

    def _bank_for(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.bank is None or self.labels is None:
            raise OptionError("without a memory bank there is no label to predict")
        if self.bank.shape[1] != features.shape[1]:
            raise OptionError(f"the memory bank has {self.bank.shape[1]} dimensions, the features {features.shape[1]}")
        return self.bank.to(features.device), self.labels.to(features.device)


class DAAM(GradientViTAttribution):
    """Dynamic Accumulated Attention Map: how the map of a class builds up from block to block.

    Block l contributes relu(sum_i sum_k relu(dy_c/dO_l[i, k]) * A_l[i, j] * v_l[j, k]) to patch j, over the rows i
    that the score is read from and the channels k of all heads, with full gradients; the map is the sum over the
    blocks. With `importance` the score is <f, w> for the feature f and the gradient is not rectified.

    Source: "Dynamic Accumulated Attention Map for Interpreting Evolution of Decision-Making in Vision Transformer"
        (arXiv:2503.14640), supervised and self-supervised.

    Options of `attribute`:
        importance: a FeatureImportance, which explains the feature instead of a class; target must be None then.
    """

    def _maps(
        self, inputs: Inputs, target: Any, *, flow: bool, importance: FeatureImportance | None = None
    ) -> tuple[Tensor, TokenLayout]:
        if importance is not None and not isinstance(importance, FeatureImportance):
            raise OptionError(f"importance must be a FeatureImportance, got {type(importance).__name__}")
        readout, names = self._read(inputs)
        run = differentiate(self.adapter, inputs, names, readout)
        if importance is None:
            gradients = run.gradients(self._score(target))
            gradients = {name: gradient.relu() for name, gradient in gradients.items()}
        elif target is None:
            gradients = run.gradients(importance.score)
        else:
            raise TargetError("with importance=... the whole feature is explained: target must be None")
        maps = torch.stack([_block_map(call, gradients[name]) for name, call in run.calls.items()], 1)
        return (maps.cumsum(1) if flow else maps.sum(1, keepdim=True)), run.layout


def _block_map(call: AttentionCall, gradient: Tensor) -> Tensor:
    """relu of the patches' weighted values: (B, patches)."""
    maps = [
        (call.weights(rows) * call.weight_grad(rows, gradient)).sum((1, 2))
        for rows in call.parts(call.layout.read_rows)
    ]
    return call.layout.to_map(torch.stack(maps).sum(0).relu())
