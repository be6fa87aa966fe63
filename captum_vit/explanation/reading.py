"""One run of a model, read by all methods for all targets that were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..access import Adapter, TokenLayout
from ..access.any_model import AnyModel
from ..access.outputs import Choice, told_of
from ..attr import ViTAttribution, start
from ..attr.calls import checked_inputs
from ..attr.raw_attention import RECORDED, recorded
from ..attr.starting import shared
from ..capture import OUTPUTS, CellRun, Plain, Run
from ..explained import AttentionRecord, Attribution, Label
from ..marks import Mark
from ..targets import Classes, FeatureImportance, Output, Target
from ..verdicts import Verdict
from .asking import Asked, Wanted
from .grids import finest, placed

Flows = dict[tuple[int, str], tuple[Tensor, tuple[str, ...]]]
"""By target, as `id` tells it, and method: the flow (N, layers, *grid), and the names of its layers."""

Verdicts = Mapping[tuple[int, str], Sequence[Verdict]]
"""By target and method, as there: of each image."""

FOR_ALL = 0  # in the place of a target


class Reading:
    """What the methods say of a batch of images; to be asked inside its `run`, in one visit of the model.

    Args:
        adapter: the model.
        images: its inputs, (N, C, H, W).
        asked: methods and options.
        record: the method whose layers the attention is kept of, if it is.
        beside: keyword arguments of the model's forward beside the images.
        output: which of the model's outputs are the scores, where somebody chose.
        dense: whether each target is read from tokens of its own, so that each has a run for itself.
    """

    def __init__(
        self,
        adapter: Adapter,
        images: Tensor,
        asked: Asked,
        record: ViTAttribution | None,
        beside: Mapping[str, Any] | None = None,
        output: Choice | None = None,
        *,
        dense: bool = False,
    ) -> None:
        self.adapter, self.asked, self.record, self.dense = adapter, asked, record, dense
        self.readers = [(method, asked.options[name]) for name, method in asked.methods.items()]
        self.call = checked_inputs(adapter, images, None, beside, output)
        self._others: dict[int, Run] = {}
        self._layouts: list[TokenLayout] = []
        self._cells: CellRun | None = None
        self.plain = Plain(adapter, self.call)
        apart = dense and not isinstance(adapter, AnyModel)
        self.run = Run(adapter, self.call, {OUTPUTS}) if apart else self._started(None)

    def _started(self, target: Target | None) -> Run:
        """A run for all methods; of a target that is made of more than the scores, one for those it matters to."""
        if target is not None:
            attentive = [reader for reader in self.readers if not self._apart(reader[0])] or self.readers
            specific = [(m, o) for m, o in attentive if m.class_specific or self.dense] or attentive
            return start(specific, self.call, target, plain=self.plain if self.dense else None)
        readers = [reader for reader in self.readers if not self._apart(reader[0])] or self.readers
        if self.record is None:
            return start(readers, self.call)
        return start([*readers, (self.record, {})], self.call, needs=RECORDED)

    def _apart(self, method: ViTAttribution) -> bool:
        """Whether a method reads the model as one of any architecture, where others read its attention."""
        return isinstance(method.adapter, AnyModel) and not isinstance(self.adapter, AnyModel)

    def _run_of(self, name: str, run: Run) -> Run:
        """The run that a method reads, where the others read this one."""
        method = self.asked.methods[name]
        if not self._apart(method) or isinstance(run, CellRun):
            return run
        if self._cells is None:
            found = start([(method, self.asked.options[name])], self.call)
            assert isinstance(found, CellRun)
            self._cells = found
        self._cells.once = run.once
        return self._cells

    @property
    def layout(self) -> TokenLayout:
        """Where the maps lie on the model's inputs: that of the finest, onto whose grid the others are enlarged."""
        size = self.adapter.size_of(self.call.images)
        return finest(self._layouts, size) if self._layouts else self.run.layout

    @property
    def scores(self) -> Tensor:
        """The model's scores, (N, C)."""
        return self.plain.output.scores if self.dense else self.run.scores

    @property
    def scores_told(self) -> str:
        """Which of several outputs the scores are, in words."""
        if self.dense:
            return told_of(self.plain.output.raw, self.scores, self.call.output)
        return self.run.scores_told

    def output(self, target: Target) -> Output:
        """What the model gave, as far as the target reads it."""
        if self.dense:
            return self.plain.output
        if target.reads_scores:
            return Output(None, self.run.scores, self.adapter.headless)
        own = self._own(target)
        return Output(own.outputs, own.scores, self.adapter.headless)

    def _own(self, target: Target) -> Run:
        """The run of a target that is made of more than the scores."""
        if id(target) not in self._others:
            self._others[id(target)] = self._started(target)
        return self._others[id(target)]

    def read_for(self, target: Target) -> set[str]:
        """The attention layers that have a part in a target with a run of its own, as far as methods asked for it."""
        own = self._others.get(id(target))
        return {name for name in self.adapter.attention_layers() if own and own.readout.reads(name)}

    def whatever(self) -> Wanted:
        """What is explained of a model without classes: the feature, or the only value."""
        return Wanted(FeatureImportance() if self.adapter.headless else Classes(None), [None] * len(self.call.images))

    @property
    def specific(self) -> list[str]:
        """The methods whose maps depend on the target."""
        return [name for name, method in self.asked.methods.items() if method.class_specific or self.dense]

    def flows(self, targets: Sequence[Target]) -> Flows:
        """What each method says for each target; under `FOR_ALL` what those say that give one map for all."""
        specific = self.specific
        general = [name for name in self.asked.methods if name not in specific]
        flows = {(FOR_ALL, name): self._flow(self.run, name, Classes(None)) for name in general}
        together = [target for target in targets if shared(self.run, target)]
        flows |= self._flows(self.run, specific, together) if specific else {}
        for target in targets:
            if specific and not shared(self.run, target):
                flows |= self._flows(self._own(target), specific, [target])
        layout = self.layout
        return {key: (placed(flow, layout), layers) for key, (flow, layers) in flows.items()}

    def attributions(
        self, wanted: Sequence[Wanted], flows: Flows, verdicts: Verdicts | None = None
    ) -> list[list[Attribution]]:
        """Of each image, target by target; methods that give one map for all come last, once."""
        specific = self.specific
        found: list[list[Attribution]] = [[] for _ in self.call.images]

        def add(place: int, name: str, i: int, label: Label | None, marks: Sequence[tuple[Mark, ...]] = ()) -> None:
            flow, layers = flows[place, name]
            verdict = verdicts[place, name][i] if verdicts else None
            made = self._attribution(name, label, flow[i], layers, verdict)
            found[i].append(replace(made, marks=marks[i]) if marks else made)

        for each in wanted if specific else ():
            for name in specific:
                for i, label in enumerate(each.labels):
                    if label is not None or len(wanted) == 1:
                        add(id(each.target), name, i, label, each.marks)
        for place, name in flows:
            for i in range(len(found)) if place == FOR_ALL else ():
                add(place, name, i, None)
        return found

    def attention(self) -> list[AttentionRecord | None]:
        """The attention itself, of each image."""
        if self.record is None:
            return [None] * len(self.call.images)
        heads, patches = recorded(self.run, self.record.layers_read(self.run.readout))
        return [AttentionRecord(_one(heads, i), _one(patches, i)) for i in range(len(self.call.images))]

    def _flows(self, run: Run, names: Sequence[str], targets: Sequence[Target]) -> Flows:
        """(target, method) -> flow (N, layers, *grid) and the names of its layers.

        A method that takes several targets at once is asked first; then target by target, so that methods share a
        backward, and the graph goes with the last.
        """
        flows: Flows = {}
        for name in names:
            method, options = self.asked.methods[name], self.asked.options[name]
            if type(method)._class_maps is not ViTAttribution._class_maps and len(targets) > 1:
                own = self._run_of(name, run)
                parts = [part.cpu() for part in method._class_maps(own, targets, flow=True, **options)]
                for target, maps in zip(targets, torch.cat(parts), strict=True):
                    flows[id(target), name] = self._placed(run, name, maps)
        for number, target in enumerate(targets, 1):
            run.once = number == len(targets)
            for name in names:
                if (id(target), name) not in flows:
                    flows[id(target), name] = self._flow(run, name, target)
        return flows

    def _flow(self, run: Run, name: str, target: Target) -> tuple[Tensor, tuple[str, ...]]:
        method, options = self.asked.methods[name], self.asked.options[name]
        return self._placed(run, name, method._maps(self._run_of(name, run), target, flow=True, **options))

    def _placed(self, run: Run, name: str, maps: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        layout, layers = self.asked.methods[name].place_of(self._run_of(name, run))
        self._layouts.append(layout)
        return layout.to_grid(maps).detach().float().cpu(), layers

    def _attribution(
        self, name: str, label: Label | None, flow: Tensor, layers: tuple[str, ...], verdict: Verdict | None
    ) -> Attribution:
        options = dict(self.asked.options[name])
        facts = self.asked.methods[name].facts(**options)
        return Attribution(name, label, flow.clone(), layers, options, facts, verdict)


def _one(by_layer: Mapping[str, Tensor], image: int) -> dict[str, Tensor]:
    return {name: found[image].cpu() for name, found in by_layer.items()}
