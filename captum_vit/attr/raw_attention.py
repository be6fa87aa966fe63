"""Attention as it is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from ..access import AttentionCall, TokenLayout
from ..capture.running import Inputs, record
from ..capture.untouched import untouched
from ..errors import OptionError
from .base import Images, ViTAttribution


class RawAttention(ViTAttribution):
    """The attention weights of each layer, the mean over heads.

    `kind="class"`: mean_h A_h[readout, patches], what the tokens behind the score look at. `kind="peak"`:
    mean_h max_i A_h[i, j] over patch queries i, how strongly any patch looks at patch j. `attribute` gives the last
    chosen layer; a flow holds every layer by itself.

    Source: Vaswani et al. 2017, equation 1; the class token's attention after Caron et al. 2021 (arXiv:2104.14294).

    Options of `attribute`:
        kind: "class" (default) or "peak".
    """

    class_specific = False

    @log_usage()
    def attribute_heads(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        kind: str = "class",
    ) -> Tensor:
        """Every head by itself: (N, layers, heads, rows, cols); their mean over heads is the flow."""
        call = self._inputs(inputs, additional_forward_args, forward_kwargs)
        with untouched(self.adapter), torch.no_grad():
            maps, layout = self._per_head(call, kind)
            return layout.to_grid(torch.stack(maps, 1))

    @log_usage()
    def attention(
        self, inputs: Images, additional_forward_args: Any = None, *, forward_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The attention itself, by layer and on the grid of the maps.

        Returns:
            What the readout looks at, (N, heads, rows, cols), and what each patch looks at, (N, rows*cols, rows*cols),
            the mean over heads; the latter of the layers in which patches look at patches of that grid.
        """
        call = self._inputs(inputs, additional_forward_args, forward_kwargs)
        readout, names = self._read(call)

        def keep(recorded: AttentionCall) -> tuple[Tensor, Tensor | None]:
            if recorded.name not in names:
                return recorded.q.new_empty(0), None
            return recorded.layout.to_map(_class_attention(recorded)), _between_patches(recorded)

        with untouched(self.adapter), torch.no_grad():
            recording = record(self.adapter, call, keep, readout)
        kept = {name: recording.kept[name] for name in names}
        heads = {name: recording.layout.to_grid(maps) for name, (maps, _) in kept.items()}
        return heads, {name: patches for name, (_, patches) in kept.items() if patches is not None}

    def _maps(self, inputs: Inputs, target: Any, *, flow: bool, kind: str = "class") -> tuple[Tensor, TokenLayout]:
        maps, layout = self._per_head(inputs, kind, flow=flow)
        return torch.stack([heads.mean(1) for heads in maps], 1), layout

    def _per_head(self, inputs: Inputs, kind: str, *, flow: bool = True) -> tuple[list[Tensor], TokenLayout]:
        if kind not in KINDS:
            raise OptionError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        reduce = KINDS[kind]
        readout, names = self._read(inputs)
        wanted = names if flow else names[-1:]

        def keep(call: AttentionCall) -> Tensor:
            return call.layout.to_map(reduce(call)) if call.name in wanted else call.q.new_empty(0)

        recording = record(self.adapter, inputs, keep, readout)
        return [recording.kept[name] for name in wanted], recording.layout


def _class_attention(call: AttentionCall) -> Tensor:
    """Attention of the readout tokens, (B, H, N)."""
    share = call.layout.share
    return torch.stack(
        [(share[rows].to(a).unsqueeze(1) * a).sum(2) for rows, a in _weights(call, call.layout.read_rows)]
    ).sum(0)


def _peak_attention(call: AttentionCall) -> Tensor:
    """Strongest attention of any patch to each key (of any query, where none is a patch), (B, H, N)."""
    queries = call.q.shape[2]
    rows = range(call.layout.prefix if queries == call.layout.keys else 0, queries)
    return torch.stack([a.amax(2) for _, a in _weights(call, rows)]).amax(0)


def _between_patches(call: AttentionCall) -> Tensor | None:
    """Attention from patches to patches, the mean over heads, (B, P, P); None where the queries are other tokens."""
    layout = call.layout
    if call.q.shape[2] != layout.keys or layout.grid != layout.map_grid:
        return None
    rows = range(layout.prefix, layout.keys)
    return torch.cat([a[..., layout.prefix :].mean(1) for _, a in _weights(call, rows)], 1)


def _weights(call: AttentionCall, rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    return ((part, call.weights(part)) for part in call.parts(rows))


KINDS = {"class": _class_attention, "peak": _peak_attention}
