"""How alike two maps of an image are.

torchmetrics is imported by the first call that needs it: its import takes seconds.
"""

from typing import cast

import torch
from torch import Tensor

from ..errors import InputError
from .base import blank, enlarge, finite
from .regions import normalise


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's r of two maps (N, rows, cols) of each image, (N,) float64; NaN where one is constant or not finite."""
    a, b = (x.double().flatten(1) - x.double().flatten(1).mean(1, keepdim=True) for x in (first, second))
    flat = constant(first) | constant(second)  # the mean's rounding would leave a little of a constant
    return blank(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1), flat)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rho of two maps (N, rows, cols) of each image, (N,) float64; NaN where `correlation` is."""
    (a, bad_a), (b, bad_b) = finite(first), finite(second)
    return blank(correlation(_ranks(a), _ranks(b)), bad_a | bad_b)


def _ranks(maps: Tensor) -> Tensor:
    """The rank of each value in its map, float64, of the same shape; equal values have the mean of their ranks."""
    values = maps.flatten(1).contiguous()
    rising = values.sort(1).values
    below, not_above = (torch.searchsorted(rising, values, right=right) for right in (False, True))
    return ((below + not_above + 1).double() / 2).view_as(maps)


def structural_similarity(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    """SSIM of two maps (N, rows, cols), each enlarged to (H, W) and min-max normalised, (N,) float64.

    Raises:
        InputError: the size is less than the window's 11 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(size) < 11:
        raise InputError(f"the window of SSIM is 11 pixels wide: got images of {size[0]}x{size[1]}")
    (a, bad_a), (b, bad_b) = (finite(normalise(enlarge(maps, size))[:, None]) for maps in (first, second))
    found = cast(Tensor, structural_similarity_index_measure(a, b, data_range=1.0, reduction="none"))
    return blank(found.view(-1), bad_a | bad_b)


def constant(maps: Tensor) -> Tensor:
    """Which maps (N, rows, cols) have one value everywhere, bool (N,)."""
    values = maps.flatten(1)
    return values.amax(1) == values.amin(1)
