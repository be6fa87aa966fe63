"""How far the maps of several methods agree."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from ..errors import InputError, OptionError, brief
from .base import blank, finite
from .similarity import constant, rank_correlation


def top_weights(maps: Tensor, share: float = 0.1) -> Tensor:
    """How much each cell of a map belongs to its highest ones, (N, rows, cols) float64: 1 above, 0 below.

    `max(1, int(share * cells))` cells are the highest. Where equal values stand on the threshold, those that are still
    wanted are spread evenly over them.

    Args:
        maps: (N, rows, cols), finite.
        share: of the cells, in (0, 1].
    Raises:
        OptionError: another share.
    """
    if not 0 < share <= 1:
        raise OptionError(f"share must be a number above 0 and at most 1, got {brief(share)}")
    values = maps.double().flatten(1)
    wanted = max(1, int(share * values.shape[1]))
    threshold = values.topk(wanted, dim=1).values[:, -1:]
    above, level = values > threshold, values == threshold
    part = (wanted - above.sum(1, keepdim=True)).double() / level.sum(1, keepdim=True)
    return torch.where(above, 1.0, torch.where(level, part, 0.0)).view_as(maps)


def top_overlap(first: Tensor, second: Tensor, share: float = 0.1) -> Tensor:
    """Which part of their highest cells two maps of each image have in common, (N,) float64.

    `sum_i min(a_i, b_i) / k` with the weights of `top_weights`, whose sum is k: 1 where the same cells are highest, and
    about `share` for maps that have nothing to do with each other. NaN where a map is constant, so that no cell of it
    is higher than others, or not finite.

    Args:
        first, second: (N, rows, cols), on one grid.
        share: of the cells that count as the highest.
    Raises:
        InputError: the maps lie on two grids.
        OptionError: a share outside (0, 1].
    """
    _check_alike(first, second)
    (a, bad_a), (b, bad_b) = finite(first), finite(second)
    weights = top_weights(a, share)
    common = torch.minimum(weights, top_weights(b, share)).flatten(1).sum(1) / weights.flatten(1).sum(1)
    return blank(common, bad_a | bad_b | constant(a) | constant(b))


def rank_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rho of two maps (N, rows, cols) of each image, (N,) float64: 1 where they order all cells alike.

    NaN where a map is constant, of one cell, or not finite.

    Raises:
        InputError: the maps lie on two grids.
    """
    _check_alike(first, second)
    if first[0].numel() == 1:
        return torch.full((len(first),), torch.nan, dtype=torch.float64, device=first.device)
    return rank_correlation(first, second)


def agreement(maps: Mapping[str, Tensor], share: float = 0.1) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """How far the maps of every two methods agree.

    >>> from captum_vit.metrics import agreement
    >>> a, b = torch.arange(20.0).view(1, 4, 5), -torch.arange(20.0).view(1, 4, 5)
    >>> rho, overlap = agreement({"agcam": a, "daam": b})["agcam", "daam"]
    >>> rho.item(), overlap.item()
    (-1.0, 0.0)

    Args:
        maps: by method, each (N, rows, cols), all of one grid.
        share: of the cells that count as the highest.
    Returns:
        Of each two methods `rank_agreement` and `top_overlap`, (N,) each.
    Raises:
        InputError, OptionError: as those.
    """
    return {
        (one, other): (rank_agreement(maps[one], maps[other]), top_overlap(maps[one], maps[other], share))
        for one, other in combinations(maps, 2)
    }


def _check_alike(first: Tensor, second: Tensor) -> None:
    if first.dim() != 3 or first.shape != second.shape or not len(first):
        raise InputError(
            f"maps that are compared lie on one grid, (N, rows, cols): got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
