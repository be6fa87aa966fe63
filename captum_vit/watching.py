"""Maps of fixed images while a model trains, for the callbacks of frameworks: the training stays as it was."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from .checking import check_text, check_whole
from .errors import CaptumViTError, InputError, OptionError, UnsupportedModelError
from .explanation.explain import explain
from .explanation.explanation import Explanation
from .images import Picture

SHARDED = {"DTensor", "FlatParameter"}  # parameters of which each process has a part


class Watch:
    """Which images a training is looked at with, how, and when.

    >>> from captum_vit.watching import Watch
    >>> watch = Watch([images[0]], every=100, target=281)
    >>> [step for step in range(300) if watch.due(step)]
    [0, 100, 200]
    >>> list(watch.look(model, 200))
    ['maps/0']

    Args:
        images: one image, or a list, as for `explain`.
        every: steps of the optimiser between two looks. The first is before the first step.
        of: the model inside the module that is trained, a function of this; by default the module itself.
        name: what the images stand under.
        asked: what else `explain` takes: method, target, preprocess, class_names and others.
    Raises:
        OptionError, InputError: every is no whole number, of is no function, or there is no image.
    """

    def __init__(
        self,
        images: Picture | Sequence[Picture],
        every: int = 100,
        *,
        of: Callable[[Any], nn.Module] | None = None,
        name: str = "maps",
        **asked: Any,
    ) -> None:
        check_whole("every", every)
        check_text("name", name, "maps")
        if of is not None and not callable(of):
            raise OptionError("of is a function of the module that is trained, which gives the model to be explained")
        several: Any = images if isinstance(images, (list, tuple)) else [images]
        self.images: list[Picture] = list(several)
        if not self.images:
            raise InputError("expected an image, or a list of them, got none")
        self.every, self.of, self.name, self.asked = every, of, name, asked
        self._newest: int | None = None

    def begin(self, module: nn.Module) -> None:
        """A training begins, perhaps once more; to be called in each of its processes.

        Raises:
            UnsupportedModelError: its parameters are spread over processes.
        """
        self._newest = None
        for name, parameter in module.named_parameters():
            if type(parameter).__name__ in SHARDED or hasattr(parameter, "ds_id"):
                raise UnsupportedModelError(
                    f"{name} is spread over the processes of this training (FSDP, DeepSpeed), and a map needs a whole "
                    f"model in one of them: explain its checkpoints instead"
                )

    def due(self, step: int, *, last: bool = False) -> bool:
        """Whether to look at this step, and not at the same step again, as where gradients are accumulated."""
        return step != self._newest and (last or step % self.every == 0)

    def look(self, module: nn.Module, step: int) -> dict[str, Explanation]:
        """What the model makes of each image at a step, by the name of the image.

        In eval mode; its modules are in train mode afterwards that were before, and nobody's random numbers move.

        Raises:
            CaptumViTError: with the first look, no map is possible. A later one warns, and the training goes on.
        """
        first, self._newest = self._newest is None, step
        try:
            with undisturbed(module):
                found = explain(self.images, module if self.of is None else self.of(module), **self.asked)
        except CaptumViTError as error:
            if first:
                raise
            warnings.warn(f"no map at step {step}: {error}", stacklevel=2)
            return {}
        return {f"{self.name}/{one.source or number}": one for number, one in enumerate(found)}


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """A module in eval mode, and the random numbers of this process; all of it as it was afterwards.

    Flags are set one by one: somebody's own `train` may do more than that.
    """
    stances = [(part, part.training) for part in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type not in ("cpu", "meta")}
    kind = next((device.type for device in devices), "cuda")
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([d.index for d in devices if d.index is not None], device_type=kind):
        try:
            for part, _ in stances:
                part.training = False
            yield
        finally:
            for part, training in stances:
                part.training = training
            random.setstate(states[0])
            np.random.set_state(states[1])
