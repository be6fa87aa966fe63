"""Scenes of photographs in which it is known what decides: for the model `sample/hard`, with nothing to download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..sample.hard import CLASSES, MARKED, SKIED, Batch, Plan
from .base import Item, Row, one_of
from .scenes import Drawn

_PLAIN: dict[str, Any] = {"mark": 0.0, "sky": 0.0}
TRUTHS: Mapping[str, dict[str, Any]] = {
    "reason": {"objects": 2, **_PLAIN},
    "distractor": {"objects": 1, "alike": 1.0, **_PLAIN},
    "shortcut": {"mark": 1.0, "sky": 0.0, "beside": 0.0},
    "background": {"mark": 0.0, "sky": 1.0, "beside": 0.0},
}
"""What is asked of a map, and the wishes by which its scenes are drawn."""


class Planted(Drawn):
    """Scenes in which the reason for a class is known, one row each: where does the map say that it is?

    - `truth=reason`: the mask is the object that decides, beside another and perhaps a negative of either.
    - `truth=distractor`: only the object and its photographic negative count, the rest is void: a map that tells them
      apart ranks all pixels of the one before those of the other.
    - `truth=shortcut`: a sticker in a corner stands for the cup, which is not there; the mask is the sticker.
    - `truth=background`: the starry sky stands for the shuttle, which is not there; the mask is all of it that shows.

    Args:
        root: number of scenes; 100 if empty.
        truth: what is asked.
        size: height and width in pixels.
        first: number of the first seed that is looked at; scenes that do not hold what is asked are passed over.
    """

    kind = "planted"

    def __init__(self, root: str | Path = "", *, truth: str = "reason", size: int = 384, first: int = 0) -> None:
        super().__init__(root, truth=one_of(truth, list(TRUTHS), "truth"), size=size, first=first)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(CLASSES))

    def list_rows(self) -> list[Row]:
        return list(islice(self._all_rows(), self.scenes))

    def _all_rows(self) -> Iterator[Row]:
        for seed in count(self.options["first"]):
            label = self._asked(self.plan(seed))
            if label is not None:
                yield Row(f"{self.options['truth']}-{seed:05d}/{CLASSES[label]}", label, seed)

    def plan(self, seed: int) -> Plan:
        """What stands in the scene of a seed."""
        return Plan.draw(seed, **TRUTHS[self.options["truth"]])

    def _asked(self, plan: Plan) -> int | None:
        """The class whose reason is asked about; None of a scene that does not hold what is asked."""
        truth, present = self.options["truth"], np.flatnonzero(plan.labels[0])
        if truth in ("shortcut", "background"):
            return MARKED if truth == "shortcut" else SKIED
        if truth == "distractor":
            return int(present[0]) if len(present) and plan.looks_like[0, present[0]] else None
        return int(plan.things["kind"][0, 0])

    def read(self, row: Row) -> Item:
        batch: Batch = self.plan(row.source).render(self.options["size"])
        label, truth = int(row.target or 0), self.options["truth"]
        own = batch.masks if truth in ("reason", "distractor") else batch.shortcuts
        valid = batch.masks[0, label] | batch.distractors[0, label] if truth == "distractor" else None
        return Item(row.id, Image.fromarray(batch.images[0]), label, own[0, label].copy(), valid=valid)
