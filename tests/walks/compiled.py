"""A Vision Transformer whose attention is an operator of its own, as a compiled extension is: no softmax can be seen.

Its class token comes last, and its patches stand column by column.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, PATCH, CLASSES = 24, 3, 8, 5


@torch.library.custom_op("captum_vit_walk::attend", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of (B, H, N, d), behind the dispatcher."""
    return (q * scale @ k.mT).softmax(-1) @ v


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty_like(q)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    q, k, v = ctx.saved_tensors
    a = (q * ctx.scale @ k.mT).softmax(-1)
    da = gradient @ v.mT
    ds = a * (da - (da * a).sum(-1, keepdim=True)) * ctx.scale
    return ds @ k, ds.mT @ q, a.mT @ gradient, None


attend.register_autograd(_backward, setup_context=_keep)


class Attention(nn.Module):
    """Queries from one layer, keys and values from another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.q(x), *self.kv(x).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        return self.out(torch.ops.captum_vit_walk.attend(q, k, v, 0.4).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and an MLP, each beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CompiledViT(nn.Module):
    """Images (N, 3, 16, 32) through three layers; what is interpolated for other sizes is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.patchify = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls_token, self.pos = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 9, WIDTH))
        self.layers = nn.ModuleList([Layer() for _ in range(3)])
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patchify(images).mT.flatten(2).mT  # column by column
        x = torch.cat([patches, self.cls_token.expand(len(images), -1, -1)], 1) + self.pos
        for layer in self.layers:
            x = layer(x)
        return self.classify(F.layer_norm(x[:, -1], (WIDTH,)))
