"""Scores that are more than products of queries and keys, and attention in places where one does not look for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.layout import HEADS, WIDTH, Layout, Mlp, Parts, merge, randomise, split
from tests.research.orders import Ordered, Permuted
from tests.research.plain import Block, Plain, Projected, plain, projected_parts


class Capped(Projected):
    """Scores that a tanh keeps small."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = 2 * torch.tanh(q @ k.mT * self.head_dim**-0.5 / 2)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Relative(Projected):
    """A bias by relative position that depends on the query, as its product with an embedding of the distance."""

    def __init__(self) -> None:
        super().__init__()
        self.distances_pos = nn.Parameter(torch.zeros(33, WIDTH // HEADS))

    def bias(self, q: Tensor) -> Tensor:
        places = torch.arange(q.shape[2])
        return torch.einsum("bhid,ijd->bhij", q, self.distances_pos[places[:, None] - places + 16])

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = q @ k.mT * self.head_dim**-0.5 + self.bias(q)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class ByHand(Projected):
    """Exponentials divided by their sum: a softmax that is not called one."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT * self.head_dim**-0.5).exp()
        return (weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2)


class SumOfProducts(Projected):
    """The product with the values as a sum over the keys of products entry by entry."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT * self.head_dim**-0.5).softmax(-1)
        return (weights[..., None] * v[:, :, None]).sum(3).transpose(1, 2).flatten(2)


class Causal(Projected):
    """No token looks at a later one; by the kernel's own switch."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Grouped(Projected):
    """The kernel with fewer heads of keys than of queries."""

    def __init__(self) -> None:
        super().__init__(kv_heads=1)

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


class Masked(Projected):
    """The first patch is a key for nobody."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.mT * self.head_dim**-0.5).masked_fill(left_out(q), float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def left_out(q: Tensor) -> Tensor:
    """True for the first patch, (N,)."""
    return torch.arange(q.shape[2]) == 1


class InlineBlock(nn.Module):
    """A block that has no module for its attention."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        y = F.softmax(q @ k.transpose(-1, -2) * (d // HEADS) ** -0.5, dim=-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


class TwiceBlock(Block):
    """Two attentions one after the other, each with a skip connection."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__(attn)
        self.norm3, self.attn2 = nn.LayerNorm(WIDTH), type(attn)()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.attn2(self.norm3(x))
        return x + self.mlp(self.norm2(x))


def capped_parts(module: Capped, x: Tensor) -> Parts:
    """The products, and what makes capped scores of them."""
    parts = projected_parts(module, x)
    products = parts.q @ parts.k.mT * parts.scale
    return Parts(parts.q, parts.k, parts.v, parts.scale, parts.finish, 2 * torch.tanh(products / 2) - products)


def relative_parts(module: Relative, x: Tensor) -> Parts:
    parts = projected_parts(module, x)
    table = module.distances_pos.unfold(0, x.shape[1], 1).flip(-1)  # (offsets, d, keys)
    return Parts(
        parts.q,
        parts.k,
        parts.v,
        parts.scale,
        parts.finish,
        torch.einsum("bhid,idj->bhij", parts.q, table[: x.shape[1]]),
    )


def causal_parts(module: Causal, x: Tensor) -> Parts:
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return projected_parts(module, x, bias=torch.zeros(later.shape, dtype=x.dtype).masked_fill(later, float("-inf")))


def masked_parts(module: Masked, x: Tensor) -> Parts:
    bias = torch.zeros(x.shape[1], dtype=x.dtype).masked_fill(left_out(split(x)), float("-inf"))
    return projected_parts(module, x, bias=bias)


def inline_parts(module: InlineBlock, x: Tensor) -> Parts:
    q, k, v = (split(part) for part in module.qkv(module.norm1(x)).chunk(3, -1))

    def finish(out: Tensor) -> Tensor:
        y = x + module.proj(merge(out))
        return y + module.mlp(module.norm2(y))

    return Parts(q, k, v, q.shape[-1] ** -0.5, finish)


def causal() -> nn.Module:
    """Without a class token, which would see nothing."""
    model = Ordered(Permuted(), place="none")
    for block in model.blocks:
        block.attn = Causal()
    return randomise(model)


LAYOUTS = [
    plain("soft cap", Capped, capped_parts),
    plain("bias by query", Relative, relative_parts),
    plain("softmax by hand", ByHand, uncertain=True),
    plain("product by hand", SumOfProducts, uncertain=True),
    plain("kernel, grouped", Grouped),
    plain("a key left out", Masked, masked_parts),
    Layout("kernel, causal", causal, {Causal: causal_parts}, extra=0, read=(), reads_patches=True),
    Layout("no module for attention", lambda: randomise(Plain(nn.Identity, InlineBlock)), {InlineBlock: inline_parts}),
    Layout("two attentions a block", lambda: randomise(Plain(Capped, TwiceBlock)), {Capped: capped_parts}),
]
