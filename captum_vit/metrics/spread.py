"""How evenly a map is spread over the image."""

from math import log

import torch
from torch import Tensor

from .base import blank, finite


def flatness(maps: Tensor) -> Tensor:
    """Normalised entropy of the map's absolute values: 1 for a map that is the same everywhere, 0 for a single peak.

    >>> from captum_vit.metrics import flatness
    >>> flatness(torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 5.0], [0.0, 0.0]]]))
    tensor([1., 0.], dtype=torch.float64)

    `-sum_i p_i log p_i / log n` with `p_i = |x_i| / sum |x|`: the entropy is the complexity of Bhatt et al., and its
    largest value, that of an even map, makes grids of other sizes comparable. `n ** flatness` is how many patches an
    even map with the same entropy would lie on. The Gini index, the other measure in use, is `sparseness`.

    Source: Bhatt et al. 2020, "Evaluating and Aggregating Feature-based Model Explanations" (arXiv:2005.00631).

    Args:
        maps: (N, rows, cols); the signs do not count.
    Returns:
        (N,), float64; 1 for a map of zeros, NaN where the map is of one patch or not finite.
    """
    values, bad = finite(maps.double().abs())
    values = values.flatten(1)
    largest = values.amax(1, keepdim=True)
    values = torch.where(largest > 0, values / largest, 1.0)  # before they are summed, so that huge ones are not too
    shares = values / values.sum(1, keepdim=True)
    n = values.shape[1]
    entropy = torch.special.xlogy(shares, 1 / shares).sum(1)
    return blank((entropy / log(n)).clamp(max=1), bad) if n > 1 else torch.full_like(entropy, torch.nan)
