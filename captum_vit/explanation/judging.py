"""Whether maps may be trusted: a verdict of each, with one line that says it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ..attr import ViTAttribution
from ..capture import TOKENS, CellRun, Run
from ..colours import nearly_flat
from ..errors import UnsupportedModelError
from ..explained import Attribution, Label
from ..metrics.agreement import rank_agreement
from ..metrics.artifacts import artifact_share, artifact_tokens, token_norms
from ..metrics.similarity import correlation
from ..models import LoadedModel
from ..targets import Classes, Output, Target
from ..untrained import looks_untrained
from ..unusual import adds_up
from ..verdicts import Verdict
from .asking import Wanted
from .marked import LogOdds, without_marks
from .reading import FOR_ALL, Flows, Reading, Verdicts


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges the maps of a batch of images; to be asked inside the run of their reading.

    run: of the model.
    methods, options: by name.
    output: what the model gave, as far as a target reads it.
    wanted: what is explained.
    seconds: by target, as `id` tells it, another whose maps are compared with its own; see `second_classes`.
    loaded: the model, which knows what its scores are.
    artifacts: which patches are artifacts, bool (N, *grid); None where that is not known.
    dense: whether each target is read from tokens of its own, also by methods that have one map for all classes.
    """

    run: Run
    methods: Mapping[str, ViTAttribution]
    options: Mapping[str, Mapping[str, Any]]
    output: Callable[[Target], Output]
    wanted: Sequence[Wanted]
    seconds: Mapping[int, Wanted]
    loaded: LoadedModel
    artifacts: Tensor | None = None
    dense: bool = False

    @property
    def targets(self) -> list[Target]:
        """Of which maps are needed: what is explained, and what it is compared with."""
        every = [*self.wanted, *self.seconds.values()]
        return list({id(each.target): each.target for each in every}.values())

    def verdicts(self, flows: Flows) -> Verdicts:
        """Of each target and method, of each image."""
        found: dict[tuple[int, str], Sequence[Verdict]] = {}
        specific = self.specific
        for each in self.wanted if specific else ():
            found |= self._of(each, id(each.target), specific, flows)
        general = [name for place, name in flows if place == FOR_ALL]
        return found | (self._of(self.wanted[0], FOR_ALL, general, flows) if general else {})

    @property
    def specific(self) -> list[str]:
        """The methods whose maps depend on the target."""
        return [name for name, method in self.methods.items() if method.class_specific or self.dense]

    @cached_property
    def untrained(self) -> bool:
        """Whether nothing was learnt: it was said, or shows in the weights."""
        return self.loaded.random or looks_untrained(self.loaded.model)

    def _of(self, wanted: Wanted, place: int, names: Sequence[str], flows: Flows) -> dict[Any, Sequence[Verdict]]:
        known = [_named(label, wanted.target) for label in wanted.labels]
        target = asked_of(self.run, wanted, self.loaded)
        whole = target.score(self.output(target if target.reads_scores else wanted.target))
        maps = {name: flows[place, name][0][:, -1].flatten(1) for name in names}
        return {
            (place, name): [
                replace(verdict, **self._beside(wanted, place, name, i, flows)) for i, verdict in enumerate(each)
            ]
            for name, each in without_marks(self.run, target, whole, maps, known).items()
        }

    def _beside(self, wanted: Wanted, place: int, name: str, i: int, flows: Flows) -> dict[str, Any]:
        """What else there is to say of the map of image `i`: fields of a Verdict."""

        def map_of(place: int, name: str) -> Tensor:
            return flows[place, name][0][i, -1].flatten().view(1, 1, -1)

        own, target = map_of(place, name), wanted.target
        places = [(id(target), other) for other in self.specific]
        places += [(at, other) for at, other in flows if at == FOR_ALL]
        told = {"flat": nearly_flat(own), **agreement(own, [map_of(*at) for at in places if at[1] != name])}
        told |= {"untrained": self.untrained, "for_all": place == FOR_ALL}
        if self.artifacts is not None:
            found = self.artifacts[i].flatten().view(1, 1, -1).cpu()
            told["artifact_share"] = number(artifact_share(own.cpu(), found))
            told["artifact_tokens"] = float(found.double().mean())
        if place == FOR_ALL:
            return told
        second = self.seconds.get(id(target))
        label = second.labels[i] if second else None
        if second is not None and label is not None:
            told |= {"second": label.title, "likeness": number(correlation(own, map_of(id(second.target), name)))}
        if self.methods[name].sums_to_score(**self.options[name]):
            score = float(target.score(self.output(target))[i])
            told["sum"] = float(own.sum()) / score if score else None
        return told


def attributions(
    reading: Reading,
    wanted: Sequence[Wanted],
    loaded: LoadedModel,
    shares: Tensor | None,
    label: Callable[[int, Tensor], Label],
) -> list[list[Attribution]]:
    """What the methods say of each image, with verdicts where they are asked for.

    Args:
        reading: the run, and the methods.
        wanted: what is explained.
        loaded: the model.
        shares, label: see `second_classes`.
    """
    if not reading.asked.verdict:
        return reading.attributions(wanted, reading.flows([each.target for each in wanted]))
    asked = reading.asked
    seconds = second_classes(wanted, shares, label) if reading.specific else {}
    artifacts = artifacts_of(reading.run)
    judge = Judge(
        reading.run, asked.methods, asked.options, reading.output, wanted, seconds, loaded, artifacts, reading.dense
    )
    flows = reading.flows(judge.targets)
    return reading.attributions(wanted, flows, judge.verdicts(flows))


def second_classes(
    wanted: Sequence[Wanted], shares: Tensor | None = None, label: Callable[[int, Tensor], Label] | None = None
) -> dict[int, Wanted]:
    """By target, as `id` tells it, the class whose maps its own are compared with.

    Of several classes that are explained the first, and for the first the second; of a single one the best among the
    others, whose maps have to be made.

    Args:
        wanted: what is explained.
        shares: scores of the classes, (N, C); without them, as of a model without classes, no maps are made.
        label: of a class, with the scores of an image.
    """
    classes = [each for each in wanted if of_class(each)]
    if len(classes) > 1:
        return {id(each.target): classes[1] if each is classes[0] else classes[0] for each in classes}
    if shares is None or label is None or shares.dim() != 2 or shares.shape[1] < 2 or not classes:
        return {}
    rest = shares.clone()
    for i, each in enumerate(classes[0].labels):
        if each is not None and each.index is not None:
            rest[i, each.index] = -torch.inf
    best = rest.argmax(1).tolist()
    second = Wanted(Classes(best), [label(index, row) for index, row in zip(best, shares, strict=True)])
    return {id(classes[0].target): second}


def artifacts_of(run: Run) -> Tensor | None:
    """Which patches are artifacts by the norms of their tokens after the last block, bool (N, *grid).

    It takes a forward of its own. None where the token stream is not known.
    """
    if isinstance(run, CellRun):
        return None
    try:
        with Run(run.adapter, run.inputs, {TOKENS}, layers=lambda _: (), readout=run.readout) as plain:
            return artifact_tokens(token_norms(plain))
    except UnsupportedModelError:
        return None


def asked_of(run: Run, wanted: Wanted, loaded: LoadedModel) -> Target:
    """What is asked of the model without some patches: of a class its log-odds."""
    if not of_class(wanted):
        return wanted.target
    return LogOdds(wanted.target, loaded.multi_label, loaded.shares or adds_up(run.scores))


def of_class(wanted: Wanted) -> bool:
    """Whether a target is a class, with a score in 0..1."""
    return any(label is not None and label.index is not None for label in wanted.labels)


def agreement(own: Tensor, others: Sequence[Tensor]) -> dict[str, Any]:
    """How far a map agrees with those of other methods: fields of a Verdict, none if there are none."""
    found = [number(rank_agreement(own, other)) for other in others]
    known = [value for value in found if value is not None]
    return {"others": len(known), "agreement": sum(known) / len(known)} if known else {}


def number(value: Any) -> float | None:
    """A number, None in place of NaN."""
    return float(value) if isfinite(float(value)) else None


def _named(label: Label | None, target: Target) -> Verdict:
    """Of a class, or of another target with the unit of its number; without a label of the only value of a model
    without classes, or of its features."""
    if label is not None:
        return Verdict(label.title, unit=target.unit if label.index is None else label.unit)
    return Verdict("", unit="value" if isinstance(target, Classes) else target.unit)
