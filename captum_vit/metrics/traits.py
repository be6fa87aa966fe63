"""What maps are like, whatever they point at: how flat, how like those of other methods, whether they add up."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..capture import TOKENS
from ..errors import OptionError, brief
from .agreement import rank_agreement, top_overlap
from .artifacts import artifact_share, artifact_tokens, token_norms
from .base import Case, Metric, blank, graded, means
from .spread import flatness


def completeness_errors(parts: Tensor) -> tuple[Tensor, Tensor]:
    """How far a map, and all that its method accounts for, are from the score, (N,) float64 each.

    `|score - held| / max(|score|, sum_k |part_k|)`: the second term keeps a score near 0 from making any error endless.

    Args:
        parts: (N, 5): of each image the score, and how much of it the map, prefix tokens, biases and a softmax hold, as
            `captum_vit.attr.completeness.Completeness` has them.
    Returns:
        The error of the map by itself, of which its method knows where it lies; and of all parts, which is one of the
        computation. NaN where all are 0.
    """
    score, held = parts[:, 0].double(), parts[:, 1:].double()
    whole = torch.maximum(score.abs(), held.abs().sum(1))
    of_map = torch.maximum(score.abs(), held[:, 0].abs())
    return (score - held[:, 0]).abs() / of_map, (score - held.sum(1)).abs() / whole


class Traits(Metric):
    """What maps are like: `flatness`, `agreement` with other methods, the share on `artifacts`, and `completeness`.

    Columns: "flatness"; "agreement_rank" and "agreement_top", means over the other methods of the run, baselines left
    out; "artifact_share", of the map, and "artifact_tokens", the share of all patches that are artifacts, which a map
    that is not drawn to them has on them; "completeness_map" and "completeness_error", of methods that say where the
    score is that is not on the map, as `CPLRP` does. All is of the patches, in whatever form the map comes.

    Args:
        checks: one or several of "flatness", "agreement", "artifacts" and "completeness"; all by default.
    Raises:
        OptionError: another check.
    """

    name = "traits"
    checks: Mapping[str, Mapping[str, bool]] = {
        "flatness": {"flatness": False},
        "agreement": {"agreement_rank": True, "agreement_top": True},
        "artifacts": {"artifact_share": False, "artifact_tokens": False},
        "completeness": {"completeness_map": False, "completeness_error": False},
    }
    words: Mapping[str, str] = {
        "flatness": "Is the map spread over the whole image (1), or a single peak (0)?",
        "agreement_rank": "Do the other methods order the patches alike?",
        "agreement_top": "Do the other methods have the same tenth of the patches highest?",
        "artifact_share": "Which part of the map lies on tokens of an abnormal norm?",
        "artifact_tokens": "How many of the patches are tokens of an abnormal norm?",
        "completeness_map": "How far is the map's sum from the score?",
        "completeness_error": "How far is all that the method accounts for from the score?",
    }

    def __init__(self, checks: str | Sequence[str] | None = None) -> None:
        self.chosen = tuple(self.checks) if checks is None else (checks,) if isinstance(checks, str) else tuple(checks)
        if not self.chosen or any(name not in self.checks for name in self.chosen):
            raise OptionError(f"checks must be some of {', '.join(self.checks)}, got {brief(checks)}")
        figures = means(self.words, **{k: up for name in self.chosen for k, up in self.checks[name].items()})
        self.figures = graded(figures, *figures, contest=False)
        asks = {"completeness": "method", "agreement": "others"}
        self.needs = frozenset({"run", *(asks[name] for name in self.chosen if name in asks)})
        self.reads = frozenset({TOKENS} if "artifacts" in self.chosen else ())

    def __call__(self, case: Case) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name in self.chosen:
            out |= getattr(self, f"_{name}")(case)
        return out

    def _flatness(self, case: Case) -> dict[str, Tensor]:
        return {"flatness": flatness(case.on_patches())}

    def _agreement(self, case: Case) -> dict[str, Tensor]:
        maps, others = case.on_patches(), [case.on_patches(other) for other in case.others.values()]
        none = torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
        ranks = torch.stack([none, *(rank_agreement(maps, other) for other in others)])
        tops = torch.stack([none, *(top_overlap(maps, other) for other in others)])
        return {"agreement_rank": ranks.nanmean(0), "agreement_top": tops.nanmean(0)}

    def _artifacts(self, case: Case) -> dict[str, Tensor]:
        found = case.once("artifacts", lambda: artifact_tokens(token_norms(case.of_run())))
        maps = case.on_patches()
        return {
            "artifact_share": artifact_share(maps, found.to(maps.device)),
            "artifact_tokens": found.flatten(1).double().mean(1).to(maps.device),
        }

    def _completeness(self, case: Case) -> dict[str, Tensor]:
        accounts = getattr(case.required("method"), "completeness", None)
        told = None
        if callable(accounts):
            told = accounts(case.images, case.targets, output=case.of_run().inputs.output, **case.options)
        rows = [[torch.nan] * 5] * len(case.images)
        if told is not None:
            rows = [[one.score, one.map, one.prefix, one.biases, one.softmax] for one in told]
        parts = torch.tensor(rows, dtype=torch.float64, device=case.maps.device)
        bad = ~case.maps.isfinite().flatten(1).all(1)
        of_map, error = (blank(values, bad) for values in completeness_errors(parts))
        return {"completeness_map": of_map, "completeness_error": error}
