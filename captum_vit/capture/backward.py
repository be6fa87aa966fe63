"""The ways back through one forward: gradients of a target's score, each kept for its newest target."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..access import Adapter
from ..errors import UnsupportedModelError
from ..targets import Target, as_target
from .forward import Forward, check_reached, filled
from .inputs import Inputs
from .keeping import Keeping
from .needs import (
    GIVEN_GRADIENTS,
    GRADIENTS,
    HELD_GRADIENTS,
    LAYER_GRADIENTS,
    MEAN_LAYER_GRADIENTS,
    OUTPUTS,
    PIXEL_GRADIENTS,
    TOKEN_GRADIENTS,
    TOKENS,
    Need,
)
from .replay import NotReplayedError, replayed_gradients
from .untouched import untouched

T = TypeVar("T")
# ways back through one graph; of these a replay does without it
KINDS = frozenset(
    {
        GRADIENTS,
        HELD_GRADIENTS,
        TOKEN_GRADIENTS,
        GIVEN_GRADIENTS,
        LAYER_GRADIENTS,
        MEAN_LAYER_GRADIENTS,
        PIXEL_GRADIENTS,
    }
)
REPLAYED = frozenset({HELD_GRADIENTS, LAYER_GRADIENTS})


class Backward:
    """What a run knows of the way back.

    Args:
        kept: the forward that it goes back through.
        once: whether each kind of gradient is asked for one target only, so that the graph goes with it.
    """

    def __init__(self, kept: Keeping, once: bool) -> None:
        self.kept, self.once = kept, once
        self._gradients: dict[str, tuple[Target, Any]] = {}  # the newest target of each kind

    @property
    def adapter(self) -> Adapter:
        """Access to the model."""
        return self.kept.adapter

    @property
    def inputs(self) -> Inputs:
        """What the model is called with."""
        return self.kept.inputs

    @property
    def layers(self) -> list[str]:
        """The attention layers that are kept, in execution order."""
        return self.kept.layers

    @property
    def replays(self) -> bool:
        """Whether held gradients come from a replay of the prefix tokens."""
        return self.kept.replays

    def gradients(self, target: Any, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """dy/dO of the attention layers, (B, H, M, d) each, for the target's score y.

        Raises:
            UnsupportedModelError: no gradient reaches one of `names`, by default the kept layers; or the target is read
                from tokens of its own, and the run was not made for it.
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

    def given_gradients(self, target: Any) -> dict[str, Tensor]:
        """dy/da at each place a of `given`, (B, N, D), in the order of its `values`, of what passes that place alone.

        0 at an attention pool that the score does not depend on.

        Raises:
            UnsupportedModelError: no gradient reaches one of them.
        """
        target = as_target(target)

        def compute(forward: Forward, retain: bool) -> dict[str, Tensor]:
            places = {name: given.tokens for name, given in forward.given.items()}
            found = dict(zip(places, forward.gradients(target, list(places.values()), retain=retain), strict=True))
            check_reached(self.adapter, found, list(places))
            return {name: forward.given[name].arranged(g) for name, g in filled(places, found).items()}

        return self._newest(GIVEN_GRADIENTS, target, {GIVEN_GRADIENTS}, compute)

    def pixel_gradients(self, target: Any) -> Tensor:
        """dy/dx of the images, of their shape."""
        target = as_target(target)

        def compute(forward: Forward, retain: bool) -> Tensor:
            images = forward.images
            assert images is not None
            (found,) = forward.gradients(target, [images], retain=retain)
            return filled({"images": images}, {"images": found})["images"]

        return self._newest(PIXEL_GRADIENTS, target, {PIXEL_GRADIENTS}, compute)

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
        check_alike(self.kept, targets)
        if self.kept.replays and all(target.reads_scores for target in targets):
            try:
                return self._replayed(forward, targets, names)
            except NotReplayedError:
                self.kept.cannot_replay()
        if len(targets) == 1:
            alone = self._of_outputs(targets[0], names, held=True)
            return {name: gradient.unsqueeze(0) for name, gradient in alone.items()}
        with untouched(self.adapter):
            forward = self.kept.forward({GRADIENTS}.union(*map(_read, targets)))
            outs = {name: call.out for name, call in forward.calls.items() if name in names}
            return dict(zip(outs, forward.gradients_of_several(targets, list(outs.values())), strict=True))

    def _replayed(self, forward: Forward, targets: Sequence[Target], names: Collection[str]) -> dict[str, Tensor]:
        listened = bool(self.kept.listened)
        outs, found = replayed_gradients(forward, self.inputs, targets, names, listened=listened)
        check_reached(self.adapter, found, names)
        return {name: gradient.unflatten(0, (len(targets), -1)) for name, gradient in filled(outs, found).items()}

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
        ways = KINDS - REPLAYED if self.kept.replays else KINDS
        retain = not self.once or self.kept.create_graph or bool(self.kept.needs & ways - asked)
        with untouched(self.adapter):
            forward = self.kept.forward(needs | _read(target))
            check_alike(self.kept, [target])
            found = compute(forward, retain)
        self._gradients[kind] = target, found
        if not retain:
            self.kept.spend()
        return found


def check_alike(kept: Keeping, targets: Sequence[Target]) -> None:
    """All of these must be read from the tokens that the run takes for those of the score.

    Raises:
        UnsupportedModelError: single scores are read from tokens of their own, and the run was made for another target.
    """
    if not all(kept.readout.holds_for(target) for target in targets):
        raise UnsupportedModelError(
            f"some scores of {type(kept.adapter.model).__name__} are read from other tokens than others: ask about "
            f"each target by a run of its own, as .attribute(images, target) does"
        )


def _read(target: Target) -> set[Need]:
    """What of a forward a target is made of, besides the scores."""
    return set() if target.reads_scores else {OUTPUTS}
