"""What a model says of changed images, and of images with some of their patches left out."""

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from .. import ops
from ..access import Adapter, Readout, TokenLayout
from ..errors import UnsupportedModelError
from ..targets import Output, Target
from .backward import Backward
from .listeners import unheard
from .readout import weights_of
from .subsets import Subsets
from .untouched import untouched


class Changed(Backward):
    """What a perturbation method asks a run for: forwards of their own, which nobody else's hooks hear."""

    @property
    @abstractmethod
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""

    @property
    @abstractmethod
    def readout(self) -> Readout:
        """The tokens that the score is read from."""

    @property
    @abstractmethod
    def scores(self) -> Tensor:
        """The scores of the images as they are."""

    def on_tokens(self, kept: Tensor, target: Target, *, batch: int = 64) -> Tensor:
        """The number that a target makes of each image where only some of its patches are there, (N, S).

        >>> kept = torch.rand(8, 196) > 0.5  # eight choices of patches, the same for all images
        >>> Run(adapt(model), Inputs(images)).on_tokens(kept, Classes(281)).shape
        torch.Size([2, 8])

        All keep their positions, and the prefix tokens stay: nothing stands where the others were. A model whose blocks
        were trained with some of their tokens left out has seen this before; any has seen it rather than grey patches.
        What a stem mixes before the first block, as one of convolutions, stays in the tokens that are kept.

        Where blocks do not take a part of the tokens, as with a table of relative positions, all go in and none looks
        at the others: the same number, at the cost of whole images. Which way is right is tried on the first image,
        once for the model as it stands.

        Args:
            kept: which patches, in reading order, bool (S, patches), or (N, S, patches) with other ones for each image.
            target: what is asked; of one that gives K numbers an image, (N, S, K).
            batch: how many choices go through the model at once.
        Raises:
            InputError: there are other numbers of patches, or none is kept of what the score is read from.
            UnsupportedModelError: tokens of this model cannot be left out, and why.
        """
        self._check_no_graph()
        return self._subsets.scores(kept, target, batch)

    def on_images(self, images: Tensor, target: Target, *, place: int = 0) -> Tensor:
        """The number that a target makes of changed images, (R,), by one forward of all of them.

        >>> darker = images[:1] * torch.linspace(0, 1, 8).view(-1, 1, 1, 1)
        >>> Run(adapt(model), Inputs(images)).on_images(darker, Classes(281)).shape
        torch.Size([8])

        Args:
            images: (R, C, H, W).
            target: what is asked; of one that gives K numbers an image, (R, K).
            place: the image of the run in whose place they stand: with what belongs to it beside them.
        Raises:
            UnsupportedModelError: the model gives another number of scores than images.
        """
        self._check_no_graph()
        beside = self.inputs.image(place).copies(len(images))
        inputs, adapter = replace(beside, images=images), self._unheard
        with untouched(adapter), torch.no_grad():
            raw = inputs.run(adapter)
            scores = inputs.scores(adapter, raw)
        if len(scores) != len(images):
            name = type(adapter.model).__name__
            raise UnsupportedModelError(f"of {len(images)} changed images {name} gives {len(scores)} scores")
        return ops.widen(target.score(Output(raw, scores, adapter.headless)).detach())

    def score(self, images: Tensor) -> Tensor:
        """The scores of other images: one plain forward."""
        self._check_no_graph()
        with untouched(self.adapter), torch.no_grad():
            inputs = replace(self.inputs, images=images)
            return inputs.scores(self.adapter, inputs.run(self.adapter))

    def _check_no_graph(self) -> None:
        self.kept.check_no_graph("what is made of many forwards of changed images, whose graphs nobody can hold,")

    @cached_property
    def _unheard(self) -> Adapter:
        self.layout  # noqa: B018 (whether hooks only listen shows in the first forward)
        return unheard(self.adapter, listened=bool(self.kept.listened))

    @cached_property
    def _subsets(self) -> Subsets:
        known = self.kept.examined
        return Subsets(
            self._unheard,
            self.inputs,
            self.layout,
            self.readout,
            self.scores,
            known.left_out,
            weights_of(self.adapter, known),
        )
