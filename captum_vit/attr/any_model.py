"""Conserving gradients of a model that no adapter knows: the map lies at the cells of its stem."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..access.any_model import AnyModel
from ..capture import AtCells, Inputs, Rules, at_cells, check_cells_lie, check_nothing_passes, untouched
from ..errors import OptionError
from ..targets import Target
from ..unusual import note_once, unusual_inputs, unusual_scores
from .completeness import Completeness
from .naming import named_target, several_targets


class Ruled(Protocol):
    """A method, as far as its maps of any model need it."""

    def ruled(self, gamma: Any) -> Rules:
        """The rules that it goes back by."""

    def explained(self, target: Target, options: Mapping[str, Any]) -> Target:
        """The target whose gradient it takes."""


class OfAnyModel:
    """A method's maps of a model of any architecture.

    Args:
        method: by whose rules.
        adapter: the model.
        modules: by name, those of which the first that runs gives the cells.
    """

    def __init__(self, method: Ruled, adapter: AnyModel, modules: Mapping[str, nn.Module]) -> None:
        self.method, self.adapter, self.modules = method, adapter, modules
        self._whole: WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = WeakKeyDictionary()

    def attribute(self, call: Inputs, target: Any, output_shape: str, flow: bool, options: Mapping[str, Any]) -> Tensor:
        """The map of each image, (N, 1, rows, cols), or as `output_shape` says."""
        if flow:
            raise OptionError(
                f"a flow is of attention layers, and those of {type(self.adapter.model).__name__} are known to no "
                f"adapter: ask for maps, by .attribute(images, target)"
            )
        wanted = named_target(target, self.adapter)
        with self._forward(call, output_shape, options) as found:
            self._note(found, wanted)
            return shaped(found, found.evidence(self.method.explained(wanted, options)), output_shape)

    def classes(self, call: Inputs, targets: Any, output_shape: str, options: Mapping[str, Any]) -> Tensor:
        """The maps of several targets of one image, (K, 1, rows, cols), or as `output_shape` says."""
        with self._forward(call, output_shape, options) as found:
            wanted = several_targets(targets, self.adapter, found.scores.shape[1])
            self._note(found, wanted[0])
            each = [found.evidence(self.method.explained(one, options), retain=True) for one in wanted]
            return torch.cat([shaped(found, one, output_shape) for one in each])

    def completeness(self, call: Inputs, target: Target, options: Mapping[str, Any]) -> Iterator[Completeness]:
        """Of each image, where its score lies."""
        for number in range(len(call.images)):
            one = self.method.explained(target.of_image(number), options)
            with self._forward(call.image(number), "grid", options, accounting=True) as found:
                held = found.account(one)
                yield Completeness(held.score, float(held.tokens.sum()), 0.0, held.constants, held.absorbed)

    @contextmanager
    def _forward(
        self, call: Inputs, output_shape: str, options: Mapping[str, Any], *, accounting: bool = False
    ) -> Iterator[AtCells]:
        modules = {} if output_shape == "input" else self.modules
        rules = self.method.ruled(options.get("gamma"))
        with untouched(self.adapter):
            found = at_cells(self.adapter, call, rules, modules, accounting=accounting)
            self._check(found)
            yield found

    def _check(self, found: AtCells) -> None:
        """Once for each size of images, since what a model does with them may depend on it."""
        if found.module is None:
            return
        known = self._whole.setdefault(found.module, set())
        size = tuple(found.inputs.images.shape[1:])
        if size not in known:
            check_nothing_passes(found)
            check_cells_lie(found)
            known.add(size)

    def _note(self, found: AtCells, target: Target) -> None:
        note_once(self.adapter.model, "inputs", unusual_inputs(found.inputs.images))
        if target.reads_scores:
            note_once(self.adapter.model, "scores", unusual_scores(found.scores.detach()))


def shaped(found: AtCells, evidence: Tensor, output_shape: str) -> Tensor:
    """Evidence at a module's output, in one of the output shapes."""
    evidence = ops.widen(evidence.detach())
    if output_shape == "input":
        return evidence
    channels = [axis for axis in range(1, evidence.dim()) if axis not in found.axes]
    maps = evidence.sum(channels).unsqueeze(1)
    return maps.contiguous() if output_shape == "grid" else _spatial(maps, found)


def _spatial(maps: Tensor, found: AtCells) -> Tensor:
    """Maps (N, 1, rows, cols) over the pixels; those behind the last whole cell, which no cell sees, get 0."""
    sides = found.inputs.images.shape[2:]
    steps = [max(1, round(side / cells)) for side, cells in zip(sides, maps.shape[2:], strict=True)]
    covered = [cells * step for cells, step in zip(maps.shape[2:], steps, strict=True)]
    if any(abs(part - side) >= step for part, side, step in zip(covered, sides, steps, strict=True)):
        covered = list(sides)  # the model resizes its images
    spatial = F.interpolate(maps, covered, mode="bilinear", align_corners=False)[..., : sides[0], : sides[1]]
    return F.pad(spatial, (0, sides[1] - spatial.shape[3], 0, sides[0] - spatial.shape[2])).contiguous()
