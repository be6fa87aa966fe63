"""One run of the model for all methods on a leaderboard that read runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..access import Adapter
from ..attr import start
from ..attr.calls import checked_inputs
from ..capture import Run
from ..errors import OptionError
from ..explanation.explaining import Explainer
from ..targets import Classes, Contrast, Target
from .entries import Entry

TARGETS = ("label", "predicted")


class Visit:
    """The maps of several methods of one batch; to be asked inside its `run`, in one visit of the model.

    Args:
        adapter, images: the model and its inputs.
        methods: what stands on the leaderboard.
    """

    def __init__(self, adapter: Adapter, images: Tensor, methods: Mapping[str, Entry]) -> None:
        self.adapter, self.images, self.methods = adapter, images, methods
        call = checked_inputs(adapter, images)
        readers = [(entry.method, entry.options) for entry in methods.values() if entry.reads(adapter)]
        self.run = start(readers, call, flow=False, once=True) if readers else Run(adapter, call)

    @property
    def scores(self) -> Tensor:
        """The model's scores, (N, classes)."""
        return self.run.scores

    def maps(self, target: Target, classes: Tensor) -> dict[str, Tensor]:
        """The maps of each method, (N, 1, rows, cols), of those that run the model by themselves too.

        Args:
            target: what is explained.
            classes: the class of each image, (N,), for methods that take classes alone.
        Raises:
            OptionError: a method of somebody else's, asked about a target that is no class.
        """
        found = {}
        for name, entry in self.methods.items():
            if entry.reads(self.adapter):
                found[name] = entry.maps(self.run, target)
            elif isinstance(target, Classes):
                with torch.enable_grad():
                    found[name] = entry.attribute(self.images, classes)
            else:
                raise OptionError(f"{name} takes a class as target: it cannot be asked why one rather than the other")
        return found


def contrast(target: Any, explainer: Explainer) -> Contrast:
    """The contrast that is meant, its classes by number.

    Raises:
        OptionError: nothing that an evaluation can ask all items about.
        TargetError: an unknown class.
    """
    if isinstance(target, Contrast) or (isinstance(target, str) and "/" in target):
        found = explainer.vocabulary.parse(target, max(explainer.names, default=-1) + 1 or 1 << 30)
        if isinstance(found, Contrast) and isinstance(found.a, Classes) and isinstance(found.a.index, int):
            return found
    raise OptionError(f"target must be one of {', '.join(TARGETS)}, or a contrast of two classes, got {target!r}")
