"""What a model gives for a batch while nothing listens to it."""

from functools import cached_property

import torch

from ..access import Adapter
from ..targets import Output
from .basis import Basis, plain_call
from .inputs import Inputs
from .still import draws_in_training
from .untouched import untouched


class Plain:
    """One plain call of a model on a batch, made at the first question: what it gives, and what its blocks give.

    >>> plain = Plain(adapt(model), Inputs(images))
    >>> plain.output.scores.shape  # the call
    torch.Size([2, 1000])

    Whatever is asked of the same batch by itself, before a run, is asked of this one.

    Args:
        adapter, inputs: the model, and what it is called with.
    """

    def __init__(self, adapter: Adapter, inputs: Inputs) -> None:
        self.adapter, self.inputs = adapter, inputs

    @cached_property
    def _called(self) -> Basis:
        with untouched(self.adapter), torch.no_grad():
            return plain_call(self.adapter, self.inputs, streams=True)

    @property
    def called(self) -> Basis | None:
        """The scores alone, if somebody asked."""
        found = vars(self).get("_called")
        return None if found is None else Basis(found.scores)

    @property
    def output(self) -> Output:
        """What the model gives."""
        return Output(self._called.raw, self._called.scores, self.adapter.headless)

    def basis_of(self, inputs: Inputs) -> Basis | None:
        """The same with the streams after its blocks, for this batch or the first image of it; None where it is of
        other images, another call would give others, or cross-attention reads the tokens."""
        wanted, own = len(inputs.images), len(self.inputs.images)
        if wanted not in (1, own) or self.adapter.cross_attention or draws_in_training(self.adapter):
            return None
        return self._called if wanted == own else self._called.first()
