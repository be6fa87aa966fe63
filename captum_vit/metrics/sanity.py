"""Whether a map depends on what it should (the class, the model's weights), and on nothing that it should not."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from ..errors import InputError, OptionError, brief
from .base import Case, Metric, blank, finite, means
from .redrawing import draw_anew, stages_of
from .similarity import correlation, rank_correlation, structural_similarity


def sparseness(maps: Tensor) -> Tensor:
    """Gini index of the map's absolute values, (N,) float64: 0 for an even map, towards 1 for a single peak.

    `G = sum_i (2i - n - 1) |x|_(i) / (n sum_i |x|_i)`, with the values in rising order; 0 for a map of zeros.
    Source: Chalasani et al. 2020 (arXiv:1810.06583).
    """
    maps, bad = finite(maps.double().abs())
    values = maps.flatten(1).sort(1).values
    n = values.shape[1]
    weights = 2 * torch.arange(1, n + 1, device=values.device) - n - 1
    total = values.sum(1)
    return blank(torch.where(total > 0, (values * weights).sum(1) / (n * total), 0.0), bad)


def class_sensitivity(
    method: Any,
    images: Tensor,
    targets: Tensor,
    others: Tensor,
    *,
    maps: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """How much the map changes with the class: `1 - r`, r being Pearson's between the maps of two classes.

    0 for a map that is the same for both, 1 for unrelated maps, 2 for opposite ones; NaN where one map is constant and
    the other is not, or one is not finite.

    Args:
        method: with `attribute(images, target=...)`.
        images: (N, C, H, W).
        targets, others: (N,), two classes of each image.
        maps: those of the targets, (N, rows, cols), if they are there already.
        options: what `attribute` is given besides.
    Returns:
        (N,), float64.
    """
    first = _maps(method, images, targets, options) if maps is None else maps
    second = _maps(method, images, others, options)
    same = (first == second).flatten(1).all(1) & first.isfinite().flatten(1).all(1)
    return torch.where(same, 0.0, 1 - correlation(first, second))


@dataclass(frozen=True)
class Randomisation:
    """How alike a map stays as the model's weights are drawn anew, stage by stage.

    stages: S names: "head", then the blocks, the last first. At each stage all earlier ones stay drawn anew.
    spearman, ssim: (N, S), similarity with the map of the model as it was.
    """

    stages: tuple[str, ...]
    spearman: Tensor
    ssim: Tensor


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
    first = _maps(method, images, targets, options) if maps is None else maps
    if not isinstance(getattr(method, "forward_func", None), nn.Module):
        raise InputError(
            f"{type(method).__name__} has no forward_func that is a model, so its weights cannot be drawn anew"
        )
    twin = copy.deepcopy(method)
    stages, spearman, ssim = [], [], []
    with torch.random.fork_rng({images.device} if images.is_cuda else ()), _never_called(method.forward_func):
        torch.manual_seed(seed)
        for name, parts in stages_of(twin.forward_func).items():
            for part in parts:
                draw_anew(part)
            changed = _maps(twin, images, targets, options)
            stages.append(name)
            spearman.append(rank_correlation(first, changed))
            ssim.append(structural_similarity(first, changed, (images.shape[2], images.shape[3])))
    return Randomisation(tuple(stages), torch.stack(spearman, 1), torch.stack(ssim, 1))


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


def stability(
    method: Any,
    images: Tensor,
    targets: Any,
    *,
    options: Mapping[str, Any] | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """Captum's `sensitivity_max`: the largest change of the map, in units of its norm, under small noise on the image.

    The noise is uniform in [-radius, radius] and the same for every image: a value does not depend on the batch.

    Source: Yeh et al. 2019 (arXiv:1901.09392).

    Args:
        method: with `attribute(images, target=...)`.
        images: (N, C, H, W), normalised: radius is in units of these.
        targets: as `attribute` takes them.
        options: what `attribute` is given besides.
        samples: how many times noise is drawn.
    Returns:
        (N,), float64.
    """
    draw = torch.Generator().manual_seed(seed)
    images, bad = finite(images)

    def explain(inputs: Tensor | tuple[Tensor, ...], target: Any) -> tuple[Tensor]:
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        return (_maps(method, x, target, options).contiguous(),)  # captum would iterate over a bare tensor

    def disturb(inputs: Any, radius: float) -> Tensor:
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        noise = torch.rand(1, *x.shape[1:], generator=draw, dtype=torch.float64) * 2 - 1
        return x + radius * noise.to(x)

    found = sensitivity_max(
        explain,
        images,
        disturb,
        perturb_radius=radius,
        n_perturb_samples=samples,
        target=targets,
        max_examples_per_batch=len(images),
    )
    return blank(found.double(), bad)


class Sanity(Metric):
    """Whether maps depend on the class and on the weights, how sparse they are, and how stable under noise.

    Columns: "sparseness"; "class_sensitivity", against the class that scores highest besides the target;
    "randomisation_spearman" and "randomisation_ssim", means over the stages; "sensitivity_max", of the stability.

    Args:
        checks: one or several of "sparseness", "class_sensitivity", "randomisation" and "stability"; all by default.
        radius, samples: of the stability.
        seed: of the stability's noise and the randomisation's weights.
    """

    name = "sanity"
    checks: Mapping[str, Mapping[str, bool]] = {
        "sparseness": {"sparseness": True},
        "class_sensitivity": {"class_sensitivity": True},
        "randomisation": {"randomisation_spearman": False, "randomisation_ssim": False},
        "stability": {"sensitivity_max": False},
    }

    def __init__(
        self, checks: str | Sequence[str] | None = None, *, radius: float = 0.02, samples: int = 10, seed: int = 0
    ) -> None:
        every = tuple(self.checks)
        self.chosen = every if checks is None else (checks,) if isinstance(checks, str) else tuple(checks)
        unknown = [name for name in self.chosen if name not in self.checks]
        if unknown or not self.chosen:
            raise OptionError(f"checks must be some of {', '.join(self.checks)}, got {brief(checks)}")
        self.radius, self.samples, self.seed = radius, samples, seed
        self.figures = means(**{column: up for name in self.chosen for column, up in self.checks[name].items()})
        asks = {"method"} if set(self.chosen) != {"sparseness"} else set()
        self.needs = frozenset(asks | ({"model"} if "class_sensitivity" in self.chosen else set()))

    def __call__(self, case: Case) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name in self.chosen:
            out |= getattr(self, f"_{name}")(case)
        return out

    def _sparseness(self, case: Case) -> dict[str, Tensor]:
        return {"sparseness": sparseness(case.maps)}

    def _class_sensitivity(self, case: Case) -> dict[str, Tensor]:
        method, logits = case.required("method"), case.scores()
        if logits.shape[1] < 2:
            raise InputError("class_sensitivity compares two classes, and the model has one")
        others = logits.scatter(1, case.targets[:, None], -torch.inf).argmax(1)
        found = class_sensitivity(method, case.images, case.targets, others, maps=case.maps, options=case.options)
        return {"class_sensitivity": found}

    def _randomisation(self, case: Case) -> dict[str, Tensor]:
        found = randomisation(
            case.required("method"), case.images, case.targets, maps=case.maps, options=case.options, seed=self.seed
        )
        return {"randomisation_spearman": found.spearman.mean(1), "randomisation_ssim": found.ssim.mean(1)}

    def _stability(self, case: Case) -> dict[str, Tensor]:
        found = stability(
            case.required("method"),
            case.images,
            case.targets,
            options=case.options,
            radius=self.radius,
            samples=self.samples,
            seed=self.seed,
        )
        return {"sensitivity_max": found}


def _maps(method: Any, images: Tensor, targets: Any, options: Mapping[str, Any] | None) -> Tensor:
    """The method's maps as grids, (N, rows, cols), NaN for images that are not finite."""
    images, bad = finite(images)
    maps = method.attribute(images, target=targets, **(options or {}))
    if maps.dim() != 4:
        raise InputError(f"expected maps of shape (N, 1, rows, cols) of the method, got {tuple(maps.shape)}")
    return blank(maps.mean(1), bad)
