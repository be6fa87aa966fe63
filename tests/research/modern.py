"""After lucidrains' ViT and SimpleViT with einops, and AIMv2."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from tests.research.layout import (
    CLASSES,
    DEPTH,
    HEADS,
    PATCH,
    WIDTH,
    Layout,
    Mlp,
    Parts,
    PatchEmbed,
    RMSNorm,
    SwiGLU,
    fused_parts,
    merge,
    randomise,
    split,
)


class RearrangedAttention(nn.Module):
    """The norm stands inside; without bias, and without a projection where one head is as wide as the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = HEADS, 8**-0.5
        self.norm, self.attend, self.dropout = nn.LayerNorm(WIDTH), nn.Softmax(dim=-1), nn.Dropout(0.1)
        self.to_qkv = nn.Linear(WIDTH, 8 * HEADS * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(8 * HEADS, WIDTH), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in qkv)
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        attn = self.dropout(self.attend(dots))
        out = torch.matmul(attn, v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class Transformer(nn.Module):
    """`layers[i][0]` is an attention, `layers[i][1]` an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        feed = [nn.Sequential(nn.LayerNorm(WIDTH), Mlp()) for _ in range(DEPTH)]
        self.layers = nn.ModuleList([nn.ModuleList([RearrangedAttention(), ff]) for ff in feed])

    def forward(self, x: Tensor) -> Tensor:
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.norm(x)


class ToPatches(nn.Module):
    """(b, c, h, w) -> (b, patches, pixels), the channels of a pixel side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=PATCH, p2=PATCH)


class Rearranged(nn.Module):
    """With a class token, or without one and with sine and cosine for positions."""

    def __init__(self, *, simple: bool = False, pool: str = "cls") -> None:
        super().__init__()
        self.simple, self.pool = simple, pool
        pixels = 3 * PATCH**2
        self.to_patch_embedding = nn.Sequential(
            ToPatches(), nn.LayerNorm(pixels), nn.Linear(pixels, WIDTH), nn.LayerNorm(WIDTH)
        )
        if simple:
            self.pos_embedding = sines(4, 4)
        else:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.pos_embedding = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.dropout, self.transformer = nn.Dropout(0.1), Transformer()
        self.to_latent, self.mlp_head = nn.Identity(), nn.Linear(WIDTH, CLASSES)

    def forward(self, img: Tensor) -> Tensor:
        x = self.to_patch_embedding(img)
        if self.simple:
            x = self.transformer(x + self.pos_embedding.to(x.dtype))
            return self.mlp_head(self.to_latent(x.mean(dim=1)))
        cls_tokens = repeat(self.cls_token, "1 1 d -> b 1 d", b=len(x))
        x = torch.cat((cls_tokens, x), dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        x = x.mean(dim=1) if self.pool == "mean" else x[:, 0]
        return self.mlp_head(self.to_latent(x))


def sines(rows: int, cols: int, width: int = WIDTH) -> Tensor:
    """Sine and cosine of the places, (patches, width)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    omega = 1 / 100 ** (torch.arange(width // 4) / (width // 4 - 1))
    angles = [place.flatten()[:, None] * omega for place in (y, x)]
    return torch.cat([turn for angle in angles for turn in (angle.sin(), angle.cos())], dim=1)


def rearranged_parts(module: RearrangedAttention, x: Tensor) -> Parts:
    q, k, v = (split(module.norm(x) @ weight.T) for weight in module.to_qkv.weight.chunk(3))
    return Parts(q, k, v, 8**-0.5, lambda out: module.to_out(merge(out)))


class AimAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj_drop(self.proj(x.transpose(1, 2).contiguous().reshape(b, n, c)))


class AimBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.norm_1, self.mlp, self.norm_2 = AimAttention(), RMSNorm(), SwiGLU(), RMSNorm()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm_1(x), mask)
        return x + self.mlp(self.norm_2(x))


class AimTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([AimBlock() for _ in range(DEPTH)])
        self.post_trunk_norm = RMSNorm()

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.post_trunk_norm(tokens)


class AttentionPool(nn.Module):
    """Queries of their own look at the normalised tokens; their mean is classified."""

    def __init__(self, queries: int = 1) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, 8**-0.5
        self.k, self.v = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(1, queries, WIDTH))
        self.linear, self.bn = nn.Linear(WIDTH, CLASSES), nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        x = self.bn(x.transpose(-2, -1)).transpose(-2, -1)
        cls_token = self.cls_token.expand(b, -1, -1)
        q = cls_token.reshape(b, -1, self.num_heads, c // self.num_heads).permute(0, 2, 1, 3)
        k, v = (
            layer(x).reshape(b, n, self.num_heads, c // self.num_heads).permute(0, 2, 1, 3)
            for layer in (self.k, self.v)
        )
        x_cls = F.scaled_dot_product_attention(q, k, v)
        x_cls = x_cls.transpose(1, 2).reshape(b, -1, c).mean(dim=1)
        return self.linear(x_cls)


class Aim(nn.Module):
    """No class token, RMS norms and gated MLPs; a mean of the patches, or a pool."""

    def __init__(self, *, pool: bool) -> None:
        super().__init__()
        self.patchifier = nn.Sequential(PatchEmbed(), RMSNorm())
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, WIDTH))
        self.trunk = AimTransformer()
        self.head = AttentionPool(2) if pool else nn.Linear(WIDTH, CLASSES)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(self.patchifier(x) + self.pos_embed)
        return self.head(x if self.pool else x.mean(dim=1))


def pool_parts(module: AttentionPool, x: Tensor) -> Parts:
    """The pool is a module that gives scores."""
    x = (x - module.bn.running_mean) / (module.bn.running_var + module.bn.eps).sqrt()
    q = split(module.cls_token.expand(len(x), -1, -1))
    return Parts(
        q, split(module.k(x)), split(module.v(x)), 8**-0.5, lambda out: module.linear(merge(out).mean(1)), skip=False
    )


EINOPS = {RearrangedAttention: rearranged_parts}
AIM = {AimAttention: fused_parts}
PATCHES = {"extra": 0, "read": (), "reads_patches": True}
LAYOUTS = [
    Layout("einops", lambda: randomise(Rearranged()), EINOPS),
    Layout("einops, mean of all", lambda: randomise(Rearranged(pool="mean")), EINOPS, reads_patches=True, even=True),
    Layout("einops, simple", lambda: randomise(Rearranged(simple=True)), EINOPS, **PATCHES),
    Layout("AIMv2", lambda: randomise(Aim(pool=False)), AIM, **PATCHES),
    Layout("AIM, pool", lambda: randomise(Aim(pool=True)), {**AIM, AttentionPool: pool_parts}, **PATCHES),
]
