"""One run of the model for all methods on a leaderboard that read runs."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..access import Adapter
from ..access.any_model import AnyModel
from ..access.outputs import Choice
from ..attr import start
from ..attr.calls import checked_inputs
from ..attr.starting import shared
from ..capture import CellRun, Need, Run
from ..errors import OptionError, brief
from ..explanation.explaining import Explainer
from ..targets import Classes, Contrast, Target
from .entries import Entry
from .guarding import Guard, ModelChangedError

TARGETS = ("label", "predicted")


class Visit:
    """The maps of several methods of one batch; to be asked inside its `run`, in one visit of the model.

    Args:
        adapter, images: the model and its inputs.
        methods: what stands on the leaderboard.
        output: which of the model's outputs are the scores, where somebody chose.
        needs: what metrics ask of the run.
    """

    def __init__(
        self,
        adapter: Adapter,
        images: Tensor,
        methods: Mapping[str, Entry],
        output: Choice | None = None,
        needs: Collection[Need] = (),
    ) -> None:
        self.adapter, self.images, self.methods = adapter, images, methods
        self._call = checked_inputs(adapter, images, output=output)
        self._readers = [(entry.method, entry.options) for entry in methods.values() if entry.reads(adapter)]
        self.run = self._started(needs=needs) if self._readers else self._alone(needs)

    def _started(self, target: Target | None = None, needs: Collection[Need] = ()) -> Run:
        return start(self._readers, self._call, target, flow=False, once=True, needs=needs)

    def _alone(self, needs: Collection[Need]) -> Run:
        """A run that no method reads."""
        if isinstance(self.adapter, AnyModel):
            return CellRun(self.adapter, self._call)
        return Run(self.adapter, self._call, needs)

    @property
    def scores(self) -> Tensor:
        """The model's scores, (N, classes)."""
        return self.run.scores

    def maps(
        self, target: Target, classes: Tensor, guard: Guard | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Exception]]:
        """The maps of each method, (N, 1, rows, cols), of those that run the model by themselves too.

        Args:
            target: what is explained.
            classes: the class of each image, (N,), for methods that take classes alone.
            guard: watches what methods that run the model by themselves leave of it.
        Returns:
            The maps by method, and of the methods that gave none what they raised.
        Raises:
            ModelChangedError: a method changed the model.
        """
        found: dict[str, Tensor] = {}
        failed: dict[str, Exception] = {}
        run = self.run if not self._readers or shared(self.run, target) else self._started(target)
        for name, entry in self.methods.items():
            try:
                if entry.reads(self.adapter):
                    maps = entry.maps(run, target)
                elif isinstance(target, Classes):
                    with torch.enable_grad(), guard.watching(name) if guard else nullcontext():
                        maps = entry.attribute(self.images, classes)
                else:
                    raise OptionError(f"{name} takes a class as target, and is asked about {type(target).__name__}")
                found[name] = self._checked(maps)
            except ModelChangedError:
                raise
            except Exception as error:  # whatever a method stumbles over is its own matter
                failed[name] = error.with_traceback(None)  # which would keep tensors
        return found, failed

    def _checked(self, maps: Tensor) -> Tensor:
        """Maps that metrics can be asked about.

        Raises:
            OptionError: they are none.
        """
        shape = tuple(maps.shape)
        if len(shape) != 4 or shape[:2] != (len(self.images), 1) or 0 in shape or maps.is_complex():
            raise OptionError(
                f"a method gives maps of real numbers (N, rows, cols) for {len(self.images)} images, got {shape} of "
                f"{maps.dtype}"
            )
        return (maps if maps.is_floating_point() else maps.float()).to(self.images.device)


def asked_target(target: Any, explainer: Explainer) -> Target | None:
    """What all items are asked about, classes in it by number; None where each is asked about a class of its own.

    Args:
        target: "label", "predicted", a target, a function, or text for a contrast or `module:object`.
        explainer: the model.
    Raises:
        OptionError: a class alone, which is a matter of each item.
        TargetError: an unknown class, or something that is no target.
    """
    if isinstance(target, str) and target in TARGETS:
        return None
    by_text = isinstance(target, str) and ("/" in target or ":" in target)
    if not (by_text or isinstance(target, Target) or callable(target)):
        raise OptionError(
            f"target must be one of {', '.join(TARGETS)}, a contrast of two classes, or a target of "
            f"captum_vit.targets, got {brief(target)}"
        )
    return explainer.vocabulary.parse(target, max(explainer.names, default=-1) + 1 or 1 << 30)


def class_of_target(target: Target | None) -> int | None:
    """The class that metrics ask about where items are asked about a contrast: the one that it is for."""
    if isinstance(target, Contrast) and isinstance(target.a, Classes) and isinstance(target.a.index, int):
        return target.a.index
    return None
