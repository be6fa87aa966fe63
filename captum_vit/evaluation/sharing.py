"""What metrics ask of methods anew, as the maps of another class or of a noisy image: asked once for all methods."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..access import Adapter
from ..access.outputs import Choice
from ..targets import Classes
from .entries import Entry
from .visiting import Visit

KEPT = 16  # questions of a batch; what is asked besides, each method is asked alone


@dataclass(frozen=True)
class Answered:
    """Inputs, the classes that were asked about, and what came of it, as `Visit.maps` gives it."""

    images: Tensor
    classes: Tensor
    maps: Mapping[str, Tensor]
    failed: Mapping[str, Exception]

    def holds_for(self, images: Tensor, classes: Tensor) -> bool:
        """Whether the same is asked, number by number."""
        return _same(self.images, images) and _same(self.classes, classes)


class Together:
    """The methods of a batch that read runs, one visit of the model for all of them.

    Metrics ask one method after another. What the first of them is asked is answered for all, as the others will be
    asked the same; a question that only another one hears depends on its map, and is its own.

    Args:
        adapter: the model.
        methods: all that are asked.
        output: which of the model's outputs are the scores, where somebody chose.
    """

    def __init__(self, adapter: Adapter, methods: Mapping[str, Entry], output: Choice | None = None) -> None:
        self.adapter, self.output = adapter, output
        self.methods = {name: entry for name, entry in methods.items() if entry.reads(adapter)}
        self._answered: list[Answered] = []
        self._first: str | None = None

    def attribute(self, name: str, images: Tensor, classes: Tensor) -> Tensor:
        """The maps of a method, (N, 1, rows, cols).

        Raises:
            Exception: what the method raises.
        """
        found = next((each for each in self._answered if each.holds_for(images, classes)), None)
        if found is None:
            self._first = self._first or name
            if name != self._first or len(self._answered) == KEPT:
                return self.methods[name].attribute(images, classes)
            found = self._answer(images, classes)
            self._answered.append(found)
        if name in found.failed:
            raise found.failed[name]
        return found.maps[name]

    def _answer(self, images: Tensor, classes: Tensor) -> Answered:
        visit = Visit(self.adapter, images, self.methods, self.output)
        with visit.run:
            return Answered(images, classes, *visit.maps(Classes(classes), classes))


class Shared(Entry):
    """An entry as metrics ask it, whose maps come from all methods' questions; a copy is one of the entry alone."""

    def __init__(self, name: str, entry: Entry, together: Together) -> None:
        super().__init__(entry.method, entry.forward_func, entry.options)
        self.name, self.entry, self.together = name, entry, together

    def attribute(self, images: Tensor, target: Any) -> Tensor:
        """The maps, (N, 1, rows, cols).

        Raises:
            Exception: what the method raises.
        """
        asked = isinstance(target, Tensor) and target.shape == images.shape[:1] and not target.is_floating_point()
        if not asked or self.name not in self.together.methods:
            return self.entry.attribute(images, target)
        return self.together.attribute(self.name, images, target)

    def __deepcopy__(self, memo: dict[int, Any]) -> Entry:
        return copy.deepcopy(self.entry, memo)


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    )
