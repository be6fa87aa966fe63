"""Beyond Intuition: attention perception and reasoning feedback."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from torch import Tensor

from .. import ops
from ..access import AttentionCall
from ..capture import ATTENTION, GRADIENTS, OUTPUT_WEIGHTS, PATH_GRADIENTS, TOKENS, VALUES, Need, Run
from ..errors import OptionError, brief
from ..targets import Target
from .block_inputs import block_inputs
from .carrying import FusedRows, Step
from .path_weighted import PathWeighted

Variant = Literal["head", "token"]
VARIANTS = ("head", "token")


class BeyondIntuition(PathWeighted):
    """Beyond Intuition: attention as tokens perceive each other through it, weighted by what the score makes of it.

    >>> BeyondIntuition(model).attribute(images, target=281, variant="token").shape
    torch.Size([2, 1, 14, 14])

    R <- R + M_l R from `start_layer` up, and the map is the readout row of W * R, with W = mean_h relu(mean over alpha
    of dy(alpha x)/dA_L). `variant="head"` (BTH): M_l = sum_h I_h A_h, the heads by their importance I_h, the mean of
    |A_h^T dy/dA_h| over all entries, of sum 1. `variant="token"` (BTT): M_l = mean_h(A_h) diag(m), a token j by how its
    projected value compares with itself, m_j = |v_j W_o^T| / |h_j|, h being what the block is given.

    Options of `attribute`:
        variant: "head" (default) or "token".
        start_layer: the lowest layer that takes part, counted from 0, or from the end. The authors count from 1: their
            4 of 12 for heads is 3 here, and their 6 for tokens is 5. By default that, in proportion to the depth.
        steps: how many images from black to the given one the gradient is taken at, by default 20, each a forward.

    Source: Chen, Li, Yu, Dou & Xiong 2023, "Beyond Intuition: Rethinking Token Attributions inside Transformers"
        (Transactions on Machine Learning Research).
    """

    name, title = "beyond_intuition", "Beyond Intuition"
    class_specific, signed, unit = True, False, "evidence"
    paper = "Transactions on Machine Learning Research, 2023"

    @classmethod
    def first_layer(cls, count: int, **options: Any) -> int:
        """A quarter of the layers up for heads, five twelfths for tokens."""
        return {"head": 3, "token": 5}[_checked(options)] * count // 12

    @classmethod
    def call_needs(cls, **options: Any) -> frozenset[str]:
        """The values, of either variant."""
        return frozenset({VALUES})

    def needed(self, **options: Any) -> frozenset[Need]:
        """Gradients for the heads; tokens and projections for the tokens."""
        own = {GRADIENTS} if _checked(options) == "head" else {TOKENS, OUTPUT_WEIGHTS}
        return frozenset({ATTENTION, VALUES, PATH_GRADIENTS, *own})

    def _by_target(self, **options: Any) -> bool:
        return _checked(options) == "head"

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        variant: Variant = "head",
        start_layer: int | None = None,
        steps: int = 20,
    ) -> Tensor:
        return self._weighted(run, target, flow=flow, variant=variant, start_layer=start_layer, steps=steps)

    def _step(
        self, run: Run, target: Target, calls: Sequence[AttentionCall], passed: Collection[str], **options: Any
    ) -> Step:
        taking_part = [call for call in calls if call.name not in passed]
        of_variant = _by_heads if _checked(options) == "head" else _by_tokens
        return Step(of_variant(run, target, taking_part), normalised=False, passed=passed)


def _checked(options: dict[str, Any]) -> str:
    variant = options.get("variant", "head")
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise OptionError(f"variant must be one of {', '.join(VARIANTS)}, got {brief(variant)}")
    return variant


def _by_heads(run: Run, target: Target, calls: Sequence[AttentionCall]) -> FusedRows:
    """sum_h I_h A_h."""
    gradients = run.gradients(target, [call.name for call in calls])
    shares = {call.name: _importance(call, gradients[call.name]) for call in calls}
    return lambda call, rows: (shares[call.name][:, :, None, None] * call.weights(rows)).sum(1)


def _importance(call: AttentionCall, gradient: Tensor) -> Tensor:
    """mean |A^T dy/dA| of each head over all pairs of tokens, divided by the sum over heads: (B, H)."""
    pulled = call.pull(ops.widen(gradient))  # A^T dy/dO, (B, H, N, d): dy/dA = dy/dO v^T comes to the right of it
    total = pulled.new_zeros(call.batch, call.heads)
    for rows in ops.row_chunks(call.layout.keys, call.layout.keys, call.batch * call.heads):
        total += call.weight_grad(rows, pulled).abs().sum((2, 3))
    whole = total.sum(1, keepdim=True)
    return total / whole.where(whole != 0, 1)


def _by_tokens(run: Run, target: Target, calls: Sequence[AttentionCall]) -> FusedRows:
    """mean_h(A_h) diag(m)."""
    weights = run.output_weights([call.name for call in calls])
    given = block_inputs(run, run.tokens(), {call.name: call.layout for call in calls})
    ratios = {}
    for call in calls:
        with ops.full_precision(call.v.device):
            projected = ops.widen(call.v.transpose(1, 2).flatten(2)) @ ops.widen(weights[call.name]).mT  # (B, N, D)
        size = ops.widen(given[call.name]).norm(dim=2)
        ratios[call.name] = projected.norm(dim=2) / size.where(size != 0, 1)  # (B, N)
    return lambda call, rows: call.weights(rows).mean(1) * ratios[call.name].unsqueeze(1)
