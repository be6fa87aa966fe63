"""What becomes of a score on the way back under rules: what tokens hold, and what never reaches them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..targets import Target
from .forward import Forward, run_forward
from .keeping import Keeping
from .needs import OUTPUTS
from .rule_functions import held_in
from .rules import Rules, Ruling
from .streams import EMBEDDED
from .taps import ForwardTap, Keep
from .untouched import untouched


@dataclass(frozen=True)
class Account:
    """Where the score of one image lies.

    score: the target's.  tokens: what each token before the first block holds, (tokens,), in the model's order.
    constants: what is held by all that is added to activations after them, as biases.
    absorbed: what softmaxes keep for themselves, a target's own among them.
    """

    score: float
    tokens: Tensor
    constants: float
    absorbed: float


def account(kept: Keeping, target: Target, rules: Rules) -> Account:
    """The score of one image, followed back under rules: one forward and backward.

    Constants that are added to activations are leaves of the graph, as the tokens are. A number times its gradient is
    what it holds.

    Args:
        kept: the model and what it is called with, one image.
        target: what is explained.
        rules: in place of derivatives.
    """
    with untouched(kept.adapter):
        ruling = Ruling(rules, images=1, tokens_first=kept.adapter.tokens_first, accounting=True)
        keep, place = Keep((), frozenset({OUTPUTS}), tail=True), kept.examined.place
        tap = ForwardTap(kept.adapter, kept.inputs, kept.readout, keep, True, place, ruling)
        forward = run_forward(kept.adapter, kept.inputs, kept.readout, keep, graph=True, streams=True, tap=tap)
        return told(forward, target, ruling, forward.streams[EMBEDDED])


def told(
    forward: Forward,
    target: Target,
    ruling: Ruling,
    stream: Tensor,
    tokens: Callable[[Tensor], Tensor] | None = None,
) -> Account:
    """What becomes of the score of one image in a forward under rules that keeps accounts.

    Args:
        forward, target, ruling: as they are.
        stream: where the graph begins.
        tokens: what makes of it (1, tokens, channels), if it is something else.
    """
    scores, leaves = forward.output.scores, ruling.state.leaves or []
    with torch.enable_grad():
        score = float(target.score(forward.output).sum().detach())
    own = [scores] if scores.requires_grad else []  # a target may be read from what is beside them
    *at_scores, at_tokens = forward.gradients(target, [*leaves, *own, stream])
    at_leaves, at_scores = at_scores[: len(leaves)], at_scores[len(leaves) :]
    if at_tokens is None:
        at_tokens = torch.zeros_like(stream)
    held = [held_in(x, g) for x, g in zip(leaves, at_leaves, strict=True) if g is not None]
    absorbed = [*(ruling.state.absorbed or []), *(score - held_in(scores, g) for g in at_scores if g is not None)]
    evidence = stream.detach().double() * at_tokens.double()
    return Account(
        score,
        (evidence if tokens is None else tokens(evidence)).sum((0, 2)),
        float(sum(held)),
        float(sum(absorbed)),
    )
