"""One batch of images through one model, asked once and read by many methods."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..access.outputs import told_of
from ..targets import Target, as_target
from .examine import Examined
from .forward import Forward, check_reached, filled
from .inputs import Inputs
from .keeping import Keeping, Layers
from .needs import GRADIENTS, HELD_GRADIENTS, OUTPUTS, TOKEN_GRADIENTS, TOKENS, Need
from .replay import replayed_gradients
from .untouched import untouched

T = TypeVar("T")
KINDS = frozenset({GRADIENTS, HELD_GRADIENTS, TOKEN_GRADIENTS})  # ways back through one graph


class Run(AbstractContextManager["Run"]):
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
        once: bool = False,
    ) -> None:
        self.adapter, self.inputs, self.once = adapter, inputs, once
        self.kept = Keeping(adapter, inputs, needs, layers, readout)
        self._visit = ExitStack()
        self._gradients: dict[str, tuple[Target, Any]] = {}  # the newest target of each kind

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
    def layers(self) -> list[str]:
        """The attention layers that are kept, in execution order."""
        return self.kept.layers

    @property
    def replays(self) -> bool:
        """Whether held gradients come from a replay of the prefix tokens."""
        return self.kept.replays

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
        found = self.held_gradients_of([as_target(target)], names)
        return {name: gradient[0] for name, gradient in found.items()}

    def held_gradients_of(self, targets: Sequence[Target], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """`held_gradients` of several targets, (K, B, H, M, d): by a replay of K copies, or a batched backward."""
        names = self.layers if names is None else names
        forward = self.kept.forward({HELD_GRADIENTS})  # which shows whether hooks only listen
        if self.kept.replays and all(target.reads_scores for target in targets):
            listened = bool(self.kept.listened)
            outs, found = replayed_gradients(forward, self.inputs, targets, names, listened=listened)
            check_reached(self.adapter, found, names)
            return {name: gradient.unflatten(0, (len(targets), -1)) for name, gradient in filled(outs, found).items()}
        if len(targets) == 1:
            alone = self._of_outputs(targets[0], names, held=True)
            return {name: gradient.unsqueeze(0) for name, gradient in alone.items()}
        with untouched(self.adapter):
            forward = self.kept.forward({GRADIENTS}.union(*map(_read, targets)))
            outs = {name: call.out for name, call in forward.calls.items() if name in names}
            return dict(zip(outs, forward.gradients_of_several(targets, list(outs.values())), strict=True))

    def score(self, images: Tensor) -> Tensor:
        """The scores of other images, as a perturbation method asks for: one plain forward."""
        with untouched(self.adapter), torch.no_grad():
            inputs = replace(self.inputs, images=images)
            return inputs.scores(self.adapter, inputs.run(self.adapter.model))

    def _of_outputs(self, target: Target, names: Collection[str], *, held: bool) -> dict[str, Tensor]:
        def compute(forward: Forward, retain: bool) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
            outs = {name: call.out for name, call in forward.calls.items() if call.out.requires_grad}
            found = forward.gradients(target, list(outs.values()), held=held, retain=retain)
            return {name: out.detach() for name, out in outs.items()}, dict(zip(outs, found, strict=True))

        outs, found = self._newest(HELD_GRADIENTS if held else GRADIENTS, target, {GRADIENTS}, compute)
        check_reached(self.adapter, found, names)
        return filled({name: out for name, out in outs.items() if name in names}, found)

    def _newest(self, kind: str, target: Target, needs: set[Need], compute: Callable[[Forward, bool], T]) -> T:
        """Kept for the newest target of each kind: methods ask for the same one after another."""
        known = self._gradients.get(kind)
        if known is not None and known[0] is target:
            return known[1]
        self._gradients.pop(kind, None)  # before the next ones are there
        asked = {other for other, (of, _) in self._gradients.items() if of is target} | {kind}
        ways = KINDS - {HELD_GRADIENTS} if self.kept.replays else KINDS
        retain = not self.once or bool(self.kept.needs & ways - asked)
        with untouched(self.adapter):
            found = compute(self.kept.forward(needs | _read(target)), retain)
        self._gradients[kind] = target, found
        if not retain:
            self.kept.spend()
        return found


def _read(target: Target) -> set[Need]:
    """What of a forward a target is made of, besides the scores."""
    return set() if target.reads_scores else {OUTPUTS}
