"""The model once more on its prefix tokens alone, with the attention as it was in a forward.

Equal to the way back through all tokens with every attention held constant, where the score is read from prefix tokens:
with the attention outputs given, tokens no longer meet.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..access import Adapter, Readout
from ..errors import UnsupportedModelError
from ..targets import Joined, Output, Target
from ..targets.base import check_attached
from .examine import Examined
from .few import ReplayTap
from .forward import Forward
from .inputs import Inputs
from .listeners import unheard
from .untouched import untouched


class NotReplayedError(Exception):
    """A model whose head is not known is not the same function of its prefix tokens alone."""


def can_replay(adapter: Adapter, readout: Readout, known: Examined) -> bool:
    """Whether a replay may be right.

    In train mode two forwards would draw different dropout masks. A head that is not known may use the values of tokens
    that its gradient does not show: then the replay gives other scores. It must not be heard by hooks of others.
    """
    if adapter.training or adapter.first_block is None or not readout.of_prefix:
        return False
    measured = known.replays and not known.edited and not known.hands.unseen and readout.unclear is None
    return readout.declared or measured


def replayed_gradients(
    forward: Forward, inputs: Inputs, targets: Sequence[Target], names: Collection[str], *, listened: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """The attention outputs of these layers and the gradients there, (K*B, H, prefix, d), target by target.

    Args:
        forward: what was kept for it.
        inputs: of the model.
        targets: K targets, for as many copies of each image.
        names: of attention layers.
        listened: whether somebody else's hooks are on the model, who must not hear a replay.
    Raises:
        NotReplayedError: the readout was measured, and there is more to the scores.
        UnsupportedModelError: it was declared, and there is.
    """
    if forward.layout.readout is None or not forward.layout.readout.declared:
        return _tried(forward, inputs, targets, names, listened=listened)
    return _replayed(forward, inputs, targets, names, listened=listened)


def _tried(
    forward: Forward, inputs: Inputs, targets: Sequence[Target], names: Collection[str], *, listened: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    order, prefix = forward.layout.order, forward.layout.prefix
    if order is not None and not torch.equal(order[:prefix].cpu(), torch.arange(prefix)):
        raise NotReplayedError("the tokens besides the patches do not stand first")
    try:
        return _replayed(forward, inputs, targets, names, listened=listened)
    except Exception as error:  # whatever somebody's code makes of tokens without patches
        raise NotReplayedError(str(error)) from error


def _replayed(
    forward: Forward, inputs: Inputs, targets: Sequence[Target], names: Collection[str], *, listened: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    adapter = unheard(forward.adapter, listened=listened)
    tap = ReplayTap(adapter, inputs, forward.layout, forward.kept, names, len(targets))
    with untouched(adapter), torch.enable_grad():
        with tap.listening(), tap.slicing(forward.layout.prefix):
            raw = inputs.run(adapter)
            output = Output(raw, inputs.scores(adapter, raw), adapter.headless)
        check_same(forward.output.scores.detach(), output.scores.detach(), adapter)
        score = Joined(targets).score(output) if len(targets) > 1 else targets[0].score(output)
        check_attached(score, output, targets[0])
        found = torch.autograd.grad(score.sum(), list(tap.outs.values()), allow_unused=True)
    return tap.outs, dict(zip(tap.outs, found, strict=True))


def check_same(scores: Tensor, again: Tensor, adapter: Adapter) -> None:
    """The replay must give what the forward gave: else something is not seen, as a hook that writes by `.data`."""
    again = again[: len(scores)]
    difference = (again - scores).abs().max()
    if not difference <= torch.finfo(scores.dtype).eps ** 0.5 * scores.abs().max().clamp(min=1e-6):
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} gives other scores when its prefix tokens run again with the same "
            f"attention (by {difference:.2g}): something changes its tokens unseen, as a hook that writes to "
            f"`output.data`. Take it off while the model is explained, or let the hook return what it changes"
        )
