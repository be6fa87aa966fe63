"""From items of a data set to rows: the plain callable that any engine can map."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attr import METHODS, ViTAttribution
from ..attr.base import options_of
from ..classes import class_index
from ..data import Item, Reader
from ..errors import CaptumViTError, InputError, OptionError
from ..explaining import Explainer, covered
from ..geometry import View
from ..metrics import Case, Metric

TARGETS = ("label", "predicted")
Row = dict[str, Any]
Attribute = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, targets) -> maps (N, rows, cols)


@dataclass(frozen=True)
class Seen:
    """An item as the model sees it."""

    index: int
    id: str
    inputs: Tensor  # (C, H, W)
    target: int | None
    mask: np.ndarray | None  # (H, W), the object in the input
    valid: np.ndarray  # (H, W), what of the input counts
    boxes: np.ndarray | None  # (n, 4), in pixels of the input


class Evaluator:
    """Explains items of a data set by several methods and scores the maps.

    Called with indices of items, it gives rows: one for each item and method, in this order, with the columns `item`,
    `id`, `method`, `target`, `prediction`, `score` and those of the metrics; an item that cannot be read or explained
    gives one row with its `error`. The rows do not depend on which items are asked for together.

    Args:
        explainer: the model with its preprocessing.
        data: the items.
        methods: by name, what explains: an attribution of ours or of Captum, or a callable
            `(model, images, targets) -> maps` (N, rows, cols).
        metrics: what scores the maps.
        target: "label" explains the item's own class, "predicted" the one that the model predicts.
        batch_size: images at once.
        keep_maps: add the maps to the rows, at grid size, as float16.
    """

    def __init__(
        self, explainer: Explainer, data: Reader, methods: Mapping[str, Any], metrics: Sequence[Metric], *,
        target: str = "label", batch_size: int = 16, keep_maps: bool = False,
    ) -> None:  # fmt: skip
        if target not in TARGETS:
            raise OptionError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
        if explainer.headless:
            raise OptionError(f"an evaluation needs classes, and {explainer.model_name!r} gives features")
        self.explainer, self.data, self.metrics = explainer, data, metrics
        self.methods = {name: as_attribute(method) for name, method in methods.items()}
        self.objects = dict(methods)
        self.target, self.batch_size, self.keep_maps = target, batch_size, keep_maps

    def __call__(self, indices: Iterable[int]) -> list[Row]:
        """The rows of these items."""
        rows: dict[int, list[Row]] = {}
        seen: list[Seen] = []
        for index in indices:
            try:
                seen.append(self._see(index))
            except Exception as error:  # whatever a file or an annotation leads to concerns this item alone
                rows[index] = [_failed(index, self._id(index), error)]
        for batch in _batches(seen, self.batch_size):
            for one, of_one in zip(batch, self._rows(batch), strict=True):
                rows[one.index] = of_one
        return [row for index in sorted(rows) for row in rows[index]]

    def _rows(self, batch: list[Seen]) -> list[list[Row]]:
        """Rows of items whose inputs have one size; if the batch fails, each item by itself."""
        try:
            return self._explain(batch)
        except Exception as error:
            if len(batch) > 1:
                return [rows for one in batch for rows in self._rows([one])]
            return [[_failed(batch[0].index, batch[0].id, error)]]

    def _explain(self, batch: list[Seen]) -> list[list[Row]]:
        device = self.explainer.device
        images = torch.stack([one.inputs for one in batch]).to(device)
        with torch.no_grad():
            logits = self._model(images).float()
        predictions = logits.argmax(1)
        own = torch.tensor([-1 if one.target is None else one.target for one in batch], device=device)
        targets = predictions if self.target == "predicted" else own
        if (targets < 0).any():
            raise InputError(
                "the item has no class that the model knows; explain the predicted one: target='predicted'"
            )
        scores = self.explainer.loaded.probabilities(logits).gather(1, targets[:, None])[:, 0]
        rows: list[list[Row]] = [[] for _ in batch]
        for name, method in self.methods.items():
            maps = method(self.explainer.loaded.model, images, targets)
            columns = self._score(batch, images, logits, targets, maps, self.objects[name])
            for i, one in enumerate(batch):
                row = {"item": one.index, "id": one.id, "method": name, "label": own[i].item()}
                row |= {"target": targets[i].item(), "prediction": predictions[i].item(), "score": scores[i].item()}
                row |= {column: _value(values[i]) for column, values in columns.items()}
                if self.keep_maps:
                    row |= {"map": maps[i].flatten().half().cpu().numpy(), "grid": list(maps.shape[1:])}
                rows[i].append(row)
        return rows

    def _score(
        self, batch: list[Seen], images: Tensor, logits: Tensor, targets: Tensor, maps: Tensor, method: Any
    ) -> dict[str, Tensor]:  # fmt: skip
        preprocess = self.explainer.preprocess
        masks = None if any(one.mask is None for one in batch) else _stacked([one.mask for one in batch], images)
        valid = _stacked([one.valid for one in batch], images)
        boxes = None if any(one.boxes is None for one in batch) else [torch.from_numpy(one.boxes) for one in batch]
        case = Case(
            images,
            targets,
            maps,
            masks,
            valid,
            logits,
            self._model,
            preprocess.mean,
            preprocess.std,
            method,
            boxes=boxes,
        )
        columns: dict[str, Tensor] = {}
        for metric in self.metrics:
            if "masks" not in metric.needs or masks is not None:
                columns |= metric(case)
        return columns

    def _model(self, images: Tensor) -> Tensor:
        return self.explainer.adapter.scores(self.explainer.loaded.model(images))

    def _see(self, index: int) -> Seen:
        item = self.data[index]
        inputs = self.explainer.preprocess(item.image)
        view = self.explainer.preprocess.view(item.image.size)
        seen = covered(view, self.explainer.adapter, (inputs.shape[1], inputs.shape[2]))
        return Seen(index, item.id, inputs, self._class_of(item), *on_input(item, view, seen))

    def _class_of(self, item: Item) -> int | None:
        if item.target is None:
            return None
        try:
            classes = max(self.explainer.names, default=-1) + 1 or 1 << 30
            return class_index(item.target, self.explainer.names, classes, self.explainer.model_name)
        except CaptumViTError:
            if self.target == "label":
                raise
            return None

    def _id(self, index: int) -> str:
        ids = getattr(self.data, "ids", None)
        return ids[index] if ids is not None else f"item {index}"


def on_input(item: Item, view: View, seen: View) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """The object's mask in the model's input, which of the input's pixels count, and the boxes there.

    A mask is taken pixel by pixel, from what lies under the centre. Pixels do not count that show nothing of the image,
    lie beside the last whole patch, or are declared void by the data set.
    """
    valid = view.shows()
    valid[seen.size[1] :], valid[:, seen.size[0] :] = False, False
    if item.valid is not None:
        valid &= view.take(item.valid)
    mask = None if item.mask is None else view.take(item.mask) & valid
    if item.boxes is None:
        return mask, valid, None
    corners = view.to_input(np.asarray(item.boxes, float).reshape(-1, 2, 2) - 0.5) + 0.5  # edges, not centres
    return mask, valid, corners.reshape(-1, 4)


def as_attribute(method: Any) -> Attribute:
    """A method in any form as `(model, images, targets) -> maps` (N, rows, cols).

    Args:
        method: an attribution of ours, any other of Captum (whose channels are summed), or such a callable.
    """
    if isinstance(method, ViTAttribution):
        return lambda model, images, targets: method.attribute(images, target=targets)[:, 0]
    if hasattr(method, "attribute"):
        return lambda model, images, targets: method.attribute(images, target=targets).detach().sum(1)
    if not callable(method):
        raise OptionError(f"a method is an attribution or a callable (model, images, targets) -> maps, got {method!r}")
    return lambda model, images, targets: _checked(method(model, images, targets), len(images))


def named_methods(
    names: Sequence[str], explainer: Explainer, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Methods and baselines by name.

    Raises:
        OptionError: an unknown name.
    """
    methods: dict[str, Any] = {}
    for name in names:
        if name in BASELINES:
            methods[name] = BASELINES[name]
            continue
        own = {o: value for o, value in (options or {}).items() if o in options_of(METHODS[name])}
        methods[name] = _with_options(explainer.method(name), own)
    return methods


def _with_options(method: ViTAttribution, options: Mapping[str, Any]) -> Any:
    if not options:
        return method
    return lambda model, images, targets: method.attribute(images, target=targets, **options)[:, 0]


def random_maps(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Uniform noise on a grid of 14 by 14, the same for the same image and class."""
    maps = []
    for image, target in zip(images, targets.tolist(), strict=True):
        seed = zlib.crc32(image.detach().float().cpu().numpy().tobytes()) + target
        maps.append(torch.rand(14, 14, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(maps).to(images.device)


def centred_gaussian(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A bump in the middle, its standard deviation a quarter of the side."""
    line = torch.linspace(-2, 2, 14, device=images.device)
    return torch.exp(-(line[:, None] ** 2 + line**2) / 2).expand(len(images), -1, -1)


BASELINES: dict[str, Attribute] = {"random": random_maps, "gaussian": centred_gaussian}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _checked(maps: Tensor, count: int) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() not in (3, 4) or len(maps) != count:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise OptionError(f"a method gives maps (N, rows, cols) for {count} images, got {shape}")
    return maps.detach().float().sum(1) if maps.dim() == 4 else maps.detach().float()


def _batches(seen: Sequence[Seen], size: int) -> Iterable[list[Seen]]:
    groups: dict[tuple[int, ...], list[Seen]] = {}
    for one in seen:
        groups.setdefault((*one.inputs.shape, one.mask is None, one.boxes is None), []).append(one)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _stacked(arrays: Sequence[np.ndarray | None], images: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([a for a in arrays if a is not None])).to(images.device)


def _value(value: Tensor) -> Any:
    return value.item() if value.dim() == 0 else value.tolist()


def _failed(index: int, name: str, error: Exception) -> Row:
    return {
        "item": index,
        "id": name,
        "method": "",
        "error": " ".join(f"{type(error).__name__}: {error}".split())[:500],
    }
