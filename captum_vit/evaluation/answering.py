"""A batch of questions, asked of several methods: the rows that come of it, and which methods failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..capture import Inputs
from ..errors import InputError, OptionError
from ..explanation.explaining import Explainer
from ..metrics import Case, Metric
from ..targets import Classes, Target
from .entries import Entry
from .guarding import Guard
from .scoring import annotated, columns_of
from .seeing import Seen
from .sharing import Shared, Together
from .visiting import Visit, class_of_target

Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What came of a batch.

    Attributes:
        rows: of each item by method, of those that gave maps; a map that is not finite is a row with its error.
        shared: of each item, what the rows of all methods have.
        failed: method -> why it gave no maps of this batch.
    """

    rows: list[dict[str, Row]]
    shared: list[Row]
    failed: dict[str, Exception] = field(default_factory=dict)


@dataclass(frozen=True)
class Asker:
    """Asks batches of one model.

    explainer: the model with its preprocessing.
    metrics: what scores the maps.
    asked: what all items are asked about; None where each is asked about a class of its own.
    target: "label" or "predicted", where each is.
    keep_maps: whether the rows get the maps.
    """

    explainer: Explainer
    metrics: Sequence[Metric]
    asked: Target | None
    target: str
    keep_maps: bool

    def answer(self, batch: Sequence[Seen], methods: Mapping[str, Entry], guard: Guard | None = None) -> Answers:
        """The rows of items whose inputs have one size.

        Raises:
            InputError: an item has no class to be asked about.
            ModelChangedError: a method changed the model.
            Exception: whatever the model or its capture raises, which is then not of one method.
        """
        explainer = self.explainer
        images = torch.stack([one.inputs for one in batch]).to(explainer.device, explainer.dtype)
        own = torch.tensor([-1 if one.target is None else one.target for one in batch], device=explainer.device)
        needs = frozenset().union(*(metric.reads for metric in self.metrics))
        visit = Visit(explainer.adapter, images, methods, explainer.output, needs)
        with visit.run:
            logits = visit.scores.float()
            predictions = logits.argmax(1)
            targets = self._targets(predictions, own)
            if ((targets < 0) | (targets >= logits.shape[1])).any():
                raise InputError(
                    f"the item has none of the model's {logits.shape[1]} classes; explain the predicted one, by the "
                    f"target 'predicted'"
                )
            maps, failed = visit.maps(self.asked or Classes(targets), targets, guard)
        scores = explainer.loaded.probabilities(logits).gather(1, targets[:, None])[:, 0]
        told = {"label": own, "target": targets, "prediction": predictions, "score": scores}
        shared = [
            {"item": one.index, "id": one.id, **one.known, **of_one}
            for one, of_one in zip(batch, _by_item(told, len(batch)), strict=True)
        ]
        answers = Answers([{} for _ in batch], shared, failed)
        case = replace(annotated(self._case(images, targets, logits, own), batch), run=visit.run)
        told = {name: found[:, 0] for name, found in maps.items() if not methods[name].baseline}
        together = Together(explainer.adapter, methods, explainer.output)
        for name, found in maps.items():
            method = Shared(name, methods[name], together)
            others = {other: its for other, its in told.items() if other != name}
            try:
                self._fill(answers, name, replace(case, maps=found[:, 0], method=method, others=others))
            except Exception as error:  # of a metric, asked about maps of this method
                failed[name] = error.with_traceback(None)
        return answers

    def _fill(self, answers: Answers, name: str, case: Case) -> None:
        """Put a method's rows among the answers."""
        columns = _by_item(columns_of(self.metrics, case), len(case.maps))
        kept = case.maps.flatten(1).half().cpu().numpy() if self.keep_maps else None
        for i, (rows, shared) in enumerate(zip(answers.rows, answers.shared, strict=True)):
            row = {**shared, "method": name, **columns[i]}
            if kept is not None:
                row |= {"map": kept[i], "grid": list(case.maps.shape[1:])}
            rows[name] = row
            bad = int((~case.maps[i].isfinite()).sum())
            if bad:
                reason = f"the map has {bad} of {case.maps[i].numel()} values that are NaN or infinite"
                rows[name] = failed_row(shared, name, OptionError(reason))

    def _targets(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The class of each item that metrics ask about; of a contrast the one that it is for."""
        one = class_of_target(self.asked)
        if one is not None:
            return torch.full_like(predictions, one)
        return predictions if self.target == "predicted" else labels

    def _case(self, images: Tensor, targets: Tensor, logits: Tensor, labels: Tensor) -> Case:
        """What the metrics are told, but for the maps and the annotation."""
        mean, std = self.explainer.preprocess.mean, self.explainer.preprocess.std
        return Case(
            images, targets, torch.empty(0), logits=logits, model=self.scores, mean=mean, std=std, labels=labels
        )

    def scores(self, images: Tensor) -> Tensor:
        """The model's scores of images, (N, classes)."""
        called = Inputs(images, output=self.explainer.output)
        return called.scores(self.explainer.adapter, called.run(self.explainer.adapter))


def failed_row(shared: Row, method: str, error: Exception) -> Row:
    """The row of an item, or of one method asked about it, that gave no map."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return {**shared, "method": method, "error": reason}


def _by_item(columns: Mapping[str, Tensor], count: int) -> list[Row]:
    """Columns (N, ...) as one row for each item."""
    here = {name: values.cpu() for name, values in columns.items()}
    return [{name: _value(values[i]) for name, values in here.items()} for i in range(count)]


def _value(value: Tensor) -> Any:
    return value.item() if value.dim() == 0 else value.float().numpy()
