"""Whether parts of an image matter to the score as much as the map says, each taken away by itself."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..capture import CellRun
from ..errors import OptionError, UnsupportedModelError, brief
from .agreement import rank_agreement
from .base import Case, Metric, blank, enlarge, finite, graded, means
from .course import Course
from .curves import ranked
from .exchanging import Asked, Choices, exchanged
from .similarity import constant

BY_MEAN = Course(occluder="mean")
BY_GREY = Course(occluder=0.0, unit="patch", score="logit")
BY_TOKENS = Course(occluder="tokens", unit="patch", score="logit")


def saco(
    model: Asked,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    course: Course = BY_MEAN,
    *,
    groups: int = 10,
    batch_size: int = 64,
) -> Tensor:
    """Salience-guided faithfulness coefficient: do groups of pixels change the score in the order of their salience?

    Pixels in falling order of the map are K groups of equal size, each of which is exchanged by itself:
    `F = sum_(i<j) w_ij / sum_(i<j) |w_ij|`. `w_ij` is `s_i - s_j`, the difference of the groups' mean salience, where
    the score falls by group i at least as much as by group j, and `s_j - s_i` where it falls less. 1 where all pairs
    stand in the order of their salience, about 0 for a map that has nothing to do with the model, -1 where none does.

    Source: Wu et al. 2024, "On the Faithfulness of Vision Transformer Explanations" (arXiv:2404.01415), algorithm 1;
        K is 10 there, and pixels become the mean of the image's. They sum the salience of a group, which is the same
        for equal groups.

    Args:
        model, images, maps, targets, batch_size: as in `perturbation_curve`; maps may be signed.
        course: what stands where a group is exchanged, and how the rest is scored.
        groups: K, at least 2; of fewer cells each is a group.
    Returns:
        (N,), float64; NaN where a map is constant, of one cell, or not finite, as where a score is.
    Raises:
        OptionError: less than two groups.
        InputError, TargetError, UnsupportedModelError: as in `perturbation_curve`.
    """
    if groups < 2:
        raise OptionError(f"groups must be at least 2, so that there are pairs of them, got {groups}")
    course = replace(course, order="MoRF", start="image")
    ranks, bad = ranked(maps, (images.shape[2], images.shape[3]), course)
    cells = ranks[0].numel()
    count = min(groups, cells)
    own = ranks.long() * count // cells  # (N, rows, cols)
    choices = Choices(count, lambda n, s: own[n] == s.view(-1, 1, 1))
    scores = exchanged(model, images, targets, course, choices, batch_size)
    values = finite(maps.detach())[0].double()
    values = values if course.unit == "patch" else enlarge(values, (images.shape[2], images.shape[3]))
    sums = torch.zeros(len(own), count, dtype=torch.float64, device=maps.device)
    sums.scatter_add_(1, own.flatten(1), values.flatten(1))
    sizes = torch.bincount(own[0].flatten(), minlength=count)
    return blank(coefficient(sums / sizes, -scores), bad | constant(maps))


def coefficient(salience: Tensor, drops: Tensor) -> Tensor:
    """The coefficient of groups, (N,), from their salience and what the score falls by without each, (N, K)."""
    i, j = torch.triu_indices(salience.shape[1], salience.shape[1], 1, device=salience.device)
    weights = salience[:, i] - salience[:, j]
    signed = torch.where(drops[:, i] >= drops[:, j], weights, -weights)
    return blank(signed.sum(1) / weights.abs().sum(1), drops.isnan().any(1))


def patch_drops(
    model: Asked,
    images: Tensor,
    targets: Any,
    grid: tuple[int, int],
    course: Course = BY_TOKENS,
    *,
    cover: tuple[int, int] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """How much the score falls without each patch, taken away by itself, (N, rows, cols) float64, up to a constant.

    The constant is the score of the whole image, of which ranks know nothing; no map is needed, so that the maps of
    all methods are held against the same drops.

    Args:
        model, images, targets, batch_size: as in `perturbation_curve`.
        grid: rows and columns of patches.
        course: how a patch is taken away, and how the rest is scored.
        cover: (height, width) of the part of the images, from their upper left corner, that the patches lie on.
    Raises:
        InputError, TargetError, UnsupportedModelError: as in `perturbation_curve`.
    """
    places = torch.arange(grid[0] * grid[1], device=images.device).view(1, *grid)
    course = replace(course, start="image", unit="patch")
    choices = Choices(places.numel(), lambda n, s: places == s.view(-1, 1, 1), cover)
    return -exchanged(model, images, targets, course, choices, batch_size).unflatten(1, grid)


def single_deletion(maps: Tensor, drops: Tensor) -> Tensor:
    """Single-deletion score: Spearman's rho of a map with what the score falls by without each patch, (N,) float64.

    1 where the map orders patches as single deletions do, about 0 for a map that has nothing to do with them. With
    `patch_drops` by tokens, of a model that was trained with some of its tokens left out, it is in domain.

    Source: Hesse et al. 2024, "Benchmarking the Attribution Quality of Vision Models" (arXiv:2407.11910), whose models
        are tuned to deleted patches of a coarse grid; here they are those of the model.

    Args:
        maps: (N, rows, cols), signed ones as they are.
        drops: (N, rows, cols), as `patch_drops` gives them.
    Returns:
        NaN where a map or the drops are constant, of one patch, or not finite.
    Raises:
        InputError: the maps lie on another grid.
    """
    return rank_agreement(maps, drops)


class Faithfulness(Metric):
    """`saco` and `single_deletion`.

    Columns: "saco" and "single_deletion", of pixels that become the image's mean and of patches that become grey; with
    the preset "tokens" "saco_tokens" and "single_deletion_tokens", of patches whose tokens are left out. A single
    deletion takes a forward for each patch, for all methods together.

    Args:
        preset: "image" or "tokens": what is changed.
        groups: of `saco`.
        batch_size: as in `perturbation_curve`.
    Raises:
        OptionError: another preset; and where it is called
        UnsupportedModelError: no adapter knows the model, whose cells are no patches.
    """

    name = "faithfulness"
    needs = frozenset({"model", "run"})

    def __init__(self, preset: str = "image", *, groups: int = 10, batch_size: int = 64) -> None:
        if preset not in ("image", "tokens"):
            raise OptionError(f"preset must be one of image, tokens, got {brief(preset)}")
        self.preset, self.groups, self.batch_size = preset, groups, batch_size
        how = "left out of the model's tokens" if preset == "tokens" else "taken out of the image"
        saco, single = (f"{name}{self._end}" for name in ("saco", "single_deletion"))
        words = {
            saco: f"Does a group of higher patches matter more than one of lower ones, each {how} by itself?",
            single: f"Does the map order patches by what the score loses without each, {how} by itself?",
        }
        self.figures = graded(means(words, **{saco: True, single: True}), saco, single)

    @property
    def _end(self) -> str:
        return "_tokens" if self.preset == "tokens" else ""

    def __call__(self, case: Case) -> dict[str, Tensor]:
        by_tokens, run = self.preset == "tokens", case.of_run()
        if isinstance(run, CellRun):  # cells of a stem are no patches
            raise UnsupportedModelError(run.no_tokens)
        asked = run if by_tokens else case.required("model")
        maps = case.on_patches()
        single, (rows, columns) = BY_TOKENS if by_tokens else BY_GREY, run.layout.grid
        drops = case.once(
            f"{self.title} drops",
            lambda: patch_drops(
                asked, case.images, case.targets, (rows, columns), single, cover=case.cover, batch_size=self.batch_size
            ),
        )
        course = replace(BY_TOKENS, score="softmax") if by_tokens else BY_MEAN
        cells = maps if by_tokens else case.enlarged()
        found = saco(asked, case.images, cells, case.targets, course, groups=self.groups, batch_size=self.batch_size)
        return {f"saco{self._end}": found, f"single_deletion{self._end}": single_deletion(maps, drops)}
