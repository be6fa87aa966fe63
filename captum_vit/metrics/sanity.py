"""Whether a map depends on what it should (the class, the model's weights), and on nothing that it should not."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum.metrics import sensitivity_max
from torch import Tensor

from ..errors import InputError, OptionError, brief
from .base import Case, Metric, blank, finite, graded, means
from .cascade import efficient_randomisation, maps_of, randomisation
from .similarity import correlation


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
    first = maps_of(method, images, targets, options) if maps is None else maps
    second = maps_of(method, images, others, options)
    same = (first == second).flatten(1).all(1) & first.isfinite().flatten(1).all(1)
    return torch.where(same, 0.0, 1 - correlation(first, second))


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
        return (maps_of(method, x, target, options).contiguous(),)  # captum would iterate over a bare tensor

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
    "randomisation_spearman" and "randomisation_ssim", means over the stages; "emprt"; "sensitivity_max", of the
    stability.

    Args:
        checks: one or several of "sparseness", "class_sensitivity", "randomisation", "emprt" and "stability"; all by
            default.
        radius, samples: of the stability.
        seed: of the stability's noise and the randomisation's weights.
    """

    name = "sanity"
    checks: Mapping[str, Mapping[str, bool]] = {
        "sparseness": {"sparseness": True},
        "class_sensitivity": {"class_sensitivity": True},
        "randomisation": {"randomisation_spearman": False, "randomisation_ssim": False},
        "emprt": {"emprt": True},
        "stability": {"sensitivity_max": False},
    }
    words: Mapping[str, str] = {
        "sparseness": "Does the map show little, rather than a bit of everything?",
        "class_sensitivity": "Does the map change where another class is asked about?",
        "randomisation_spearman": "Does the map stay the same where the model's weights are drawn anew (by ranks)?",
        "randomisation_ssim": "Does the map stay the same where the model's weights are drawn anew (as a picture)?",
        "emprt": "Does the map lose its structure where all of the model's weights are drawn anew?",
        "sensitivity_max": "How much does the map change under small noise?",
    }

    first = ("class_sensitivity", "emprt", "sensitivity_max")

    def __init__(
        self, checks: str | Sequence[str] | None = None, *, radius: float = 0.02, samples: int = 10, seed: int = 0
    ) -> None:
        every = tuple(self.checks)
        self.chosen = every if checks is None else (checks,) if isinstance(checks, str) else tuple(checks)
        unknown = [name for name in self.chosen if name not in self.checks]
        if unknown or not self.chosen:
            raise OptionError(f"checks must be some of {', '.join(self.checks)}, got {brief(checks)}")
        self.radius, self.samples, self.seed = radius, samples, seed
        figures = means(self.words, **{column: up for name in self.chosen for column, up in self.checks[name].items()})
        self.figures = graded(figures, *self.first, contest=False)
        asks = {"method"} if set(self.chosen) != {"sparseness"} else set()
        self.needs = frozenset(asks | ({"model"} if "class_sensitivity" in self.chosen else set()))

    def __call__(self, case: Case) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name in self.chosen:
            if name not in out:
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
        out = {"randomisation_spearman": found.spearman.mean(1), "randomisation_ssim": found.ssim.mean(1)}
        return out | (self._emprt(case, found.last) if "emprt" in self.chosen else {})

    def _emprt(self, case: Case, last: Tensor | None = None) -> dict[str, Tensor]:
        found = efficient_randomisation(
            case.required("method"),
            case.images,
            case.targets,
            maps=case.maps,
            last=last,
            options=case.options,
            seed=self.seed,
        )
        return {"emprt": found}

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
