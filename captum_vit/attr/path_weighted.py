"""Rows carried through the layers, weighted by gradients along the path from a black image: what two methods share."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..access import AttentionCall, Readout
from ..capture import ATTENTION, PATH_GRADIENTS, Run
from ..checking import check_whole
from ..errors import UnsupportedModelError
from ..targets import Target
from .base import ViTAttribution
from .carrying import Start, Step, carried, layers_from, readout_row


class PathWeighted(ViTAttribution):
    """A map W * R: how tokens pass into those that the score is read from, and what the last attention is worth to it.

    R are rows that start where the last attention is read and are carried down to `start_layer`. W is
    relu(mean over alpha of dy(alpha x)/dA) of the last attention, the mean over its heads.
    """

    multiplies_layers = True
    needs = frozenset({ATTENTION, PATH_GRADIENTS})
    alone = False  # whether rows start with the last attention itself, in place of the identity

    @classmethod
    @abstractmethod
    def first_layer(cls, count: int, **options: Any) -> int:
        """Where the rows end by default, of so many layers."""

    @abstractmethod
    def _step(
        self, run: Run, target: Target, calls: Sequence[AttentionCall], passed: Collection[str], **options: Any
    ) -> Step:
        """What each layer does to the rows."""

    def _by_target(self, **options: Any) -> bool:
        """Whether the rows are of one target alone."""
        return False

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """The layers that rows are carried through; all where their slices of a flow are wanted."""
        names = self.layers_read(readout)
        return names if flow else self._carrying(names, options)

    def _carrying(self, names: Sequence[str], options: dict[str, Any]) -> list[str]:
        start = options.get("start_layer")
        return layers_from(names, self.first_layer(len(names), **options) if start is None else start)

    def _weighted(self, run: Run, target: Target, *, flow: bool, **options: Any) -> Tensor:
        """The map of one target, as `_maps` gives it."""
        return next(self._class_maps(run, [target], flow=flow, **options))[0]

    def _class_maps(self, run: Run, targets: Sequence[Target], *, flow: bool, **options: Any) -> Iterator[Tensor]:
        steps = options.get("steps", self.options()["steps"])
        check_whole("steps", steps, 2)
        names = self.layers_kept(run.readout, flow, **options)
        passed = set(names) - set(self._carrying(self.layers_read(run.readout), options))
        calls = list(run.calls(names, self.needed(**options) & {ATTENTION, *self.call_needs(**options)}).values())
        last = calls[-1].layout
        if last.mass < 1 - 1e-6:
            raise UnsupportedModelError(
                f"the score is also read from tokens before the last attention ({calls[-1].name}), and {self.title} "
                f"weighs that attention alone"
            )
        rows: Tensor | None = None
        at_once = _fitting(calls[-1])
        for first in range(0, len(targets), at_once):
            part = targets[first : first + at_once]
            weights = run.path_gradients(part, names[-1], steps).relu().mean(2)  # (K, B, R, N)
            for target, weight in zip(part, last.to_map(weights), strict=True):
                if rows is None or self._by_target(**options):
                    step = self._step(run, target, calls, passed, **options)
                    found = carried(calls, step, flow=flow, start=_start(calls[-1]), alone=self.alone)
                    rows = calls[0].layout.to_map(found).unflatten(1, (-1, len(last.read_rows)))  # (B, S, R, patches)
                yield (rows * weight.unsqueeze(1)).sum(2).unsqueeze(0)

    @classmethod
    def call_needs(cls, **options: Any) -> frozenset[str]:
        """What of each attention the step reads, beside the attention."""
        return frozenset()


def _start(last: AttentionCall) -> Start:
    """A row for each query of the last attention that is read; below an attention pool, what that reads."""

    def start(call: AttentionCall) -> Tensor:
        layout = call.layout
        if last.layout.cross and not layout.cross:
            return readout_row(call).expand(-1, len(last.layout.read_rows), -1)
        eye = torch.eye(len(layout.start), device=call.v.device, dtype=ops.widen(call.v).dtype)
        return eye[layout.read_rows].expand(call.batch, -1, -1)

    return start


def _fitting(call: AttentionCall) -> int:
    """How many targets' gradients at the last attention are held at once."""
    entries = len(call.layout.read_rows) * call.layout.keys * call.heads * call.batch
    return max(4 * ops.CHUNK_ELEMENTS // max(entries, 1), 1)
