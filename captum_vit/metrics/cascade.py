"""Maps of a model whose weights are drawn anew: the cascading randomisation test, and its efficient form."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import blank, enlarge, finite
from .redrawing import draw_anew, stages_of
from .similarity import constant, rank_correlation, structural_similarity


@dataclass(frozen=True)
class Randomisation:
    """How alike a map stays as the model's weights are drawn anew, stage by stage.

    stages: S names: "head", then the blocks, the last first. At each stage all earlier ones stay drawn anew.
    spearman, ssim: (N, S), similarity with the map of the model as it was.
    last: (N, rows, cols), the maps of the model when all of that is drawn anew.
    """

    stages: tuple[str, ...]
    spearman: Tensor
    ssim: Tensor
    last: Tensor


def randomisation(
    method: Any,
    images: Tensor,
    targets: Any,
    *,
    maps: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Randomisation:
    """The cascading randomisation test: a map that explains the model has to change with the model's weights.

    The weights of a copy are drawn anew, stage by stage from the head to the first block; neither the model nor the
    random state is touched. A module that has `reset_parameters` is reset by it; a parameter of any other module is
    drawn from a normal distribution of the parameter's own mean and deviation. What comes before the first block is
    kept.

    Source: Adebayo et al. 2018 (arXiv:1810.03292).

    Args:
        method: one of ours, or any with `attribute(images, target=...)` that has its model as an attribute
            (`forward_func`, as captum has it); it is copied, the model with it.
        images: (N, C, H, W).
        targets: as `attribute` takes them.
        maps: of the model as it is, (N, rows, cols), if they are there already.
        options: what `attribute` is given besides.
        seed: of the weights.
    Raises:
        InputError: the method has no model whose weights could be drawn, or asks another one than it has.
    """
    first = maps_of(method, images, targets, options) if maps is None else maps
    stages, spearman, ssim = [], [], []
    with _redrawn(method, images, seed) as (twin, parts_of):
        for name, parts in parts_of.items():
            for part in parts:
                draw_anew(part)
            changed = maps_of(twin, images, targets, options)
            stages.append(name)
            spearman.append(rank_correlation(first, changed))
            ssim.append(structural_similarity(first, changed, (images.shape[2], images.shape[3])))
    return Randomisation(tuple(stages), torch.stack(spearman, 1), torch.stack(ssim, 1), changed)


def complexity(maps: Tensor, bins: int = 100) -> Tensor:
    """Entropy of a map's histogram, (N,) float64: how many of the values between its ends it makes use of.

    Args:
        maps: (N, rows, cols), finite.
        bins: of the histogram, of equal width between the map's minimum and maximum.
    """
    found = []
    for values in maps.double().cpu().numpy():
        counts = np.histogram(values, bins)[0]
        shares = counts[counts > 0] / values.size
        found.append(float(-(shares * np.log(shares)).sum()))
    return torch.tensor(found, dtype=torch.float64, device=maps.device)


def efficient_randomisation(
    method: Any,
    images: Tensor,
    targets: Any,
    *,
    maps: Tensor | None = None,
    last: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Tensor:
    """eMPRT: how much more complex a map is where all of the model's weights are drawn anew, in units of the map.

    `(C(random) - C(trained)) / C(trained)`, C being the `complexity` of the map at the image's size: above 0 where the
    map loses its structure with the model, as it should; 0 for a map that does not know the model. One map of another
    model, where the cascading test takes one for each block.

    Source: Hedström et al. 2024, "A Fresh Look at Sanity Checks for Saliency Maps" (arXiv:2405.02383), with the
        histogram of 100 bins of its program, Quantus.

    Args:
        method, images, targets, maps, options, seed: as in `randomisation`.
        last: the maps of the model with weights drawn anew, if they are there already, as a `Randomisation` has them.
    Returns:
        (N,), float64; NaN where a map is constant or not finite.
    Raises:
        InputError: as in `randomisation`.
    """
    first = maps_of(method, images, targets, options) if maps is None else maps
    if last is None:
        with _redrawn(method, images, seed) as (twin, parts_of):
            for part in (part for parts in parts_of.values() for part in parts):
                draw_anew(part)
            last = maps_of(twin, images, targets, options)
    size = (images.shape[2], images.shape[3])
    (a, bad_a), (b, bad_b) = finite(enlarge(first, size)), finite(enlarge(last, size))
    before, after = complexity(a), complexity(b)
    return blank((after - before) / before, bad_a | bad_b | constant(a))


@contextmanager
def _redrawn(method: Any, images: Tensor, seed: int) -> Iterator[tuple[Any, dict[str, list[nn.Module]]]]:
    """A copy of a method with a model of its own, and this one's parts by stage, to be drawn anew inside."""
    if not isinstance(getattr(method, "forward_func", None), nn.Module):
        raise InputError(
            f"{type(method).__name__} has no forward_func that is a model, so its weights cannot be drawn anew"
        )
    twin = copy.deepcopy(method)
    with torch.random.fork_rng({images.device} if images.is_cuda else ()), _never_called(method.forward_func):
        torch.manual_seed(seed)
        yield twin, stages_of(twin.forward_func)


@contextmanager
def _never_called(model: nn.Module) -> Iterator[None]:
    """The copy of a method has to ask the copy of its model, not this one, whose weights are as they were."""

    def refuse(*_: Any) -> None:
        raise InputError(
            "the method keeps asking the model that it was made of, in a function of its own, so that no weights drawn "
            "anew reach it: give it the model itself"
        )

    handle = model.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def maps_of(method: Any, images: Tensor, targets: Any, options: Mapping[str, Any] | None) -> Tensor:
    """The method's maps as grids, (N, rows, cols), NaN for images that are not finite."""
    images, bad = finite(images)
    maps = method.attribute(images, target=targets, **(options or {}))
    if maps.dim() != 4:
        raise InputError(f"expected maps of shape (N, 1, rows, cols) of the method, got {tuple(maps.shape)}")
    return blank(maps.mean(1), bad)
