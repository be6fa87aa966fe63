"""What models of universal segmentation give: of each query the scores of classes, and a mask."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CLASSES, MASKS = "class_queries_logits", "masks_queries_logits"  # as MaskFormer's kind calls them


def tensor_in(raw: Any, name: str) -> Tensor | None:
    """The output of that name; None where a model gives none."""
    found = raw.get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)
    return found if isinstance(found, Tensor) else None


def semantic(raw: Any) -> Tensor | None:
    """How much of each class all queries together see at each pixel, (N, C, h, w); None of a model without them.

    >>> from captum_vit.targets.masks_of_queries import semantic
    >>> semantic({"class_queries_logits": torch.zeros(1, 5, 4), "masks_queries_logits": torch.zeros(1, 5, 8, 8)}).shape
    torch.Size([1, 3, 8, 8])

    s(c, p) = sum_q softmax(classes of q)[c] sigmoid(mask of q at p), "no object", the last class, left out.

    Source: Cheng et al. 2021, "Per-Pixel Classification is Not All You Need for Semantic Segmentation"
        (arXiv:2107.06278), section 3.4, semantic inference.
    """
    classes, masks = tensor_in(raw, CLASSES), tensor_in(raw, MASKS)
    if classes is None or masks is None:
        return None
    return torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :-1], masks.sigmoid())
