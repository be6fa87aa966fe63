"""Attentive class activation tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import AttentionCall, LayerLayout, Readout
from ..capture import TOKEN_GRADIENTS, TOKENS, Run
from ..targets import Target
from .base import ViTAttribution
from .block_inputs import block_inputs


@dataclass(frozen=True)
class Received:
    """The attention that each key of a layer receives, the mean over heads and queries, (B, N); None of a pool."""

    attention: Tensor | None
    layout: LayerLayout


def received(call: AttentionCall) -> Received:
    """It, taken in chunks of queries."""
    if call.layout.cross:
        return Received(None, call.layout)
    parts = [call.weights(rows).sum((1, 2)) for rows in call.parts(range(call.queries))]
    return Received(torch.stack(parts).sum(0) / (call.heads * call.queries), call.layout)


class AttCAT(ViTAttribution):
    """Attentive class activation tokens: what each token gives to the score, by the attention that it receives.

    >>> AttCAT(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    sum_l (sum over the channels of h_l * dy/dh_l) * (mean over heads and queries of A_l)[key], h_l being the tokens
    that block l is given. Below 0 a patch speaks against the target. Blocks before those in which the score
    is read count too; an attention pool is no block, and adds nothing.

    Source: Qiang, Pan, Li, Li, Jang & Zhu 2022, "AttCAT: Explaining Transformers via Attentive Class Activation Tokens"
        (NeurIPS 2022).
    """

    name, title = "attcat", "AttCAT"
    class_specific, signed, unit = True, True, "evidence"
    needs = frozenset({TOKENS, TOKEN_GRADIENTS, received})
    multiplies_layers = True  # not multiplied, but none may be missing between the image and the score
    paper = "NeurIPS 2022"

    def flow_layers(self, readout: Readout) -> list[str]:
        """All that count."""
        return self.layers_read(readout)

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        taken, names = run.reduced(received), self.layers_read(run.readout)
        layouts = {name: taken[name].layout for name in names if taken[name].attention is not None}
        gradients = block_inputs(run, run.token_gradients(target), layouts, patches=True)
        tokens = block_inputs(run, run.tokens(), layouts, patches=True)
        maps: list[Tensor] = []
        for name in names:
            attention, layout = taken[name].attention, taken[name].layout
            if attention is None:
                maps.append(torch.zeros_like(maps[-1]))
                continue
            given = F.pad((tokens[name] * gradients[name]).sum(2), (layout.prefix, 0))  # (B, N)
            maps.append(layout.to_map(given * attention))
        stacked = torch.stack(maps, 1)
        return stacked.cumsum(1) if flow else stacked.sum(1, keepdim=True)
