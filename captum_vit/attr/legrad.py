"""LeGrad: gradients at the attention of every layer, each of a score of its own."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, AttentionCall, Layer, Readout
from ..capture import LAYER_GRADIENTS, MEAN_LAYER_GRADIENTS, Need, Run
from ..errors import OptionError, brief
from ..targets import Target
from .base import ViTAttribution
from .naming import named_target
from .starting import maps_of_targets

POOLINGS = ("mean", "readout")
LIT = 0.8  # of the map of a target that names nothing, from its least value to its largest


class LeGrad(ViTAttribution):
    """Layerwise gradients: to which patches the attention of each layer would have to turn to raise that layer's score.

    >>> LeGrad(model, layer=[-2, -1]).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    Every layer has a score: s_l is what the model's own head makes of the tokens after block l, instead of those after
    the last. Block l contributes the mean over heads and over all queries of relu(ds_l/dA_l), without the columns of
    tokens that are no patches, and the map is the sum over the layers. Each score is differentiated by the attention of
    its own block alone.

    Options of `attribute`:
        pooling: how the head reads the tokens after a block. "mean", as in the authors' program, puts the mean over all
            of them, class and registers too, in the place of each, whatever the model reads itself (of a block that
            gives its class token alone, as CaiT's, that). "readout" reads
            them as the model does: the class token, or the mean of the patches; of an attention pool, as the authors do
            for SigLIP and CoCa, the gradient is taken at the pool's own attention to the tokens after block l, whose
            query is its latent.
        empty: None (default), or a target that names nothing, as the `Embedding` of "a photo of a": patches that it
            lights up are set to 0, those above 0.8 in its own map brought to [0, 1], as the authors do for SigLIP.

    The paper adds up all layers, which is the default here (of a model that pools its patches on the way, as PiT, those
    after the last pooling, whose tokens its head can read); the authors' program takes the last two blocks
    (`layer=[-2, -1]`), and torchcam divides by the number of layers. For SigLIP and CoCa their program leaves out the
    norm before, or behind, the pool, which is part of the head here.

    Source: Bousselham et al. 2025, "LeGrad: An Explainability Method for Vision Transformers via Feature Formation
        Sensitivity" (ICCV 2025, arXiv:2404.03214).
    """

    name, title = "legrad", "LeGrad"
    class_specific, signed, unit = True, False, "evidence"
    needs = frozenset({MEAN_LAYER_GRADIENTS})
    of_words = True
    paper = "arXiv:2404.03214"

    def needed(self, *, pooling: str = "mean", **options: Any) -> frozenset[Need]:
        """What of a run it reads with these options."""
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            raise OptionError(f"pooling must be one of {', '.join(POOLINGS)}, got {brief(pooling)}")
        return frozenset({MEAN_LAYER_GRADIENTS if pooling == "mean" else LAYER_GRADIENTS})

    def layers_read(self, readout: Readout) -> list[str]:
        """The chosen layers in which the score is read, and which have a block around them."""
        blocks = self.adapter.blocks()
        return [name for name in super().layers_read(readout) if name in blocks]

    def flow_layers(self, readout: Readout) -> list[str]:
        """Names of the layers that the slices of a flow belong to."""
        return self.layers_read(readout)

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Why the method does not apply to a model; None if it does."""
        return (
            None if adapter.blocks() else "none of its attention layers stands in a block after which tokens are read"
        )

    def _chosen(self, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
        return super()._chosen(_alike(self.adapter) if layer is None else layer)

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        pooling: Literal["mean", "readout"] = "mean",
        empty: Any = None,
    ) -> Tensor:
        self.needed(pooling=pooling)
        if empty is None:
            return self._summed(run, target, pooling, flow=flow)
        (lit,) = maps_of_targets(self, {"pooling": pooling}, run, [self._empty(empty)], flow=flow)
        maps = self._summed(run, target, pooling, flow=flow)
        return maps.masked_fill(ops.min_max(lit.flatten(0, 1)).view_as(lit) > LIT, 0)

    def _empty(self, empty: Any) -> Target:
        """The target that names nothing, the same for all images."""
        found = named_target(empty, self.adapter)
        if found.of_image(0) is not found:
            raise OptionError("empty is one target for all images, as the embedding (D,) of a text, got one for each")
        return found

    def _summed(self, run: Run, target: Target, pooling: str, *, flow: bool) -> Tensor:
        names = self.layers_read(run.readout)
        gradients = run.layer_gradients(target, names, mean=pooling == "mean")
        maps = torch.stack([_rectified(*gradients[name]) for name in names], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)


def _alike(adapter: Adapter) -> list[str] | None:
    """The layers whose tokens the head can read, where patches are pooled on the way; else None, which is all."""
    if adapter.image_size is None:
        return None
    layout, names = adapter.token_layout(adapter.image_size, {}), list(adapter.blocks())
    grids = {name: layout.grids.get(name, layout.grid) for name in names}
    return [name for name in names if grids[name] == grids[names[-1]]] if layout.grids else None


def _seen(call: AttentionCall, rows: list[int], gradient: Tensor) -> Tensor:
    """ds/dA of these rows, (B, H, R, N); 0 where a mask keeps the query from turning to a key."""
    found, hidden = call.weight_grad(rows, gradient), call.hidden(rows)
    return found if hidden is None else found.masked_fill(hidden, 0.0)


def _rectified(call: AttentionCall, gradient: Tensor) -> Tensor:
    """The mean over heads and all queries of relu(ds/dA): (B, patches); of a pool, over the latents that are read.

    A gradient (B, H, rows, d) of fewer rows is 0 in the others.
    """
    batch, heads, given, _ = gradient.shape
    rows = call.layout.read_rows if call.layout.cross else list(range(given))
    queries = len(rows) if call.layout.cross else len(call.layout.share)
    parts = [
        _seen(call, rows[part], gradient).relu().sum((1, 2))
        for part in ops.row_chunks(len(rows), call.layout.keys, batch * heads)
    ]
    return call.layout.to_map(torch.stack(parts).sum(0)) / (heads * queries)
