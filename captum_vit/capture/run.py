"""One batch of images through one model, asked once and read by many methods."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..access.outputs import told_of
from .examine import Examined
from .given import Given
from .inputs import Inputs
from .keeping import Keeping, Layers
from .layerwise import Layerwise
from .needs import GIVEN, OUTPUTS, TOKENS, Need
from .untouched import untouched

T = TypeVar("T")


class Run(Layerwise, AbstractContextManager["Run"]):
    """What a model computed for a batch of images; each part is computed at the first question, and kept.

    >>> run = Run(adapt(model), Inputs(images), needs={GRADIENTS})
    >>> run.scores.shape, run.gradients(281)["blocks.0.attn"].shape  # one forward and one backward
    (torch.Size([2, 1000]), torch.Size([2, 12, 197, 64]))

    A context: all that is asked inside is one visit of the model, without gradients of its own. In train mode, and
    where maps are made of what is asked, ask inside.

    Args:
        adapter: access to the model.
        inputs: what it is called with.
        needs: what will be asked, of `captum_vit.capture.needs`: so that one forward serves all. What was not named
            here can be asked for all the same, and costs another forward.
        layers: of which attention layers, a function of the readout; by default of all.
        readout: the tokens that the score is read from; by default as the adapter declares, or measured.
        given: the places whose tokens `given` and `given_gradients` tell, a function of the readout: an attention layer
            stands for what it is given, any other module, by name, for what it gives; by default `layers`.
        once: whether each kind of gradient is asked for one target only, so that the graph goes with it.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        needs: Collection[Need] = (),
        *,
        layers: Layers | None = None,
        readout: Readout | None = None,
        given: Layers | None = None,
        once: bool = False,
    ) -> None:
        super().__init__(Keeping(adapter, inputs, needs, layers, readout, given), once)
        self._visit = ExitStack()

    def __enter__(self) -> "Run":
        self._visit.enter_context(untouched(self.adapter))
        self._visit.enter_context(torch.no_grad())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._visit.close()

    @property
    def readout(self) -> Readout:
        """The tokens that the score is read from."""
        return self.kept.readout

    @property
    def examined(self) -> Examined:
        """What was found of the model as it stands: who else had a hand in it, and where its tokens lie."""
        return self.kept.examined

    @property
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""
        return self.kept.forward(()).layout

    @property
    def outputs(self) -> Any:
        """The model's own output, with what it says of tokens that the score is not read from."""
        return self.kept.forward({OUTPUTS}).output.raw

    @property
    def scores(self) -> Tensor:
        """What the adapter takes for the scores, (B, C) or (B, C, ...)."""
        return self.kept.forward(()).output.scores.detach()

    @property
    def scores_told(self) -> str:
        """Which of several outputs the scores are, in words; empty where there is no other that they might be."""
        output = self.kept.forward(()).output
        return told_of(output.raw, output.scores, self.inputs.output)

    def calls(self, names: Collection[str], needs: Collection[Need]) -> dict[str, AttentionCall]:
        """The attention of these layers, in execution order; of each as much as is needed, or more.

        needs: some of `READ_ATTENTION`, `ATTENTION` and `VALUES`.
        """
        found = self.kept.forward(needs).calls
        return {name: call for name, call in found.items() if name in names}

    def reduced(self, reduction: Callable[[AttentionCall], T]) -> dict[str, T]:
        """What a function makes of the attention of each kept layer, taken while the model runs."""
        return self.kept.forward({reduction}).kept.reduced[reduction]

    def tokens(self) -> dict[str, Tensor]:
        """The token stream after the block of each attention layer, (B, N, D); under "embedding" before the first."""
        return {name: stream.detach() for name, stream in self.kept.forward({TOKENS}).streams.items()}

    def given(self) -> dict[str, Given]:
        """The tokens that attention layers are given, and that other modules give, in execution order."""
        return self.kept.forward({GIVEN}).given

    def score(self, images: Tensor) -> Tensor:
        """The scores of other images, as a perturbation method asks for: one plain forward."""
        with untouched(self.adapter), torch.no_grad():
            inputs = replace(self.inputs, images=images)
            return inputs.scores(self.adapter, inputs.run(self.adapter.model))
