"""Where what is kept of each layer lies while the model runs on."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..access import AttentionCall, Computed


class Shelf:
    """Copies of what is kept of each layer, all of a kind in one allocation.

    q, k and v are often views of one larger tensor, which a copy lets go; and small long-lived tensors scattered
    among a forward's large temporaries would keep the allocator from reusing those.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._room: dict[tuple, list[Tensor]] = {}

    def put(self, x: Tensor) -> Tensor:
        """A copy of `x`."""
        room = self._room.setdefault((x.shape, x.dtype, x.device), [])
        if not room:
            room.extend(torch.empty(self.layers, *x.shape, dtype=x.dtype, device=x.device))
        with torch.no_grad():  # what is kept of a part of the forward that has no graph
            return room.pop(0).copy_(x)

    def put_call(self, call: AttentionCall, *fields: str) -> AttentionCall:
        """The call with copies of these tensors alone; the others are emptied."""
        return part_of(call, fields, self.put)


def part_of(call: AttentionCall, fields: Collection[str], copy: Callable[[Tensor], Tensor]) -> AttentionCall:
    """The call with copies of these tensors alone; the others are emptied."""
    empty = call.out.new_empty(0)
    kept: dict[str, Any] = {
        name: copy(getattr(call, name)) if name in fields else empty for name in ("q", "k", "v", "out")
    }
    if call.computed is not None:
        scores, weights = call.computed.scores, call.computed.weights
        copied = Computed(copy(scores), None if weights is None else copy(weights)) if "q" in fields else None
        kept["computed"] = copied
        if copied is None and (hidden := call.hidden(slice(None))) is not None:
            kept["bias"] = ~hidden  # which keys are masked is in the scores alone
    return replace(call, **kept)
