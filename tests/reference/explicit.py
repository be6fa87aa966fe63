"""The methods written from the papers' equations, in float64 with explicit N x N attention and nothing of the library.

Every function takes an `Attention` a block and gives one image batch's map (B, patches). `explicit_vit` is the forward
of a ViT from its weights under timm's names.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EPS = 1e-6  # of the layer norms


@dataclass
class Attention:
    """One block's attention: scores S, weights A (B, H, N, N), values V and output O (B, H, N, d), of tokens n, which
    the norm before it gave (B, N, D)."""

    s: Tensor
    a: Tensor
    v: Tensor
    o: Tensor
    n: Tensor


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weight + bias


def explicit_vit(
    model: nn.Module, images: Tensor, *, detach: bool = False, read: Callable[[Tensor, dict], Tensor] | None = None
) -> tuple[Tensor, list[Attention]]:
    """Scores (B, C) and every block's attention; with `detach` each attention's input is a constant."""
    w = {name: weight.detach().double() for name, weight in model.state_dict().items()}
    kernel = w["patch_embed.proj.weight"]
    size = kernel.shape[-1]
    pixels = images.double().unfold(2, size, size).unfold(3, size, size)  # (B, C, rows, cols, size, size)
    x = torch.einsum("bcrsij,dcij->brsd", pixels, kernel).flatten(1, 2) + w["patch_embed.proj.bias"]
    prefix = [w[name].expand(len(x), -1, -1) for name in ("cls_token", "dist_token", "reg_token") if name in w]
    x = (torch.cat([*prefix, x], 1) + w["pos_embed"]).requires_grad_()  # so that all that follows has a graph
    blocks = []
    for i in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
        b = {name.removeprefix(f"blocks.{i}."): weight for name, weight in w.items() if name.startswith(f"blocks.{i}.")}
        inner = norm(x, b["norm1.weight"], b["norm1.bias"])
        inner = inner.detach() if detach else inner
        qkv = inner @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
        q, k, v = qkv.unflatten(-1, (3, model.blocks[0].attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        e = (s - s.amax(-1, keepdim=True)).exp()
        a = (e / e.sum(-1, keepdim=True)).requires_grad_()
        o = a @ v
        blocks.append(Attention(s, a, v, o, inner))
        x = x + o.transpose(1, 2).flatten(2) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        hidden = norm(x, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    return (read or class_head)(x, w), blocks


def class_head(x: Tensor, w: dict) -> Tensor:
    return norm(x[:, 0], w["norm.weight"], w["norm.bias"]) @ w["head.weight"].T + w["head.bias"]


def distilled_head(x: Tensor, w: dict) -> Tensor:
    x = norm(x, w["norm.weight"], w["norm.bias"])
    scores = x[:, 0] @ w["head.weight"].T + w["head.bias"] + x[:, 1] @ w["head_dist.weight"].T + w["head_dist.bias"]
    return scores / 2


def mean_head(x: Tensor, w: dict) -> Tensor:
    pooled = x[:, 1:].mean(1)
    return norm(pooled, w["fc_norm.weight"], w["fc_norm.bias"]) @ w["head.weight"].T + w["head.bias"]


def feature(x: Tensor, w: dict) -> Tensor:
    return norm(x[:, 0], w["norm.weight"], w["norm.bias"])


def gradients(score: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [g.detach() for g in torch.autograd.grad(score.sum(), leaves, retain_graph=True)]


def agcam(blocks: list[Attention], grads: list[Tensor], rows: list[int]) -> Tensor:
    """sum_l sum_h relu(dy/dA) * sigmoid(S), over the rows read."""
    total = torch.zeros(())
    for block, grad in zip(blocks, grads, strict=True):
        for i in rows:
            total = total + (grad[:, :, i].clamp(min=0) / (1 + (-block.s[:, :, i]).exp())).sum(1)
    return total


def daam(blocks: list[Attention], grads: list[Tensor], rows: list[int], *, rectify: bool = True) -> Tensor:
    """sum_l relu(sum_k relu(dy/dO[i, k]) A[i, j] v[j, k]), all heads' channels k, over the rows i read."""
    total = torch.zeros(())
    for block, grad in zip(blocks, grads, strict=True):
        weight = grad.clamp(min=0) if rectify else grad
        weighted = sum(
            (weight[:, :, i, None, :] * block.a[:, :, i, :, None] * block.v).sum(-1).sum(1) for i in rows
        )  # (B, N)
        total = total + weighted.clamp(min=0)
    return total


def discard(fused: Tensor, ratio: float, *, keep_first: bool) -> Tensor:
    """The lowest share of each image's entries set to zero, by sorting."""
    out = []
    for matrix in fused:
        flat = matrix.flatten().clone()
        lowest = flat.argsort()[: int(flat.numel() * ratio)]
        first = flat[0].clone()
        flat[lowest] = 0
        if keep_first:
            flat[0] = first
        out.append(flat.view_as(matrix))
    return torch.stack(out)


def rollout(fused: list[Tensor], start: Tensor) -> Tensor:
    """start . rownorm((F_L + I)/2) ... rownorm((F_1 + I)/2), as a product of matrices."""
    joint = torch.eye(fused[0].shape[-1], dtype=torch.float64)
    for matrix in fused:
        step = (matrix + torch.eye(matrix.shape[-1], dtype=torch.float64)) / 2
        joint = step / step.sum(-1, keepdim=True) @ joint
    return start @ joint


def relevance(fused: list[Tensor], start: Tensor) -> Tensor:
    """start . R with R <- R + F_l R, from the first layer to the last."""
    joint = torch.eye(fused[0].shape[-1], dtype=torch.float64)
    for matrix in fused:
        joint = joint + matrix @ joint
    return start @ joint


def signed_daam(blocks: list[Attention], grads: list[Tensor], rows: list[int]) -> Tensor:
    """sum_l sum_i sum_h dy/dA[i, j] A[i, j], with both signs; `grads` are those of A."""
    return torch.stack([(g * b.a)[:, :, rows].sum((1, 2)) for b, g in zip(blocks, grads, strict=True)]).sum(0)


FUSE = {"mean": lambda a: a.mean(1), "max": lambda a: a.max(1).values, "min": lambda a: a.min(1).values}


def importance(features: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float) -> Tensor:
    """The weights of a feature's dimensions from the votes of its nearest neighbours, image by image."""
    out = []
    for f in features:
        f_hat = f / f.norm()
        similarity = bank @ f_hat / bank.norm(dim=1)
        nearest = similarity.argsort(descending=True)[:k].tolist()
        votes: dict[int, float] = {}
        for i in nearest:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0) + math.exp(similarity[i] / temperature)
        winner = max(votes, key=lambda label: votes[label])
        agreeing = [bank[i] / bank[i].norm() * f_hat for i in nearest if int(labels[i]) == winner]
        mean = sum(agreeing) / len(agreeing)
        mean = mean / mean.sum().abs()
        out.append((mean - mean.min()) / (mean.max() - mean.min()))
    return torch.stack(out)
