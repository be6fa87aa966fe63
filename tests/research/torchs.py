"""ViTs around torch's own attention and encoders, as tutorials write them, and a timm subclass of a user's."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.helpers import timm_vit
from tests.research.layout import (
    CLASSES,
    DEPTH,
    HEADS,
    WIDTH,
    Layout,
    Mlp,
    Parts,
    PatchEmbed,
    fused_parts,
    merge,
    randomise,
    split,
)


class EncoderLayer(nn.Module):
    """A block around nn.MultiheadAttention."""

    def __init__(self, *, batch_first: bool, need_weights: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=self.need_weights)
        x = x + y
        return x + self.mlp(self.ln_2(x))


class Tutorial(nn.Module):
    """Patches first or images first, around a list of blocks or torch's encoder."""

    def __init__(self, encoder: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.conv_proj = PatchEmbed()
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.encoder, self.ln, self.head = encoder, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.class_token.expand(len(x), -1, -1), self.conv_proj(x)], dim=1) + self.pos_embedding
        if self.batch_first:
            return self.head(self.ln(self.encoder(x)[:, 0]))
        return self.head(self.ln(self.encoder(x.transpose(0, 1))[0]))


def blocks(*, batch_first: bool, need_weights: bool = False) -> nn.Module:
    """Blocks of one's own around torch's attention."""
    return nn.Sequential(*(EncoderLayer(batch_first=batch_first, need_weights=need_weights) for _ in range(DEPTH)))


def encoder(*, batch_first: bool, norm_first: bool) -> nn.Module:
    """Torch's encoder, which in eval mode without gradients may run as one kernel."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 2 * WIDTH, 0.1, "gelu", batch_first=batch_first, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)


def torch_parts(module: nn.MultiheadAttention, *tokens: Tensor, **_: Any) -> Parts:
    """Of query, key and value, all the same; weights are returned as none, which nobody looks at."""
    tokens = tokens if module.batch_first else tuple(t.transpose(0, 1) for t in tokens)
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (split(F.linear(*part)) for part in zip(tokens, weights, biases, strict=True))

    def finish(out: Tensor) -> tuple[Tensor, None]:
        out = module.out_proj(merge(out))
        return out if module.batch_first else out.transpose(0, 1), None

    return Parts(q, k, v, q.shape[-1] ** -0.5, finish)


class TwoTokens(VisionTransformer):
    """DeiT's distilled ViT as a user derives it: a forward of its own, and the mean of two heads in eval mode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dist_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 2, self.embed_dim))
        self.head_dist = nn.Linear(self.embed_dim, self.num_classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed(x)
        tokens = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.dist_token)]
        x = self.pos_drop(torch.cat((*tokens, x), dim=1) + self.pos_embed)
        for blk in self.blocks:
            x = blk(x)
        x = self.norm(x)
        return x[:, 0], x[:, 1]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, x_dist = self.forward_features(x)
        x, x_dist = self.head(x), self.head_dist(x_dist)
        return (x, x_dist) if self.training else (x + x_dist) / 2


class OwnForward(VisionTransformer):
    """A timm ViT whose user reads the mean of all tokens, whatever the settings say."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).mean(1))


def tutorial(name: str, make: Any, *, batch_first: bool, **settings: Any) -> Layout:
    """One of the ways of torch."""
    inner = partial(make, batch_first=batch_first, **settings)
    return Layout(
        name, lambda: randomise(Tutorial(inner(), batch_first=batch_first)), {nn.MultiheadAttention: torch_parts}
    )


TIMM = {TimmAttention: fused_parts}
LAYOUTS = [
    tutorial("MultiheadAttention", blocks, batch_first=True),
    tutorial("MultiheadAttention, weights", blocks, batch_first=True, need_weights=True),
    tutorial("MultiheadAttention, tokens first", blocks, batch_first=False),
    tutorial("TransformerEncoder", encoder, batch_first=True, norm_first=True),
    tutorial("TransformerEncoder, norms last", encoder, batch_first=True, norm_first=False),
    tutorial("TransformerEncoder, tokens first", encoder, batch_first=False, norm_first=True),
    Layout("timm, distilled by hand", lambda: timm_vit(kind=TwoTokens), TIMM, extra=2, read=(0, 1)),
    Layout("timm, own forward", lambda: timm_vit(kind=OwnForward), TIMM, reads_patches=True, even=True),
]
