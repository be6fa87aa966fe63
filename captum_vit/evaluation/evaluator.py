"""From items of a data set to rows: the plain callable that any engine can map."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from PIL import Image

from ..capture import Inputs
from ..checking import check_whole
from ..data import Item, Reader
from ..data.content import content
from ..describing import described, versions, weights_hash
from ..errors import InputError, OptionError, RunError
from ..explanation.explaining import Explainer
from ..metrics import Figure, Metric, curves_of, figures_of
from .answering import Asker, Row, failed_row
from .entries import Method, entries
from .guarding import Guard, ModelChangedError
from .modelling import describe_model, describe_preprocessing
from .scoring import departures
from .seeing import Seen, batches, class_of, see
from .unchanged import drawing_versions, stamp_of
from .visiting import asked_target


class Evaluator:
    """Explains items of a data set by several methods and scores the maps.

    Called with indices of items, it gives rows: one for each item and method, in this order, with the columns `item`,
    `id`, `stamp`, `content`, `method`, `label`, `target`, `prediction`, `score` and those of the metrics. A method that
    fails for an item, or gives a map that is not finite, has a row with its `error`; an item that cannot be read or
    explained gives one row with its `error`, of no method. The rows of an item do not depend on the others that are
    asked for, but for rounding in batches of another size.

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
        check_whole("batch_size", batch_size)
        if not (metrics or keep_maps):
            raise OptionError("expected metrics, or keep_maps=True for the maps alone")
        self.explainer, self.data, self.metrics = explainer, data, list(metrics)
        self.entries = entries(methods, explainer, options)
        self.asked = asked_target(target, explainer)
        self.target = target if self.asked is None else self.asked.text(explainer.names)
        self.batch_size, self.keep_maps = batch_size, keep_maps
        self._asker = Asker(explainer, self.metrics, self.asked, self.target, keep_maps)
        self._guard: Guard | None = None
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
            "architecture": describe_model(self.explainer.loaded),
            "class_names": {str(number): name for number, name in self.explainer.names.items()},
            "output": described(self.explainer.output),
            "preprocessing": describe_preprocessing(self.explainer.preprocess),
            "data": data,
            "methods": {name: entry.describe() for name, entry in self.entries.items()},
            "metrics": {metric.title: metric.describe() for metric in self.metrics},
            "target": self.target if self.asked is None else [self.target, described(self.asked)],
            "keep_maps": self.keep_maps,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "curves": self.curves,
            "versions": {name: found for name, found in (versions() | drawing_versions()).items() if name != "python"},
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
        image = see(-1, Item("grey/0", grey, None, middle), 0, self.explainer)
        guard = self._guarded(image)
        for name, entry in self.entries.items():
            try:
                error = self._asker.answer([image], {name: entry}).failed.get(name)
            except Exception as raised:
                error = raised
            if error is not None:
                raise RunError(
                    f"{name!r} fails on a grey image already, so it would on any: {type(error).__name__}: {error}"
                ) from error
            guard.check([name], values=True)

    def __call__(self, indices: Iterable[int], done: Callable[[int], object] = lambda count: None) -> list[Row]:
        """The rows of these items.

        Args:
            indices: of the items.
            done: told after each batch how many items were in it.
        Raises:
            ModelChangedError: a method changed the model.
        """
        rows: dict[int, list[Row]] = {}
        seen: list[Seen] = []
        for index in indices:
            try:
                seen.append(self._see(index))
            except Exception as error:  # whatever a file or an annotation leads to concerns this item alone
                rows[index] = [failed_row({"item": index, "id": self._id(index)}, "", error)]
        done(len(rows))
        for batch in batches(seen, self.batch_size):
            self._guard = self._guard or self._guarded(batch[0])
            for one, of_one in zip(batch, self._rows(batch), strict=True):
                rows[one.index] = of_one
            self._guard.check(list(self.entries))
            done(len(batch))
        if self._guard:
            self._guard.check(list(self.entries), values=True)
        return [row for index in sorted(rows) for row in rows[index]]

    def _guarded(self, one: Seen) -> Guard:
        """A guard over the model, which has seen what a forward of one image does to it."""
        images = one.inputs[None].to(self.explainer.device, self.explainer.dtype)
        call = Inputs(images)
        return Guard(self.explainer.loaded.model, lambda: call.run(self.explainer.adapter))

    def _rows(self, batch: list[Seen]) -> list[list[Row]]:
        """Rows of items whose inputs have one size; what fails in a batch is asked again about each item by itself."""
        try:
            answers = self._asker.answer(batch, self.entries, self._guard)
        except ModelChangedError:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [rows for one in batch for rows in self._rows([one])]
            return [self._one_by_one(batch[0], error)]
        if answers.failed and len(batch) > 1 and any("others" in metric.needs for metric in self.metrics):
            return [rows for one in batch for rows in self._rows([one])]  # which ask about all methods together
        found = []
        for one, rows, shared in zip(batch, answers.rows, answers.shared, strict=True):
            for name, reason in answers.failed.items():
                rows[name] = self._again(one, name, shared) if len(batch) > 1 else failed_row(shared, name, reason)
            found.append([rows[name] for name in self.entries])
        return found

    def _again(self, one: Seen, name: str, shared: Row) -> Row:
        """The row of a method that failed in a batch, asked about one item alone."""
        try:
            answers = self._asker.answer([one], {name: self.entries[name]}, self._guard)
        except ModelChangedError:
            raise
        except Exception as error:
            return failed_row(shared, name, error)
        return answers.rows[0].get(name) or failed_row(shared, name, answers.failed[name])

    def _one_by_one(self, one: Seen, error: Exception) -> list[Row]:
        """The rows of an item whose methods cannot be asked together; one row, if none can be asked at all."""
        shared = {"item": one.index, "id": one.id, **one.known}
        if isinstance(error, InputError) or len(self.entries) == 1:  # it is the item that does not hold
            return [failed_row(shared, "", error)]
        rows = [self._again(one, name, shared) for name in self.entries]
        return rows if any("score" in row for row in rows) else [failed_row(shared, "", error)]

    def _see(self, index: int) -> Seen:
        known = {"stamp": stamp_of(self.data, index)}
        item = self.data[index]
        target = class_of(item, self.explainer, required=self.target == "label")
        return replace(see(index, item, target, self.explainer), known=known | {"content": content(item)})

    def _id(self, index: int) -> str:
        ids = getattr(self.data, "ids", None)
        return ids[index] if ids is not None else f"item {index}"
