"""That no method changes the model, and with it the maps of all others: watched while a run is at work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import RunError
from .modelling import changes, restless, state

NAMED = 3  # of what changed


class ModelChangedError(RunError):
    """A method left the model in another state than it found it in: rows after it are not worth keeping."""


class Guard:
    """Watches a model: after the first real batch whatever a method might have changed, method by method; after every
    other batch what can be seen without looking at the weights; and at the end of a shard all of it again.

    On one core that looks at ViT-B/16 0.1 s for each method of the first batch and for each shard, and 2 ms for each
    batch. What the model's own forward changes, as a counter of its calls, is nobody's fault and left aside.

    Args:
        model: that is watched.
        forward: a forward of the model on a real image, without gradients.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], object]) -> None:
        self._model, self._forward, self._closely = model, forward, True
        self._restless: set[str] | None = None
        self._before = state(model, values=True)

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        """One method, alone within.

        Raises:
            ModelChangedError: it changed the model, and this is the first batch.
        """
        if not self._closely:
            yield
            return
        before = state(self._model, values=True)
        yield
        self._compare(before, state(self._model, values=True), [name])

    def check(self, names: Sequence[str], *, values: bool = False) -> None:
        """Raise ModelChangedError where the model is another than at the beginning, after these methods."""
        values = values or self._closely
        before = {name: value for name, value in self._before.items() if values or not name.endswith(" values")}
        self._closely = False
        self._compare(before, state(self._model, values=values), names)

    def _compare(self, before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str]) -> None:
        found = changes(before, after)
        if found and self._restless is None:
            self._restless = restless(self._model, self._forward)
        found = [name for name in found if name not in (self._restless or ())]
        if found:
            raise ModelChangedError(blame(names, found))


def blame(names: Sequence[str], found: Sequence[str]) -> str:
    """Who changed what, in words."""
    who = f"{names[0]!r}" if len(names) == 1 else f"one of the methods {', '.join(map(repr, names))} or of the metrics"
    what = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    return f"{who} changes the model, and with it the maps of all other methods: {what}"
