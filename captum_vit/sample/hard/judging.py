"""How good a model of the scenes is, and what its answers rest on, by scenes that no run has seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..train import average_precision, normalise
from . import CONFIG
from .plan import MARKED, SKIED
from .scenes import Plan

TEST_SEED = 2**32  # beyond the seeds that a run would use


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


@torch.no_grad()
def scores_of(model: nn.Module, plan: Plan) -> np.ndarray:
    """The scores of scenes, (N, 6)."""
    images = normalise(plan.render(CONFIG["img_size"]).images)
    return torch.cat([model(part.to(device_of(model))).cpu() for part in images.split(250)]).numpy()


def evaluate(model: nn.Module, scenes: int = 1500, *, shortcuts: bool = False) -> np.ndarray:
    """Average precision of each class on scenes that no run has seen, by default without shortcuts: (6,)."""
    rng, wishes = np.random.default_rng(TEST_SEED), {} if shortcuts else {"mark": 0.0, "sky": 0.0}
    scores, truths = [], []
    for start in range(0, scenes, 250):
        plan = Plan.draw(rng, min(250, scenes - start), **wishes)
        scores.append(scores_of(model, plan))
        truths.append(plan.labels)
    return average_precision(np.concatenate(scores), np.concatenate(truths))


def interventions(model: nn.Module, scenes: int = 1000) -> dict[str, float]:
    """How often the answer changes when a thing is taken out of scenes that no run has seen, as shares.

    Of an object and of a shortcut, the scenes count in which the model names the class; of a negative, all.
    """
    plain = {"mark": 0.0, "sky": 0.0}
    asked: dict[str, tuple[dict[str, Any], Callable[[Plan, int], Plan]]] = {
        "reason": ({"objects": 2, **plain}, Plan.without_objects),
        "distractor": ({"objects": 1, "alike": 1.0, **plain}, Plan.without_distractors),
        "sticker": ({"mark": 1.0, "sky": 0.0, "beside": 0.0}, Plan.without_shortcut),
        "sky": ({"mark": 0.0, "sky": 1.0, "beside": 0.0}, Plan.without_shortcut),
    }
    shares = {}
    for name, (wishes, without) in asked.items():
        plan = Plan.draw(TEST_SEED + 1, scenes, **wishes)
        fixed = {"sticker": MARKED, "sky": SKIED}.get(name)
        labels = plan.things["kind"][:, 0].astype(int) if fixed is None else np.full(scenes, fixed)
        before, after = np.zeros(scenes, bool), np.zeros(scenes, bool)
        for label in np.unique(labels[labels >= 0]):
            rows = np.flatnonzero(labels == label)
            for found, shown in (before, plan[rows]), (after, without(plan[rows], int(label))):
                found[rows] = scores_of(model, shown)[:, label] > 0
        counts = (labels >= 0) & (before if name != "distractor" else plan.looks_like[np.arange(scenes), labels])
        shares[name] = float((before != after)[counts].mean()) if counts.any() else math.nan
    return shares
