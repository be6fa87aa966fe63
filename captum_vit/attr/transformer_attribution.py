"""Transformer attribution: relevance propagated back to every attention, and gradients there."""

from torch import Tensor

from .. import ops
from ..access import Adapter, AttentionCall
from ..capture import ATTENTION, GRADIENTS, VALUES, Run, UnderRules, sharing_rules
from ..targets import Target
from .base import ViTAttribution
from .carrying import Step, carried


class TransformerAttribution(ViTAttribution):
    """Relevance of the attention weights, propagated layer by layer, weighted by gradients and multiplied through.

    >>> TransformerAttribution(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    F_l = mean_h relu(dy/dA_h * R_h), where R is the relevance of the weights A: it starts as the score's gradient at
    the scores, 1 at a class, and is shared out from the last function to the first by what each operand added to the
    result (the z+ rule at linear layers, halves at the products of an attention, and at sums parts as their totals).
    The map is the readout row of (F_L + I) ... (F_1 + I).

    Shares are divided by q k^T, which comes near 0, so that in single precision the result is not a number one can
    trust: the forward and the relevance are computed in double precision, but on Apple's devices, which have none.

    Source: Chefer, Gur & Wolf 2021, "Transformer Interpretability Beyond Attention Visualization" (arXiv:2012.09838),
        section 3.
    """

    name, title = "transformer_attribution", "transformer attribution"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({GRADIENTS}) | {UnderRules(sharing_rules(), need) for need in (ATTENTION, VALUES, GRADIENTS)}
    multiplies_layers = True
    paper = "arXiv:2012.09838"

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        mixed = [name for name, of in adapter.projections().items() if of.mix or of.mix_scores]
        if mixed:
            return f"the heads of {mixed[0]} are mixed, and what relevance a mixed attention has, no rule says"
        return super().unsuited(adapter)

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        names = self.layers_read(run.readout)
        gradients = run.gradients(target, names)
        under = run.under(sharing_rules())
        relevances = under.gradients(target, names)

        def relevance(call: AttentionCall, rows: slice) -> Tensor:
            share = ops.safe_divide(relevances[call.name], call.out)
            of_weights = call.weights(rows) * call.weight_grad(rows, share) / 2
            return (of_weights * call.weight_grad(rows, gradients[call.name].to(share))).relu().mean(1)

        calls = list(under.calls(names, {ATTENTION, VALUES}).values())
        maps = calls[0].layout.to_map(carried(calls, Step(relevance, normalised=False), flow=flow))
        return maps.to(ops.widen(run.inputs.images))
