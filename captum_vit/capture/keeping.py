"""The forward that a run answers from, and how it is run anew where it lacks something."""

from collections.abc import Callable, Collection
from dataclasses import replace

from torch import Tensor

from ..access import Adapter, Readout
from ..errors import OptionError, UnsupportedModelError
from ..targets import Target
from .basis import Basis
from .examine import Examined, compare, examine, plain_of
from .forward import Forward, HookEditedError, run_forward
from .inputs import Inputs
from .listeners import foreign_hooks, unheard
from .needs import (
    ATTENTION,
    GIVEN,
    GIVEN_GRADIENTS,
    GRADIENTS,
    HELD_GRADIENTS,
    LAYER_GRADIENTS,
    MEAN_LAYER_GRADIENTS,
    OUTPUTS,
    PIXEL_GRADIENTS,
    READ_ATTENTION,
    TOKEN_GRADIENTS,
    TOKENS,
    VALUES,
    Need,
)
from .readout import measure_readout, readout_of
from .replay import can_replay
from .rules import Rules, Ruling
from .taps import ForwardTap, Keep
from .untouched import untouched

AT_LEAVES = frozenset({GRADIENTS, TOKEN_GRADIENTS, PIXEL_GRADIENTS})
Layers = Callable[[Readout], Collection[str]]


class Keeping:
    """One forward, with all that is needed of it as far as that is known; see `Run` for the arguments.

    Attributes:
        listened: the modules with hooks of somebody else's, as long as these only listen.
        may_replay: set to False, the general way is taken where a replay would do.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        needs: Collection[Need],
        layers: Layers | None,
        readout: Readout | None,
        target: Target | None = None,
        given: Layers | None = None,
        rules: Rules | None = None,
        create_graph: bool = False,
        plain: Basis | None = None,
    ) -> None:
        self.create_graph = create_graph
        self.adapter, self.inputs = adapter, inputs
        self.listened = foreign_hooks(adapter.model)
        self.needs, self.rules, self.may_replay = frozenset(needs), rules, rules is None and not create_graph
        self.target, self._layers, self._readout, self._given = target, layers, readout, given
        self._edited = False
        self._examined: Examined | None = None
        self._plain = plain  # a plain call of these inputs or the first of them, to compare the scores with
        self._forward: Forward | None = None
        self._has: frozenset[Need] = frozenset()

    @property
    def readout(self) -> Readout:
        """The tokens that the score is read from."""
        if self.listened:  # what the adapter declares holds if their hooks only listen, which the forward shows
            self.forward(())
        return self._expected

    @property
    def given_readout(self) -> Readout | None:
        """The readout that was given, or is known by now."""
        return self._readout

    @property
    def ran(self) -> bool:
        """Whether there is a forward."""
        return self._forward is not None

    @property
    def layers(self) -> list[str]:
        """The attention layers that are kept, in execution order."""
        return self._layers_for(self.readout)

    @property
    def given(self) -> list[str]:
        """The places of which the tokens are kept where these are asked for."""
        return self._given_for(self.readout)

    @property
    def replays(self) -> bool:
        """Whether held gradients come from a replay of the prefix tokens."""
        if self.listened and self.adapter.measured:  # a copy that nobody hears would have to be looked at anew
            return False
        return self.may_replay and can_replay(self.adapter, self._expected, self._known())

    def cannot_replay(self) -> None:
        """Note that the model is more than a function of its prefix tokens."""
        self._known().replays = False

    def forward(self, needs: Collection[Need]) -> Forward:
        """The forward, run anew where it lacks something that is asked for."""
        if self._forward is None or not frozenset(needs) <= self._has:
            self.needs |= frozenset(needs)
            try:
                self._forward, self._has = self._run(self.needs)
            except HookEditedError:  # then a head may read what its class does not say
                self.listened, self._edited, self._examined = [], True, None
                self._plain = None  # nor was what they change heard in a plain call without them
                self._readout = self._measured(declared=False)
                self._forward, self._has = self._run(self.needs)
        return self._forward

    @property
    def examined(self) -> Examined:
        """What was found of the model as it stands."""
        self.forward(())  # which shows whether hooks only listen
        return self._known()

    def beside(self, images: Tensor, needs: Collection[Need], layers: Collection[str]) -> "Keeping":
        """The model on other images, as far as it is known by this forward, with nobody hearing it.

        Only of layers that are named gradients can be taken.
        """
        adapter = unheard(self.adapter, listened=bool(self.listened))
        other = Keeping(adapter, replace(self.inputs, images=images), needs, lambda _: layers, self.readout)
        other.listened, other._edited, other._examined = [], self._edited, self._known()
        return other

    def check_no_graph(self, what: str) -> None:
        """Raise OptionError where what has no derivative by the model's parameters is to be part of a graph."""
        if self.create_graph:
            raise OptionError(
                f"with create_graph=True a map is differentiated by the model's parameters, and {what} cannot be: ask "
                f"without create_graph, or a method that reads attention or gradients of one forward, as AGCAM"
            )

    def spend(self) -> None:
        """Note that the graph has gone with a backward."""
        self._has -= AT_LEAVES | {GIVEN_GRADIENTS, LAYER_GRADIENTS, MEAN_LAYER_GRADIENTS}

    @property
    def _expected(self) -> Readout:
        if self._readout is None:
            self._readout = self._measured(declared=True)
        return self._readout

    def _measured(self, *, declared: bool) -> Readout:
        with untouched(self.adapter):
            known = self._known()
            plain = plain_of(self.adapter, self.inputs, known)
            found = readout_of(self.adapter, self.inputs, declared=declared, known=known, plain=plain)
            if found.by_class and self.target is not None:
                own = measure_readout(self.adapter, self.inputs, self.target, known.place, plain=plain)
                found = replace(own, by_class=True, target=self.target)
            self._plain = self._plain or plain.called
            return found

    def _known(self) -> Examined:
        """What is known of the model as it stands; asked once a run."""
        if self._examined is None:
            self._examined = examine(self.adapter, self.inputs, edited=self._edited)
        return self._examined

    def _layers_for(self, readout: Readout) -> list[str]:
        wanted = None if self._layers is None else self._layers(readout)
        return [name for name in self.adapter.attention_layers() if wanted is None or name in wanted]

    def _given_for(self, readout: Readout) -> list[str]:
        return self._layers_for(readout) if self._given is None else list(self._given(readout))

    def _run(self, needs: frozenset[Need]) -> tuple[Forward, frozenset[Need]]:
        """One forward, and what can be answered from it."""
        readout = self._expected
        if self.rules is not None and needs & {LAYER_GRADIENTS, MEAN_LAYER_GRADIENTS}:
            raise UnsupportedModelError(
                f"the score of each layer has a gradient, and none under rules as those of {self.rules.title}"
            )
        replay = bool(needs & {HELD_GRADIENTS, LAYER_GRADIENTS}) and self.replays
        by_layer = MEAN_LAYER_GRADIENTS in needs or (LAYER_GRADIENTS in needs and not replay)
        # an attention pool shows what each layer's tokens give by its own attention: no block has a part in that
        in_blocks = MEAN_LAYER_GRADIENTS in needs or (by_layer and not readout.latents)
        starts = bool(needs & AT_LEAVES) or (HELD_GRADIENTS in needs and not replay)
        starts |= in_blocks and GIVEN_GRADIENTS in needs
        apart = in_blocks and not starts and not self.create_graph
        streams = by_layer or bool(needs & {TOKENS, TOKEN_GRADIENTS})
        graph = starts or in_blocks or GIVEN_GRADIENTS in needs or self.create_graph
        keep = Keep(
            self._layers_for(readout),
            needs | ({VALUES} if in_blocks or LAYER_GRADIENTS in needs else set()),
            replay,
            tail=bool(self.listened) or streams or OUTPUTS in needs or self.create_graph,
            given=self._given_for(readout) if needs & {GIVEN, GIVEN_GRADIENTS} else (),
            starts=starts,
            apart=apart,
            create_graph=self.create_graph,
        )
        with untouched(self.adapter):
            known = self._known()
            ruling = None
            if self.rules is not None:
                count, tokens_first = len(self.inputs.images), self.adapter.tokens_first
                ruling = Ruling(self.rules, images=count, tokens_first=tokens_first)
            forward = run_forward(
                self.adapter,
                self.inputs,
                readout,
                keep,
                graph=graph,
                pixels=PIXEL_GRADIENTS in needs,
                tap=ForwardTap(self.adapter, self.inputs, readout, keep, graph, known.place, ruling),
                streams=streams,
                rooted=TOKEN_GRADIENTS in needs,
                watched=self.listened,
                place=known.place,
            )
            compare(self.adapter, self.inputs, forward.output.scores, known, self._plain)
            self._plain = None
        has = needs | ({READ_ATTENTION} if ATTENTION in needs else set())
        has |= {GIVEN} if GIVEN_GRADIENTS in needs else set()
        known_attention = starts and (self.rules is None or keep.of_attention)
        return forward, has | {ATTENTION, READ_ATTENTION, VALUES, GRADIENTS} if known_attention else has
