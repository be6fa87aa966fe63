"""What stands for the class where there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import OptionError, TargetError, brief
from .base import Output, Target


@dataclass(frozen=True, eq=False)
class FeatureImportance(Target):
    """What stands for the class where there is none: the importance w of each dimension of the feature f.

    >>> DAAM(dino).attribute(images, target=FeatureImportance()).shape
    torch.Size([2, 1, 14, 14])

    The explained score is <f, w>. With a memory bank, w comes from the nearest neighbours' vote (see
    ops.importance_by_neighbours); without one, w = f_hat * f_hat with f_hat = f / |f|.

    Args:
        bank: features of known images, (M, D); scaled to unit length here.
        labels: their labels, (M,), integers >= 0; any clustering will do.
        k: neighbours that vote.
        temperature: votes weigh exp(cosine similarity / temperature).
    Source: DAAM's self-supervised protocol (arXiv:2503.14640).
    """

    bank: Tensor | None = None
    labels: Tensor | None = None
    k: int = 20
    temperature: float = 0.07
    unit = "weighted feature"
    of_features = True

    def __post_init__(self) -> None:
        if (self.bank is None) != (self.labels is None):
            raise OptionError("a memory bank needs both its features (M, D) and its labels (M,)")
        for name, given in (("bank", self.bank), ("labels", self.labels)):
            if given is not None and not isinstance(given, Tensor):
                raise OptionError(f"the memory bank's {name} must be a tensor, got {brief(given)}")
        if self.bank is not None and self.labels is not None:
            if self.bank.dim() != 2 or self.labels.shape != self.bank.shape[:1] or not len(self.bank):
                shapes = f"{tuple(self.bank.shape)} and {tuple(self.labels.shape)}"
                raise OptionError(f"expected bank (M, D) and labels (M,) with M >= 1, got {shapes}")
            if self.labels.is_floating_point() or self.labels.dtype == torch.bool or bool((self.labels < 0).any()):
                raise OptionError("labels of the memory bank must be integers >= 0")
        numbers = not isinstance(self.k, bool) and isinstance(self.k, Integral) and isinstance(self.temperature, Real)
        if not numbers or self.k < 1 or not self.temperature > 0:
            raise OptionError(f"expected k >= 1 and temperature > 0, got {brief(self.k)} and {brief(self.temperature)}")

    def score(self, output: Output) -> Tensor:
        """<f, w> for features (N, D), (N,); w is a constant."""
        features = output.scores
        if features.dim() != 2:
            raise TargetError(f"FeatureImportance explains features (N, D), got {tuple(features.shape)}")
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

    def text(self, names: Mapping[int, str]) -> str:
        """In one word."""
        return "feature"
