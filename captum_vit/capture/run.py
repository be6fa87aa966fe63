"""One batch of images through one model, asked once and read by many methods."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..access.outputs import told_of
from ..targets import Target
from .along import Along
from .changed import Changed
from .examine import Examined
from .given import Given
from .inputs import Inputs
from .keeping import Keeping, Layers
from .layerwise import Layerwise
from .needs import GIVEN, OUTPUT_WEIGHTS, OUTPUTS, TOKENS, Need, UnderRules
from .plain import Plain
from .rules import Rules
from .untouched import untouched

T = TypeVar("T")


class Run(Layerwise, Along, Changed, AbstractContextManager["Run"]):
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
        target: the only one that is asked about, if it is: single scores may be read from tokens of their own.
        given: the places whose tokens `given` and `given_gradients` tell, a function of the readout: an attention layer
            stands for what it is given, any other module, by name, for what it gives; by default `layers`.
        once: whether each kind of gradient is asked for one target only, so that the graph goes with it.
        rules: what stands in place of derivatives on the way back; see `under`.
        create_graph: whether all that is told is part of one graph that begins at the model's parameters, gradients
            too, so that what is made of it trains the model. It lives as long as what is made of it.
        plain: what is known of these inputs by a plain call, if there was one.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        needs: Collection[Need] = (),
        *,
        layers: Layers | None = None,
        readout: Readout | None = None,
        target: Target | None = None,
        given: Layers | None = None,
        once: bool = False,
        rules: Rules | None = None,
        create_graph: bool = False,
        plain: Plain | None = None,
    ) -> None:
        needs = frozenset(needs)
        ruled = {need for need in needs if isinstance(need, UnderRules)}
        known = None if plain is None else plain.called
        kept = Keeping(adapter, inputs, needs - ruled, layers, readout, target, given, rules, create_graph, known)
        super().__init__(kept, once)
        self._visit, self._ruled, self._places = ExitStack(), ruled, (layers, given)
        self._under: tuple[Rules, Run] | None = None

    def __enter__(self) -> "Run":
        self._visit.enter_context(untouched(self.adapter))
        self._visit.enter_context(torch.enable_grad() if self.kept.create_graph else torch.no_grad())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._visit.close()

    def under(self, rules: Rules | None) -> "Run":
        """The run whose gradients are taken under rules in place of derivatives; this one if there are none.

        >>> rules = cp_rules()
        >>> run = Run(adapt(model), Inputs(images), needs={UnderRules(rules, TOKEN_GRADIENTS)})
        >>> run.under(rules).token_gradients(281)["embedding"].shape
        torch.Size([2, 197, 768])

        It is of the same model, inputs and readout, has a forward of its own, and is kept for the newest rules.

        Raises:
            UnsupportedModelError: when something is asked of it: the model calls a function that has no rule.
        """
        if rules is None or rules == self.kept.rules:
            return self
        self.kept.check_no_graph(f"what {rules.title} puts in place of derivatives")
        if self._under is None or self._under[0] != rules:
            self._under = None  # before the next one is there
            own = {need.need for need in self._ruled if need.rules == rules} | self.kept.needs & {OUTPUTS}
            run = Run(
                self.adapter,
                self.inputs,
                own,
                layers=self._places[0],
                readout=self.kept.given_readout,
                target=self.kept.target,
                given=self._places[1],
                once=self.once,
                rules=rules,
            )
            self._under = rules, run
        return self._under[1]

    @property
    def _known(self) -> Keeping:
        """What knows the forward: values are the same under rules, so that one under them does for both."""
        if self.kept.needs - {OUTPUTS} or self.kept.ran or not self._ruled:
            return self.kept
        other = self._under[1] if self._under else self.under(next(iter(self._ruled)).rules)
        return other.kept

    @property
    def readout(self) -> Readout:
        """The tokens that the score is read from."""
        return self._known.readout

    @property
    def examined(self) -> Examined:
        """What was found of the model as it stands: who else had a hand in it, and where its tokens lie."""
        return self._known.examined

    @property
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""
        return self._known.forward(()).layout

    @property
    def outputs(self) -> Any:
        """The model's own output, with what it says of tokens that the score is not read from."""
        return self._known.forward({OUTPUTS}).output.raw

    @property
    def scores(self) -> Tensor:
        """What the adapter takes for the scores, (B, C) or (B, C, ...)."""
        return self._known.forward(()).output.scores.detach()

    @property
    def scores_told(self) -> str:
        """Which of several outputs the scores are, in words; empty where there is no other that they might be."""
        output = self._known.forward(()).output
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
        """The token stream after the block of each attention layer, (B, N, D); under "embedding" before the first.

        Under rules, which hold little else, after the kept layers alone.
        """
        streams = self.kept.forward({TOKENS}).streams
        return streams if self.kept.create_graph else {name: stream.detach() for name, stream in streams.items()}

    def given(self) -> dict[str, Given]:
        """The tokens that attention layers are given, and that other modules give, in execution order."""
        return self.kept.forward({GIVEN}).given

    def output_weights(self, names: Collection[str]) -> dict[str, Tensor]:
        """The weight (D, H * d) of the projection that the output of each of these attentions goes into.

        Raises:
            UnsupportedModelError: none is seen, or several.
        """
        self.kept.check_no_graph("the weights of projections, as a run tells them,")
        found = self.kept.forward({OUTPUT_WEIGHTS}).kept.weights
        assert found is not None
        return {name: found.of(name) for name in names}
