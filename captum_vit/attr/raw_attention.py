"""Attention as it is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from captum.log import log_usage
from torch import Tensor

from ..access import AttentionCall, Readout
from ..capture import Need, Run
from ..errors import OptionError, brief
from ..targets import Target
from .base import ViTAttribution
from .calls import Images, checked_inputs
from .starting import start

Kind = Literal["class", "peak"]


class RawAttention(ViTAttribution):
    """The attention weights of each layer, the mean over heads.

    >>> RawAttention(model, layer=-1).attribute(images).shape
    torch.Size([2, 1, 14, 14])

    `kind="class"`: mean_h A_h[readout, patches], what the tokens behind the score look at. `kind="peak"`:
    mean_h max_i A_h[i, j] over patch queries i, how strongly any patch looks at patch j. `attribute` gives the last
    chosen layer; a flow holds every layer by itself.

    Source: Vaswani et al. 2017, equation 1; the class token's attention after Caron et al. 2021 (arXiv:2104.14294).

    Options of `attribute`:
        kind: "class" (default) or "peak".
    """

    name, title = "raw_attention", "raw attention"
    class_specific, signed, unit = False, False, "attention"
    accumulates = False
    paper = "arXiv:2104.14294"

    @log_usage()
    def attribute_heads(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        kind: Kind = "class",
    ) -> Tensor:
        """Every head by itself: (N, layers, heads, rows, cols); their mean over heads is the flow."""
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        with start([(self, {"kind": kind})], call) as run:
            return run.layout.to_grid(torch.stack(self._per_head(run, kind, flow=True), 1))

    @log_usage()
    def attention(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The attention itself, by layer and on the grid of the maps.

        Returns:
            What the readout looks at, (N, heads, rows, cols), and what each patch looks at, (N, rows*cols, rows*cols),
            the mean over heads; the latter of the layers in which patches look at patches of that grid.
        """
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        with Run(self.adapter, call, RECORDED, layers=self.layers_read) as run:
            return recorded(run, self.layers_read(run.readout))

    def needed(self, **options: Any) -> frozenset[Need]:
        """The attention as the kind reduces it."""
        kind = options.get("kind", "class")
        if not isinstance(kind, str) or kind not in KINDS:
            raise OptionError(f"kind must be one of {', '.join(KINDS)}, got {brief(kind)}")
        return frozenset({KINDS[kind]})

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """The last layer alone, for a map."""
        names = self.layers_read(readout)
        return names if flow else names[-1:]

    def _maps(self, run: Run, target: Target, *, flow: bool, kind: Kind = "class") -> Tensor:
        return torch.stack([heads.mean(1) for heads in self._per_head(run, kind, flow=flow)], 1)

    def _per_head(self, run: Run, kind: Kind, *, flow: bool) -> list[Tensor]:
        """Of each layer (B, H, patches)."""
        reduced = run.reduced(KINDS[kind])
        return [reduced[name] for name in self.layers_kept(run.readout, flow)]


def recorded(run: Run, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `RawAttention.attention` gives, of a run that `RECORDED` was asked of."""
    heads, patches = run.reduced(class_attention), run.reduced(between_patches)
    return (
        {name: run.layout.to_grid(heads[name]) for name in names},
        {name: found for name in names if (found := patches[name]) is not None},
    )


def class_attention(call: AttentionCall) -> Tensor:
    """Attention of the readout tokens to the patches, (B, H, patches)."""
    call.layout.check_weighed()
    share = call.layout.share
    parts = [(share[rows].to(a).unsqueeze(1) * a).sum(2) for rows, a in _weights(call, call.layout.read_rows)]
    if not parts:
        return call.out.new_zeros(call.batch, call.heads, 0)  # a layer in which the score is not read
    return call.layout.to_map(torch.stack(parts).sum(0))


def peak_attention(call: AttentionCall) -> Tensor:
    """Strongest attention of any patch to each patch (of any query, where none is a patch), (B, H, patches)."""
    queries = call.queries
    rows = range(call.layout.prefix if queries == call.layout.keys else 0, queries)
    return call.layout.to_map(torch.stack([a.amax(2) for _, a in _weights(call, rows)]).amax(0))


def between_patches(call: AttentionCall) -> Tensor | None:
    """Attention from patches to patches, the mean over heads, (B, P, P); None where the queries are other tokens."""
    layout = call.layout
    if call.queries != layout.keys or layout.cross or layout.grid != layout.map_grid:
        return None
    rows = range(layout.prefix, layout.keys)
    return torch.cat([a[..., layout.prefix :].mean(1) for _, a in _weights(call, rows)], 1)


def _weights(call: AttentionCall, rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    return ((part, call.weights(part)) for part in call.parts(rows))


KINDS = {"class": class_attention, "peak": peak_attention}
RECORDED: frozenset[Need] = frozenset({class_attention, between_patches})
