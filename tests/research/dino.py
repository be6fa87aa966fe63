"""After DINO's own repository, DeiT's, DINOv2's and DINOv3's."""

from typing import Any

import torch
import torch.nn.functional as F
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
    fused_parts,
    merge,
    randomise,
    split,
)


class Attention(nn.Module):
    """Steps by `@`, and the attention is returned beside the tokens."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=True)
        self.attn_drop = nn.Dropout(0.1)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1)
        attn = self.attn_drop(attn)
        x = (attn @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj_drop(self.proj(x)), attn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, eps=1e-6), Attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, eps=1e-6), Mlp()

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor:
        y, attn = self.attn(self.norm1(x))
        if return_attention:
            return attn
        x = x + y
        return x + self.mlp(self.norm2(x))


class Dino(nn.Module):
    """A class token's feature; with a head, DeiT's scores."""

    def __init__(self, classes: int = 0, patches: int = 16) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, WIDTH))
        self.pos_drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, classes) if classes else nn.Identity()

    def prepare_tokens(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), tokens), dim=1)
        return self.pos_drop(tokens + self.pos_embed)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prepare_tokens(x)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.norm(x)[:, 0])


def dino_parts(module: Attention, x: Tensor) -> Parts:
    q, k, v = (split(part) for part in module.qkv(x).chunk(3, -1))
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: (module.proj(merge(out)), None))


def memory_efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of (B, N, H, d), as xformers has it."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


class MemEffAttention(nn.Module):
    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = torch.unbind(self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads), 2)
        return self.proj(memory_efficient(q, k, v).reshape(b, n, c))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ScaledBlock(nn.Module):
    """A block with layer scale; further arguments go to its attention."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(WIDTH), attention(), LayerScale()
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(WIDTH), Mlp(), LayerScale()

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), *args))
        return x + self.ls2(self.mlp(self.norm2(x)))


class BlockChunk(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        for b in self:
            x = b(x)
        return x


class DinoV2(nn.Module):
    """Registers, and blocks `blocks.i.j` in chunks, in which identities stand for the blocks before."""

    def __init__(self, *, chunked: bool = True, registers: int = 4) -> None:
        super().__init__()
        self.num_register_tokens = registers
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, WIDTH))
        blocks = [ScaledBlock(MemEffAttention) for _ in range(4 if chunked else DEPTH)]
        if chunked:
            chunks = [[nn.Identity()] * i + blocks[i : i + 2] for i in range(0, len(blocks), 2)]
            self.blocks = nn.ModuleList([BlockChunk(chunk) for chunk in chunks])
        else:
            self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Identity()

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)), dim=1) + self.pos_embed
        x = torch.cat((x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]), dim=1)
        for blk in self.blocks:
            x = blk(x)
        x = self.norm(x)
        first = 1 + self.num_register_tokens
        return {"x_norm_clstoken": x[:, 0], "x_norm_regtokens": x[:, 1:first], "x_norm_patchtokens": x[:, first:]}

    def forward(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        ret = self.forward_features(*args, **kwargs)
        return ret if is_training else self.head(ret["x_norm_clstoken"])


class LinearProbe(nn.Module):
    """The linear classifier of DINOv2's hub: class token beside the mean of the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.linear_head = DinoV2(), nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone.forward_features(x)
        return self.linear_head(torch.cat([x["x_norm_clstoken"], x["x_norm_patchtokens"].mean(dim=1)], dim=1))


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotary embedding of the patches, the last tokens; those before them stay."""
    prefix = x.shape[-2] - len(sin)
    first, x = x[:, :, :prefix], x[:, :, prefix:]
    a, b = x.chunk(2, dim=-1)
    return torch.cat((first, x * cos + torch.cat([-b, a], dim=-1) * sin), dim=-2)


class SelfAttention(nn.Module):
    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        return self.proj(self.compute_attention(self.qkv(x), rope))

    def compute_attention(self, qkv: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        b, n, _ = qkv.shape
        c = self.qkv.in_features
        q, k, v = torch.unbind(qkv.reshape(b, n, 3, self.num_heads, c // self.num_heads), 2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, *rope), rotate(k, *rope)
        x = F.scaled_dot_product_attention(q, k, v)
        return x.transpose(1, 2).reshape(b, n, c)


class Rope(nn.Module):
    """Angles of the patches from their places in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("periods", torch.tensor([1.0, 3.0]))

    def forward(self, *, rows: int, cols: int) -> tuple[Tensor, Tensor]:
        y, x = (2 * (torch.arange(n, dtype=self.periods.dtype) + 0.5) / n - 1 for n in (rows, cols))
        places = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)  # (patches, 2)
        angles = (torch.pi * places[:, :, None] / self.periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


class DinoV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.storage_tokens = nn.Parameter(torch.zeros(1, 4, WIDTH))
        self.rope_embed = Rope()
        self.blocks = nn.ModuleList([ScaledBlock(SelfAttention) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rope = self.rope_embed(rows=x.shape[2] // PATCH, cols=x.shape[3] // PATCH)
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.storage_tokens)]
        x = torch.cat([*first, self.patch_embed(x)], dim=1)
        for blk in self.blocks:
            x = blk(x, rope)
        return self.norm(x)[:, 0]


def rope_parts(module: SelfAttention, x: Tensor, rope: tuple[Tensor, Tensor]) -> Parts:
    parts = fused_parts(module, x)
    sin, cos = (F.pad(t, (0, 0, 5, 0), value=still) for t, still in zip(rope, (0.0, 1.0), strict=True))
    half = parts.q.shape[-1] // 2

    def turned(t: Tensor) -> Tensor:
        return t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin

    return Parts(turned(parts.q), turned(parts.k), parts.v, parts.scale, parts.finish)


WIDE = {"grid": (4, 6), "size": (32, 48)}
LAYOUTS = [
    Layout("DINO", lambda: randomise(Dino()), {Attention: dino_parts}),
    Layout("DINO, wide", lambda: randomise(Dino(patches=24)), {Attention: dino_parts}, **WIDE),
    Layout("DeiT", lambda: randomise(Dino(CLASSES)), {Attention: dino_parts}),
    Layout("DINOv2", lambda: randomise(DinoV2(chunked=False)), {MemEffAttention: fused_parts}, extra=5),
    Layout("DINOv2, in chunks", lambda: randomise(DinoV2()), {MemEffAttention: fused_parts}, extra=5),
    Layout(
        "DINOv2, linear probe",
        lambda: randomise(LinearProbe()),
        {MemEffAttention: fused_parts},
        extra=5,
        reads_patches=True,
    ),
    Layout("DINOv3", lambda: randomise(DinoV3()), {SelfAttention: rope_parts}, extra=5),
    Layout("DINOv3, wide", lambda: randomise(DinoV3()), {SelfAttention: rope_parts}, extra=5, **WIDE),
]
