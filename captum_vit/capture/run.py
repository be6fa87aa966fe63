"""One batch of images through one model, asked once and read by many methods."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..targets import Target, as_target
from .forward import Forward, HookEditedError, check_reached, filled, run_forward
from .inputs import Inputs
from .listeners import foreign_hooks
from .needs import ATTENTION, GRADIENTS, HELD_GRADIENTS, READ_ATTENTION, TOKEN_GRADIENTS, TOKENS, VALUES, Need
from .readout import readout_of
from .replay import can_replay, replayed_gradients
from .taps import Keep
from .untouched import untouched

T = TypeVar("T")
KINDS = frozenset({GRADIENTS, HELD_GRADIENTS, TOKEN_GRADIENTS})  # ways back through one graph


class Run:
    """What a model computed for a batch of images; each part is computed at the first question, and kept.

    >>> run = Run(adapt(model), Inputs(images), needs={GRADIENTS})
    >>> run.scores.shape, run.gradients(281)["blocks.0.attn"].shape  # one forward and one backward
    (torch.Size([2, 1000]), torch.Size([2, 12, 197, 64]))

    Args:
        adapter: access to the model.
        inputs: what it is called with.
        needs: what will be asked, of `captum_vit.capture.needs`: so that one forward serves all. What was not named
            here can be asked for all the same, and costs another forward.
        layers: of which attention layers, a function of the readout; by default of all.
        readout: the tokens that the score is read from; by default as the adapter declares, or measured.
        once: whether each kind of gradient is asked for one target only, so that the graph goes with the first.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        needs: Collection[Need] = (),
        *,
        layers: Callable[[Readout], Collection[str]] | None = None,
        readout: Readout | None = None,
        once: bool = False,
    ) -> None:
        self.adapter, self.inputs, self.once = adapter, inputs, once
        self.listened = foreign_hooks(adapter.model)
        self.may_replay = True  # set to False, the general way is taken where a replay would do
        self._readout, self._wanted_layers = readout, layers
        self._needs = frozenset(needs)
        self._forward: Forward | None = None
        self._has: frozenset[Need] = frozenset()
        self._gradients: dict[str, tuple[Target, Any]] = {}  # the newest target of each kind

    @property
    def readout(self) -> Readout:
        """The tokens that the score is read from."""
        if self.listened:  # what the adapter declares holds if their hooks only listen, which the forward shows
            self._have(())
        return self._expected_readout

    @property
    def layers(self) -> list[str]:
        """The attention layers that are kept, in execution order."""
        return self._layers_for(self.readout)

    @property
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""
        return self._have(()).layout

    @property
    def outputs(self) -> Any:
        """The model's own output."""
        return self._have(()).output.raw

    @property
    def scores(self) -> Tensor:
        """What the adapter takes for the scores, (B, C) or (B, C, ...)."""
        return self._have(()).output.scores.detach()

    def calls(self, names: Collection[str], needs: Collection[Need]) -> dict[str, AttentionCall]:
        """The attention of these layers, in execution order; of each as much as is needed, or more.

        needs: some of `READ_ATTENTION`, `ATTENTION` and `VALUES`.
        """
        found = self._have(needs).calls
        return {name: call for name, call in found.items() if name in names}

    def reduced(self, reduction: Callable[[AttentionCall], T]) -> dict[str, T]:
        """What a function makes of the attention of each kept layer, taken while the model runs."""
        return self._have({reduction}).kept.reduced[reduction]

    def tokens(self) -> dict[str, Tensor]:
        """The token stream after the block of each attention layer, (B, N, D); under "embedding" before the first."""
        return {name: stream.detach() for name, stream in self._have({TOKENS}).streams.items()}

    def gradients(self, target: Any, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """dy/dO of the attention layers, (B, H, M, d) each, for the target's score y.

        Raises:
            UnsupportedModelError: no gradient reaches one of `names`, by default the kept layers.
        """
        return self._of_outputs(as_target(target), self.layers if names is None else names, held=False)

    def token_gradients(self, target: Any) -> dict[str, Tensor]:
        """dy/dx of the token streams, as `tokens` names them; 0 where the score does not depend on one."""
        target = as_target(target)

        def compute(forward: Forward, retain: bool) -> dict[str, Tensor]:
            streams = {name: stream for name, stream in forward.streams.items() if stream.requires_grad}
            found = forward.gradients(target, list(streams.values()), retain=retain)
            return filled(forward.streams, dict(zip(streams, found, strict=True)))

        return self._newest(TOKEN_GRADIENTS, target, {TOKEN_GRADIENTS, TOKENS}, compute)

    def held_gradients(self, target: Any, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """As `gradients`, with the input of every attention layer held constant: through skip connections and MLPs.

        Where the score is read from prefix tokens, these gradients live on them alone: (B, H, prefix, d), and instead
        of going back through all tokens the model is run again on these few. In train mode, or where a head is not
        known, it takes the general way.
        """
        names = self.layers if names is None else names
        if not self.replays:
            return self._of_outputs(as_target(target), names, held=True)
        found = self.held_gradients_of([as_target(target)], names)
        return {name: gradient[0] for name, gradient in found.items()}

    def held_gradients_of(self, targets: Sequence[Target], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """`held_gradients` of several targets, (K, B, H, M, d): from one replay of K copies, where there is one."""
        names = self.layers if names is None else names
        if not self.replays:
            return self._general(targets, names)
        forward = self._have({HELD_GRADIENTS})
        outs, found = replayed_gradients(forward, self.inputs, targets, names, listened=bool(self.listened))
        check_reached(self.adapter, found, names)
        return {name: gradient.unflatten(0, (len(targets), -1)) for name, gradient in filled(outs, found).items()}

    def _general(self, targets: Sequence[Target], names: Collection[str]) -> dict[str, Tensor]:
        """Held gradients back through all tokens, in one batched backward where there are several targets."""
        if len(targets) == 1:
            alone = self._of_outputs(targets[0], names, held=True)
            return {name: gradient.unsqueeze(0) for name, gradient in alone.items()}
        with untouched(self.adapter):
            forward = self._have({GRADIENTS})
            outs = {name: call.out for name, call in forward.calls.items() if name in names}
            return dict(zip(outs, forward.gradients_of_several(targets, list(outs.values())), strict=True))

    @property
    def replays(self) -> bool:
        """Whether held gradients come from a replay of the prefix tokens."""
        return self.may_replay and can_replay(self.adapter, self._expected_readout)

    def score(self, images: Tensor) -> Tensor:
        """The scores of other images, as a perturbation method asks for: one plain forward."""
        with untouched(self.adapter), torch.no_grad():
            return self.adapter.scores(replace(self.inputs, images=images).run(self.adapter.model))

    # how it is computed

    @property
    def _expected_readout(self) -> Readout:
        if self._readout is None:
            with untouched(self.adapter):
                self._readout = readout_of(self.adapter, self.inputs)
        return self._readout

    def _layers_for(self, readout: Readout) -> list[str]:
        wanted = None if self._wanted_layers is None else self._wanted_layers(readout)
        return [name for name in self.adapter.attention_layers() if wanted is None or name in wanted]

    def _have(self, needs: Collection[Need]) -> Forward:
        """The forward, run anew where it lacks something that is asked for."""
        if self._forward is None or not frozenset(needs) <= self._has:
            self._needs |= frozenset(needs)
            try:
                self._forward, self._has = self._run(self._needs)
            except HookEditedError:  # then a head may read what its class does not say
                self.listened = []
                with untouched(self.adapter):
                    self._readout = readout_of(self.adapter, self.inputs, declared=False)
                self._forward, self._has = self._run(self._needs)
        return self._forward

    def _run(self, needs: frozenset[Need]) -> tuple[Forward, frozenset[Need]]:
        """One forward, and what can be answered from it."""
        readout = self._expected_readout
        replay = HELD_GRADIENTS in needs and self.replays
        graph = bool(needs & {GRADIENTS, TOKEN_GRADIENTS}) or (HELD_GRADIENTS in needs and not replay)
        keep = Keep(self._layers_for(readout), needs, replay, tail=bool(self.listened) or TOKENS in needs)
        with untouched(self.adapter):
            forward = run_forward(
                self.adapter,
                self.inputs,
                readout,
                keep,
                graph=graph,
                streams=bool(needs & {TOKENS, TOKEN_GRADIENTS}),
                watched=self.listened if readout.declared else (),
            )
        has = needs | ({READ_ATTENTION} if ATTENTION in needs else set())
        return forward, has | {ATTENTION, READ_ATTENTION, VALUES, GRADIENTS} if graph else has

    def _of_outputs(self, target: Target, names: Collection[str], *, held: bool) -> dict[str, Tensor]:
        def compute(forward: Forward, retain: bool) -> dict[str, Tensor | None]:
            outs = {name: call.out for name, call in forward.calls.items() if call.out.requires_grad}
            found = forward.gradients(target, list(outs.values()), held=held, retain=retain)
            return dict(zip(outs, found, strict=True))

        found = self._newest(HELD_GRADIENTS if held else GRADIENTS, target, {GRADIENTS}, compute)
        check_reached(self.adapter, found, names)
        assert self._forward is not None
        return filled({name: call.out for name, call in self._forward.calls.items() if name in names}, found)

    def _newest(self, kind: str, target: Target, needs: set[Need], compute: Callable[[Forward, bool], T]) -> T:
        """Kept for the newest target of each kind: methods ask for the same one after another."""
        known = self._gradients.get(kind)
        if known is not None and known[0] is target:
            return known[1]
        self._gradients.pop(kind, None)  # before the next ones are there
        asked = {other for other, (of, _) in self._gradients.items() if of is target} | {kind}
        pending = self._needs & (KINDS if not self.replays else KINDS - {HELD_GRADIENTS}) - asked
        retain = not self.once or bool(pending)
        with untouched(self.adapter):
            found = compute(self._have(needs), retain)
        self._gradients[kind] = target, found
        if not retain:  # the graph is spent
            self._has -= {GRADIENTS, TOKEN_GRADIENTS}
        return found
