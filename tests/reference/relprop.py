"""Relevance after Chefer et al. 2021 (CVPR), written out in float64: a walk back through a ViT, rule by rule.

Nothing of the library: a forward that keeps what each step was given, and for each step a function that shares the
relevance of what came out among what went in. One image at a time.
"""

import math

import torch
from torch import Tensor, nn

from tests.reference.explicit import norm

TINY = 1e-9


def div(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, torch.zeros_like(b), a / (b + torch.where(b == -TINY, 2 * TINY, TINY)))


def linear(x: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """The z+ rule: products of one sign count, biases do not."""
    xp, xn, wp, wn = x.clamp(min=0), x.clamp(max=0), w.clamp(min=0), w.clamp(max=0)
    s = div(r, xp @ wp.T + xn @ wn.T)
    return xp * (s @ wp) + xn * (s @ wn)


def add(a: Tensor, b: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of two summands, the one with the larger sum over the whole image the larger."""
    s = div(r, a + b)
    ra, rb = a * s, b * s
    size_a, size_b, whole = ra.sum().abs(), rb.sum().abs(), r.sum()
    return (
        ra * div(div(size_a, size_a + size_b) * whole, ra.sum()),
        rb * div(div(size_b, size_a + size_b) * whole, rb.sum()),
    )


def fork(x: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
    """A tensor that is used twice."""
    return x * (div(r1, x) + div(r2, x))


def attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Relevance of the attention A, and of queries, keys and values: each product halves it."""
    s = div(r, a @ v)
    ra, rv = a * (s @ v.mT) / 2, v * (a.mT @ s) / 2
    s = div(ra, q @ k.mT)
    return ra, q * (s @ k) / 2, k * (s.mT @ q) / 2, rv


def transformer_attribution(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """The map of one image (C, H, W), (patches,), of timm's ViT with a class token."""
    w = {name: weight.detach().double() for name, weight in model.state_dict().items()}
    heads, depth = model.blocks[0].attn.num_heads, len(model.blocks)
    kernel = w["patch_embed.proj.weight"]
    size = kernel.shape[-1]
    pixels = image.double().unfold(1, size, size).unfold(2, size, size)
    x = torch.einsum("crsij,dcij->rsd", pixels, kernel).flatten(0, 1) + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"][0], x]) + w["pos_embed"][0]
    x.requires_grad_()
    kept = []
    for i in range(depth):
        b = {name.removeprefix(f"blocks.{i}."): weight for name, weight in w.items() if name.startswith(f"blocks.{i}.")}
        inner = norm(x, b["norm1.weight"], b["norm1.bias"])
        qkv = inner @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
        a = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        o = (a @ v).transpose(0, 1).flatten(1)
        after = o @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        middle = x + after
        second = norm(middle, b["norm2.weight"], b["norm2.bias"])
        hidden = second @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden_out = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        mlp = hidden_out @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
        kept.append((b, x, inner, q, k, v, a, o, after, middle, second, hidden_out, mlp))
        x = middle + mlp
    final = norm(x, w["norm.weight"], w["norm.bias"])
    y = (final[0] @ w["head.weight"].T + w["head.bias"])[target]
    grads = torch.autograd.grad(y, [step[6] for step in kept])
    with torch.no_grad():
        one_hot = torch.zeros(len(w["head.bias"]), dtype=torch.float64)
        one_hot[target] = 1
        r = torch.zeros_like(final)
        r[0] = linear(final[0], w["head.weight"], one_hot)
        r[0] = final[0] * div(r[0], final[0])
        relevances = []
        for b, x, inner, q, k, v, a, o, after, middle, second, hidden, mlp in reversed(kept):
            skip, r = add(middle, mlp, r)
            r = linear(second, b["mlp.fc1.weight"], linear(hidden, b["mlp.fc2.weight"], r))
            r = fork(middle, skip, r)
            skip, r = add(x, after, r)
            r = linear(o, b["attn.proj.weight"], r).unflatten(1, (heads, -1)).transpose(0, 1)
            ra, *rest = attention(q, k, v, a, r)
            r = linear(inner, b["attn.qkv.weight"], torch.stack(rest).permute(2, 0, 1, 3).flatten(1))
            r = fork(x, skip, r)
            relevances.append(ra)
        row = torch.eye(len(final), dtype=torch.float64)[0]
        for ra, grad in zip(relevances, reversed(grads), strict=True):
            row = row + row @ (grad * ra).clamp(min=0).mean(0)
    return row[1:]
