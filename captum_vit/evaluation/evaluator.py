"""From items of a data set to rows: the plain callable that any engine can map."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import Item, Reader
from ..describing import described, versions, weights_hash
from ..errors import InputError, OptionError, RunError
from ..explanation.explaining import Explainer
from ..metrics import Case, Figure, Metric, curves_of, figures_of
from ..targets import Classes
from .entries import Entry, Method, entries
from .scoring import annotated, columns_of, departures
from .seeing import Seen, batches, class_of, see
from .visiting import Visit, asked_target, class_of_target

Row = dict[str, Any]


class Evaluator:
    """Explains items of a data set by several methods and scores the maps.

    Called with indices of items, it gives rows: one for each item and method, in this order, with the columns `item`,
    `id`, `method`, `label`, `target`, `prediction`, `score` and those of the metrics; an item that cannot be read or
    explained gives one row with its `error`. The rows of an item do not depend on the items that are asked for with it,
    but for rounding in batches of another size.

    Args:
        explainer: the model with its preprocessing.
        data: the items.
        methods: names of methods of ours; `random` and `gaussian`, maps that know nothing of the model; `all`, all that
            apply and both of these; `module:object`, which is imported; a class of Captum's, which is made of the
            model's scores; or a function `(model, images, targets) -> maps`, which is given the model itself. In a
            mapping, by the name that each has on the leaderboard, also attributions that are made already.
        metrics: what scores the maps; no two of them may have a figure or a curve of one name.
        options: of the methods, each of which is given those that it knows.
        target: "label" explains the item's own class, "predicted" the one that the model predicts; a Contrast, or
            "tabby/Egyptian cat", why all items are the one rather than the other, and metrics then ask about the one;
            any other target, or `module:object`, is explained too, and metrics ask about the item's own class.
        batch_size: images at once.
        keep_maps: add the maps to the rows: `map`, float16, flat, and `grid`, its rows and columns.
    Raises:
        OptionError: an argument outside its range, a model without classes, or a method that nobody knows.
    """

    def __init__(
        self,
        explainer: Explainer,
        data: Reader,
        methods: Sequence[Method] | Mapping[str, Any],
        metrics: Sequence[Metric],
        *,
        options: Mapping[str, Any] | None = None,
        target: Any = "label",
        batch_size: int = 16,
        keep_maps: bool = False,
    ) -> None:
        if explainer.headless:
            raise OptionError(f"an evaluation needs classes, and {explainer.model_name!r} gives features")
        if batch_size < 1 or not (metrics or keep_maps):
            raise OptionError("expected batches of at least 1, and metrics, or keep_maps=True for the maps alone")
        self.explainer, self.data, self.metrics = explainer, data, list(metrics)
        self.entries = entries(methods, explainer, options)
        self.asked = asked_target(target, explainer)
        self.target = target if self.asked is None else self.asked.text(explainer.names)
        self.batch_size, self.keep_maps = batch_size, keep_maps
        names = [name for metric in metrics for name in (*metric.figures, *metric.curves)]
        titles = [metric.title for metric in metrics]
        for what, named in (("have a figure", names), ("are called", titles)):
            twice = [name for name in named if named.count(name) > 1]
            if twice:
                raise OptionError(f"two metrics {what} {twice[0]!r}: evaluate them in two runs")

    @property
    def figures(self) -> dict[str, Figure]:
        """What a leaderboard makes of the rows."""
        return figures_of(self.metrics)

    @property
    def curves(self) -> dict[str, tuple[float, float]]:
        """The columns that hold curves, with their first and last level."""
        return curves_of(self.metrics)

    @property
    def notes(self) -> list[str]:
        """How this run differs from what the protocols of its metrics were published with."""
        return departures(self.metrics, target=self.target, squashed=self.explainer.squashed)

    def describe(self) -> dict[str, Any]:
        """All that decides the rows, as JSON; where the data lies, the device and the batches do not."""
        data = {name: value for name, value in self.data.describe().items() if name != "root"}
        return {
            "model": self.explainer.model_name,
            "weights": weights_hash(self.explainer.loaded.model),
            "preprocessing": self.explainer.preprocess.describe(),
            "data": data,
            "methods": {name: entry.describe() for name, entry in self.entries.items()},
            "metrics": {metric.title: metric.describe() for metric in self.metrics},
            "target": self.target if self.asked is None else [self.target, described(self.asked)],
            "keep_maps": self.keep_maps,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "curves": self.curves,
            "versions": {name: found for name, found in versions().items() if name != "python"},
        }

    def rehearse(self) -> None:
        """Ask every method and metric about one grey image: what can never work is known before a long run begins.

        Raises:
            RunError: a method fails, or changes the model; or a metric fails.
        """
        side = 256
        grey = Image.new("RGB", (side, side), (128, 128, 128))
        middle = np.zeros((side, side), bool)
        middle[side // 4 : -side // 4, side // 4 : -side // 4] = True
        image = self._seen(-1, Item("grey/0", grey, None, middle), 0)
        model = self.explainer.loaded.model
        before = _state(model)
        for name, entry in self.entries.items():
            try:
                self._explain([image], {name: entry})
            except Exception as error:
                raise RunError(
                    f"{name!r} fails on a grey image already, so it would on any: {type(error).__name__}: {error}"
                ) from error
            if _state(model) != before:
                raise RunError(f"{name!r} changes the model, and with it the maps of all other methods")

    def __call__(self, indices: Iterable[int]) -> list[Row]:
        """The rows of these items."""
        rows: dict[int, list[Row]] = {}
        seen: list[Seen] = []
        for index in indices:
            try:
                seen.append(self._see(index))
            except Exception as error:  # whatever a file or an annotation leads to concerns this item alone
                rows[index] = [_failed(index, self._id(index), error)]
        for batch in batches(seen, self.batch_size):
            for one, of_one in zip(batch, self._rows(batch), strict=True):
                rows[one.index] = of_one
        return [row for index in sorted(rows) for row in rows[index]]

    def _rows(self, batch: list[Seen]) -> list[list[Row]]:
        """Rows of items whose inputs have one size; if the batch fails, each item by itself."""
        try:
            return self._explain(batch, self.entries)
        except Exception as error:
            if len(batch) > 1:
                return [rows for one in batch for rows in self._rows([one])]
            return [[_failed(batch[0].index, batch[0].id, error)]]

    def _explain(self, batch: list[Seen], methods: Mapping[str, Entry]) -> list[list[Row]]:
        device = self.explainer.device
        images = torch.stack([one.inputs for one in batch]).to(device, self.explainer.dtype)
        own = torch.tensor([-1 if one.target is None else one.target for one in batch], device=device)
        visit = Visit(self.explainer.adapter, images, methods)
        with visit.run:
            logits = visit.scores.float()
            predictions = logits.argmax(1)
            targets = self._targets(predictions, own)
            if ((targets < 0) | (targets >= logits.shape[1])).any():
                raise InputError(
                    f"the item has none of the model's {logits.shape[1]} classes; explain the predicted one, by the "
                    f"target 'predicted'"
                )
            each = visit.maps(self.asked or Classes(targets), targets)
        scores = self.explainer.loaded.probabilities(logits).gather(1, targets[:, None])[:, 0]
        rows: list[list[Row]] = [[] for _ in batch]
        shared = {"label": own, "target": targets, "prediction": predictions, "score": scores}
        case = self._case(batch, images, targets, logits, own)
        for name, entry in methods.items():
            maps = each[name][:, 0]
            found = self._score(replace(case, maps=maps, method=entry))
            columns = {column: values.cpu() for column, values in (shared | found).items()}
            kept = maps.flatten(1).half().cpu().numpy() if self.keep_maps else None
            for i, one in enumerate(batch):
                row = {"item": one.index, "id": one.id, "method": name}
                row |= {column: _value(values[i]) for column, values in columns.items()}
                if kept is not None:
                    row |= {"map": kept[i], "grid": list(maps.shape[1:])}
                rows[i].append(row)
        return rows

    def _targets(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The class of each item that metrics ask about; of a contrast the one that it is for."""
        one = class_of_target(self.asked)
        if one is not None:
            return torch.full_like(predictions, one)
        return predictions if self.target == "predicted" else labels

    def _case(self, batch: list[Seen], images: Tensor, targets: Tensor, logits: Tensor, labels: Tensor) -> Case:
        """What the metrics are told, but for the maps."""
        mean, std = self.explainer.preprocess.mean, self.explainer.preprocess.std
        asked = Case(
            images, targets, torch.empty(0), logits=logits, model=self._model, mean=mean, std=std, labels=labels
        )
        return annotated(asked, batch)

    def _score(self, case: Case) -> dict[str, Tensor]:
        return columns_of(self.metrics, case)

    def _model(self, images: Tensor) -> Tensor:
        return self.explainer.adapter.scores(self.explainer.loaded.model(images))

    def _see(self, index: int) -> Seen:
        item = self.data[index]
        return self._seen(index, item, class_of(item, self.explainer, required=self.target == "label"))

    def _seen(self, index: int, item: Item, target: int | None) -> Seen:
        return see(index, item, target, self.explainer)

    def _id(self, index: int) -> str:
        ids = getattr(self.data, "ids", None)
        return ids[index] if ids is not None else f"item {index}"


def _state(model: nn.Module) -> tuple[Any, ...]:
    """What of a model tells that somebody changed it: versions of its tensors, modes and numbers of hooks."""
    versions = tuple(tensor._version for tensor in (*model.parameters(), *model.buffers()))
    return versions, tuple(
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    )


def _value(value: Tensor) -> Any:
    return value.item() if value.dim() == 0 else value.float().numpy()


def _failed(index: int, name: str, error: Exception) -> Row:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return {"item": index, "id": name, "method": "", "error": reason}
