"""Groups of like channels, by SciPy."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError

STEPS = 25  # of k-means; later ones move few of its members


def centres(rows: Tensor, count: int, seed: int) -> Tensor:
    """The centres of `count` clusters of rows (M, P) by k-means, (count, P), beginning at rows that are drawn."""
    vq = _scipy("vq")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that lost its members keeps its centre
        found, _ = vq.kmeans2(
            rows.double().cpu().numpy(), count, STEPS, minit="points", seed=np.random.default_rng(seed)
        )
    return torch.from_numpy(found)


def clusters(rows: Tensor, distance: float) -> Tensor:
    """The cluster of each row of (M, P), (M,), in the order in which they begin: complete linkage of cosine distances.

    distance: how far the farthest members of one cluster are apart at most.
    """
    if len(rows) < 2:
        return torch.zeros(len(rows), dtype=torch.long)
    hierarchy = _scipy("hierarchy")
    unit = rows / rows.norm(dim=1, keepdim=True)
    apart = (1 - unit @ unit.mT).clamp(min=0)[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    found = hierarchy.fcluster(hierarchy.linkage(apart.double().cpu().numpy(), "complete"), distance, "distance")
    order: dict[int, int] = {}
    return torch.tensor([order.setdefault(each, len(order)) for each in found.tolist()])


def _scipy(part: str) -> Any:
    try:
        from scipy.cluster import hierarchy, vq
    except ImportError as error:
        raise OptionError("clusters of channels need SciPy: pip install 'captum-vit[perturbation]'") from error
    return {"vq": vq, "hierarchy": hierarchy}[part]
