"""The small ViTs that owners hold: of timm, of Hugging Face, and of nobody's library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from transformers import ViTForImageClassification, ViTModel
from transformers.models.vit.modeling_vit import ViTAttention

from tests.helpers import hf_vit, randomise, timm_vit
from tests.owners.heads import Streams, every, first, mean_at
from tests.owners.truth import hf_parts, own_parts, timm_parts
from tests.research.plain import KeysFirst, Plain


@dataclass(frozen=True)
class Vit:
    """A kind of ViT with 4 x 4 patches.

    build: the module in eval mode.
    streams: of the module and images, the normalised tokens after each block, or after the last alone.
    deep: the same after every block.
    blocks: the modules whose outputs the token streams are.
    attention, parts: the class of its attention, and what that computes.
    native: what it gives by itself, as what its head reads; None where its output is tokens.
    """

    name: str
    build: Callable[[], nn.Module]
    prefix: int
    attention: type[nn.Module]
    parts: Callable[..., tuple]
    blocks: Callable[[Any], nn.ModuleList]
    streams: Callable[[Any, Tensor], Streams] | None = None
    deep: Callable[[Any, Tensor], Streams] | None = None
    native: Callable[[int, int], Tensor] | None = None


class Tokens(Plain):
    """A ViT of somebody's own that gives the tokens after each block."""

    def forward(self, x: Tensor) -> Streams:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.pos_embed
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(self.norm(x))
        return found


def _last(vit: Any, x: Tensor) -> Streams:
    return [vit.forward_features(x)]


def _intermediate(vit: Any, x: Tensor) -> Streams:
    whole = bool(vit.num_prefix_tokens)
    parts = vit.get_intermediate_layers(x, n=range(len(vit.blocks)), return_prefix_tokens=whole, norm=True)
    return [torch.cat([part[1], part[0]], 1) if whole else part for part in parts]


def _hf_last(vit: Any, x: Tensor) -> Streams:
    return [vit(x).last_hidden_state]


def _hf_deep(vit: Any, x: Tensor) -> Streams:
    return [vit.layernorm(state) for state in vit(x, output_hidden_states=True).hidden_states[1:]]


def _timm(name: str, prefix: int, native: Callable | None = None, **changes: Any) -> Vit:
    return Vit(
        name,
        lambda: timm_vit(**changes),
        prefix,
        Attention,
        timm_parts,
        lambda vit: vit.blocks,
        _last,
        _intermediate,
        native,
    )


VITS = [
    _timm("timm, class token", 1, first(0, 0, 1)),
    _timm("timm, registers", 5, first(0, 0, 1), reg_tokens=4, qk_norm=True),
    _timm("timm, mean", 1, mean_at(0, 0, 1), global_pool="avg"),
    _timm("timm, mean of all", 1, every, global_pool="avg", pool_include_prefix=True),
    _timm("timm, mean of patches alone", 0, mean_at(0, 0, 1), global_pool="avg", class_token=False),
    Vit("HF", lambda: hf_vit(ViTModel), 1, ViTAttention, hf_parts, lambda vit: vit.layers, _hf_last, _hf_deep),
    Vit(
        "HF with its head",
        lambda: hf_vit(ViTForImageClassification),
        1,
        ViTAttention,
        hf_parts,
        lambda vit: vit.vit.layers,
        native=first(0, 0, 1),
    ),
    Vit(
        "nobody's",
        lambda: randomise(Tokens(KeysFirst)),
        1,
        KeysFirst,
        own_parts,
        lambda vit: vit.blocks,
        lambda vit, x: vit(x),
        lambda vit, x: vit(x),
    ),
    Vit(
        "nobody's with its head",
        lambda: randomise(Plain(KeysFirst)),
        1,
        KeysFirst,
        own_parts,
        lambda vit: vit.blocks,
        native=first(0, 0, 1),
    ),
]
