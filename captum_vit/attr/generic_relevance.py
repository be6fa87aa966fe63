"""Generic attention relevance."""

from typing import Any

from torch import Tensor

from ..access import AttentionCall, Readout
from ..capture import ATTENTION, GRADIENTS, VALUES, Need, Run, rules_named
from ..targets import Target
from .base import ViTAttribution
from .carrying import Step, carried, layers_from, read_below
from .ways import Ways, under


class GenericRelevance(ViTAttribution):
    """Relevance that every attention layer adds to what the tokens hold of each other, weighted by gradients.

    >>> GenericRelevance(model).attribute(images, target=281, start_layer=-1).shape
    torch.Size([2, 1, 14, 14])

    R begins as the identity and grows from layer to layer, R <- R + F_l R with F_l = mean_h relu(dy/dA_h * A_h); the
    map is its readout row. Nothing is normalised, so the scale of the score counts: of twice the score the layers
    weigh more against the identity, and against each other.

    Options of `attribute`:
        start_layer: the first layer that adds, counted from 0 among those that are read, or from the end; by default
            0, which is all of them. With -1 the last adds alone, as the authors have it for CLIP.
        rules: "none" (default) takes gradients; "cp", "attn" and "libra" take those at an attention's output by what
            stands in the place of derivatives in `CPLRP`, `AttnLRP` and `LibraGrad`; from there to its weights A_h they
            are derivatives.

    Source: Chefer, Gur & Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
        Encoder-Decoder Transformers" (arXiv:2103.15679), equations 5 and 6.
    """

    name, title = "generic_relevance", "generic relevance"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({ATTENTION, VALUES, GRADIENTS})
    of_words = True
    multiplies_layers = True
    paper = "arXiv:2103.15679"

    def needed(self, **options: Any) -> frozenset[Need]:
        """Attention and gradients, or what stands in the place of these."""
        return under(options.get("rules", "none"), self.needs)

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """The layers that add; all where their slices of a flow are wanted, or the score is read below them too."""
        names = self.layers_read(readout)
        adding = layers_from(names, options.get("start_layer", 0))
        whole = flow or read_below(readout, names[: -len(adding)])
        return names if whole else adding

    def _maps(self, run: Run, target: Target, *, flow: bool, start_layer: int = 0, rules: Ways = "none") -> Tensor:
        run = run.under(rules_named(rules))
        names = self.layers_kept(run.readout, flow, start_layer=start_layer)
        adding = layers_from(self.layers_read(run.readout), start_layer)
        gradients = run.gradients(target, adding)

        def relevance(call: AttentionCall, rows: slice) -> Tensor:
            return (call.weights(rows) * call.weight_grad(rows, gradients[call.name])).relu().mean(1)

        calls = list(run.calls(names, {ATTENTION, VALUES}).values())
        step = Step(relevance, normalised=False, passed=set(names) - set(adding))
        return calls[0].layout.to_map(carried(calls, step, flow=flow))
