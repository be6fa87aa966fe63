"""Grad-ECLIP: the values of the last block, weighed by their gradient and by how like the query their keys are."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, AttentionCall, Layer, Readout
from ..capture import GRADIENTS, HELD_GRADIENTS, READ_ATTENTION, VALUES, Need, Run
from ..errors import UnsupportedModelError
from ..targets import Target
from .base import ViTAttribution


class GradECLIP(ViTAttribution):
    """Gradient-based explanation of CLIP: which patches' values raise the score, as far as the class token looks there.

    >>> GradECLIP(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    Of a block whose attention gives o at the class token, with w = dy/do before the output projection:
    relu(lam_j * sum_k w_k * v_jk) for patch j, over the channels k of all heads. lam_j is the cosine of the class
    token's query with key j, over all channels, stretched to [0, 1] over the patches of each image: what stands in the
    place of the softmax, which is all but 0 for most patches. The target is a class, or of CLIP the cosine with a text,
    `Embedding(vector)`.

    By default the last block is read, as in the paper; `layer=[-2, -1]` adds the maps of the last two.

    Patches that a mask keeps the query from looking at have 0, and no part in that stretch.

    Where the score is read from several tokens, as a mean over patches, each is such a query with a gradient of its
    own, and what they give is added before the relu. Of an attention pool the query is its latent. The attention is the
    model's own, with all its heads: the published program puts attention with a single head in its place, and so
    explains another embedding than the model's.

    Source: Zhao et al. 2024, "Gradient-based Visual Explanation for Transformer-based CLIP" (ICML 2024), equations 8 to
        12, for images.
    """

    name, title = "grad_eclip", "Grad-ECLIP"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({READ_ATTENTION, VALUES, HELD_GRADIENTS})
    weighs = False
    of_words = True

    def _chosen(self, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
        self.by_default, known = layer is None, self.adapter.readout
        chosen = super()._chosen(layer)
        if known is None or not self.by_default:  # else it shows with the first map which is the last
            return chosen
        return {name: chosen[name] for name in _of_last_block(self.adapter, self.adapter.reading_layers(known))}

    def layers_read(self, readout: Readout) -> list[str]:
        """The chosen layers in which the score is read; by default those of the last block alone."""
        names = super().layers_read(readout)
        return _of_last_block(self.adapter, names) if self.by_default else names

    def flow_layers(self, readout: Readout) -> list[str]:
        """Names of the layers that the slices of a flow belong to."""
        return self.layers_read(readout)

    def needed(self, **options: Any) -> frozenset[Need]:
        """What of a run it reads: behind the last block gradients pass no other attention."""
        return frozenset({READ_ATTENTION, VALUES, HELD_GRADIENTS if self._in_last_block else GRADIENTS})

    @property
    def _in_last_block(self) -> bool:
        names = list(self.adapter.attention_layers())
        return set(self.layer_names) <= set(_of_last_block(self.adapter, names))

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        names = self.layers_read(run.readout)
        gradients = run.held_gradients(target, names) if self._in_last_block else run.gradients(target, names)
        calls = run.calls(names, {READ_ATTENTION, VALUES})
        maps = torch.stack([_block_map(calls[name], gradients[name]) for name in names], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)


def _of_last_block(adapter: Adapter, names: Sequence[str]) -> list[str]:
    """Those of several layers that stand in the block of the last."""
    blocks = adapter.blocks()
    return [name for name in names if name == names[-1] or blocks.get(name, name) is blocks.get(names[-1])]


def _block_map(call: AttentionCall, gradient: Tensor) -> Tensor:
    """The evidence of one block's values: (B, patches)."""
    if not call.compares:
        raise UnsupportedModelError(
            f"Grad-ECLIP compares queries and keys, and those of layer {call.name!r} are not seen: what its scores are "
            f"made of is no plain product. An adapter can name the projections that they come out of"
        )
    maps = [
        (_likeness(call, rows) * call.weight_grad(rows, gradient).sum(1)).sum(1)
        for rows in call.parts(call.layout.read_rows)
    ]
    return call.layout.to_map(torch.stack(maps).sum(0)).relu()


def _likeness(call: AttentionCall, rows: list[int]) -> Tensor:
    """The cosine of queries and keys over all heads' channels, from 0 to 1 over the patches: (B, R, N)."""
    with ops.full_precision(call.k.device):
        queries, keys = (
            F.normalize(ops.widen(x).transpose(1, 2).flatten(2), dim=-1) for x in (call.q[:, :, rows], call.k)
        )
        cosines = queries @ keys.mT
    hidden = call.hidden(rows)
    unseen = torch.zeros_like(cosines, dtype=torch.bool) if hidden is None else hidden.all(1).expand_as(cosines)
    patches, out = cosines[..., call.layout.prefix :], unseen[..., call.layout.prefix :]
    least = patches.masked_fill(out, torch.inf).amin(-1, keepdim=True)
    most = patches.masked_fill(out, -torch.inf).amax(-1, keepdim=True)
    # where all patches are alike, each counts in full
    return torch.where(most > least, (cosines - least) / (most - least), 1.0).masked_fill(unseen, 0.0)
