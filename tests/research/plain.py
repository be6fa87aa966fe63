"""A plain ViT around attention of any kind, and ways of writing it that no published layout has to itself."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.layout import CLASSES, DEPTH, HEADS, WIDTH, Layout, Mlp, Parts, PatchEmbed, merge, randomise, split


class Block(nn.Module):
    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(WIDTH), attn, nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Plain(nn.Module):
    """Class token, blocks with skip connections, norm, head on the class token."""

    def __init__(self, attention: Callable[[], nn.Module], block: Callable[[nn.Module], nn.Module] = Block) -> None:
        super().__init__()
        self.embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.blocks = nn.ModuleList([block(attention()) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Projected(nn.Module):
    """Four projections; a subclass says what happens between them."""

    def __init__(self, kv_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = HEADS, kv_heads, WIDTH // HEADS
        self.q_proj, self.out_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = (nn.Linear(WIDTH, kv_heads * self.head_dim) for _ in range(2))

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, H * d) out of (B, N, H, d)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(self.between(*(t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))))


class Batched(Projected):
    """Heads and images in one dimension, scores by bmm or baddbmm, softmax in single precision."""

    def __init__(self, *, added: bool) -> None:
        super().__init__()
        self.added = added

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, n, h, d = q.shape
        q, k, v = (t.transpose(1, 2).contiguous().view(b * h, n, d) for t in (q, k, v))
        if self.added:
            empty = torch.empty(b * h, n, n, dtype=q.dtype, device=q.device)
            scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=d**-0.5)
        else:
            scores = torch.bmm(q * d**-0.5, k.transpose(1, 2))
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        weights = F.dropout(weights, p=0.1, training=self.training)
        return torch.bmm(weights, v).view(b, h, n, d).transpose(1, 2).reshape(b, n, h * d)


class Reshaped(Projected):
    """The weights go through views, casts and identities on their way to the values, and a kept copy besides."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, n, h, d = q.shape
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d)
        weights = torch.softmax(scores, -1).type_as(q)
        self.kept = weights.detach().clone()
        weights = weights.contiguous().view(b * h, n, n).reshape(b, h, n, n).clone().to(v.dtype)
        return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


class Transposed(Projected):
    """Keys in rows: the softmax is over the second to last dimension."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (k @ q.mT * q.shape[-1] ** -0.5).softmax(dim=-2)  # (B, H, keys, queries)
        return (v.mT @ weights).mT.transpose(1, 2).flatten(2)


class KeysFirst(Projected):
    """The product is turned: (B, H, keys, queries) weights are turned back before the values."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = torch.matmul(k, q.transpose(2, 3)).transpose(2, 3) * q.shape[-1] ** -0.5
        return torch.matmul(F.softmax(scores, dim=3), v).transpose(1, 2).flatten(2)


class Cosine(Projected):
    """Unit queries and keys, a temperature for each head, no other scale."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * (3 + self.temperature)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class FewKeys(Projected):
    """Keys and values of one head for all."""

    def __init__(self) -> None:
        super().__init__(kv_heads=1)

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class OneHead(Projected):
    """No dimension of heads at all."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.flatten(2) for t in (q, k, v))
        return F.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, dim=-1) @ v


class Kernel(Projected):
    """Torch's kernel with a mask and a scale of its own, by name."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mask = alibi(q)
        return (
            F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask, scale=0.5)
            .transpose(1, 2)
            .flatten(2)
        )


def alibi(q: Tensor) -> Tensor:
    """A penalty on distance, of another slope in each head, (H, N, N)."""
    place = torch.arange(q.shape[2], dtype=q.dtype)
    return -(place[:, None] - place).abs() * torch.tensor([0.05, 0.1, 0.2], dtype=q.dtype)[:, None, None]


class PerHead(nn.Module):
    """A module for each head, their outputs side by side, as tutorials begin."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([OneOfHeads() for _ in range(HEADS)])
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(torch.cat([head(x) for head in self.heads], dim=-1))


class OneOfHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH // HEADS, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


class ParallelBlock(nn.Module):
    """Attention and MLP side by side behind one norm."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), attn, Mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attn(y) + self.mlp(y)


def projected_parts(module: Projected, x: Tensor, scale: float | None = None, **more: Any) -> Parts:
    q = split(module.q_proj(x))
    k, v = (split(layer(x), module.kv_heads) for layer in (module.k_proj, module.v_proj))
    return Parts(q, k, v, scale or module.head_dim**-0.5, lambda out: module.out_proj(merge(out)), **more)


def cosine_parts(module: Cosine, x: Tensor) -> Parts:
    parts = projected_parts(module, x)
    q, k = (t / t.norm(dim=-1, keepdim=True) for t in (parts.q, parts.k))
    return Parts(q * (3 + module.temperature), k, parts.v, 1.0, parts.finish)


def one_head_parts(module: OneHead, x: Tensor) -> Parts:
    q, k, v = (layer(x)[:, None] for layer in (module.q_proj, module.k_proj, module.v_proj))
    return Parts(q, k, v, WIDTH**-0.5, lambda out: module.out_proj(out[:, 0]))


def kernel_parts(module: Kernel, x: Tensor) -> Parts:
    return projected_parts(module, x, 0.5, bias=alibi(split(x)))


def per_head_parts(module: PerHead, x: Tensor) -> Parts:
    q, k, v = (
        torch.stack([x @ getattr(head, name).weight.T for head in module.heads], 1)
        for name in ("query", "key", "value")
    )
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: module.out_proj(merge(out)))


def plain(
    name: str, attention: Callable[[], nn.Module], parts: Callable[..., Parts] = projected_parts, **more: Any
) -> Layout:
    """A layout around one kind of attention."""
    kind = type(attention())
    return Layout(name, lambda: randomise(Plain(attention)), {kind: parts}, **more)


LAYOUTS = [
    plain("bmm", lambda: Batched(added=False), tolerance=1e-5),
    plain("baddbmm", lambda: Batched(added=True), tolerance=1e-5),
    plain("views and casts", Reshaped),
    plain("keys in rows", Transposed, uncertain=True),
    plain("turned scores", KeysFirst),
    plain("cosine", Cosine, cosine_parts),
    plain("one head of keys", FewKeys),
    plain("one head", OneHead, one_head_parts),
    plain("a module a head", PerHead, per_head_parts, uncertain=True),
    plain("kernel, mask and scale", Kernel, kernel_parts),
    Layout("parallel", lambda: randomise(Plain(KeysFirst, ParallelBlock)), {KeysFirst: projected_parts}),
]
