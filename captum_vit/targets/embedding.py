"""How like a text, or another image."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import TargetError
from .base import Output, Target


@dataclass(frozen=True, eq=False)
class Embedding(Target):
    """The cosine of the model's feature with an embedding, as of a text or of another image.

    >>> AGCAM(dino).attribute(images, target=Embedding(dino(images)[0])).shape  # what is like the first image
    torch.Size([2, 1, 14, 14])

    vector: (D,) for all images, or one for each, (N, D).
    Raises:
        TargetError: it is no tensor of floating-point numbers, or (in `score`) of another width than the features.
    """

    vector: Tensor
    unit = "cosine"
    of_features = True

    def __post_init__(self) -> None:
        if (
            not isinstance(self.vector, Tensor)
            or not self.vector.is_floating_point()
            or self.vector.dim() not in (1, 2)
        ):
            got = self.vector.dtype if isinstance(self.vector, Tensor) else type(self.vector).__name__
            raise TargetError(f"an embedding is a floating-point tensor (D,) or (N, D), got {got}")

    def of_image(self, number: int) -> "Target":
        """The embedding of one image."""
        return Embedding(self.vector[number]) if self.vector.dim() == 2 and len(self.vector) > 1 else self

    def score(self, output: Output) -> Tensor:
        """cos(f, vector), (N,)."""
        features = output.scores
        count, width = len(features), features[0].numel()
        fits = features.dim() == 2 and self.vector.shape in ((width,), (1, width), (count, width))
        if not fits or width == 1:  # the cosine with a single number is but its sign
            wanted = f"({width},) or one an image, ({count}, {width})" if width > 1 else "for an output of more numbers"
            raise TargetError(f"an embedding to compare with must be {wanted}: got {tuple(self.vector.shape)}")
        vector = ops.widen(self.vector.detach().to(features.device))
        return F.cosine_similarity(ops.widen(features), vector.reshape(-1, width), dim=1)
