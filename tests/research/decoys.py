"""ViTs with a softmax beside their attention, which has no part in it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.layout import CLASSES, DEPTH, WIDTH, Layout, Mlp, Parts, PatchEmbed, randomise
from tests.research.plain import KeysFirst, Plain, Projected, projected_parts


class Experts(nn.Module):
    """A mixture: a softmax of each token over the experts weighs what they give."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(WIDTH, experts), nn.ModuleList([Mlp() for _ in range(experts)])

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(dim=-1)
        return torch.einsum("bne,bned->bnd", gates, torch.stack([expert(x) for expert in self.experts], dim=2))


def with_mlp(mlp: Callable[[], nn.Module]) -> nn.Module:
    """A plain ViT with something else for its MLPs."""
    model = Plain(KeysFirst)
    for block in model.blocks:
        block.mlp = mlp()
    return randomise(model)


class Watched(Projected):
    """For somebody's figure the weights are computed beside the kernel, with a product that goes nowhere."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        with torch.no_grad():
            self.weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ThrownAway(Watched):
    """As much, with gradients, and multiplied."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(-1)
        self.looked_at = (weights @ v.transpose(1, 2)).detach()
        return super().between(q, k, v)


class ClassesOfClasses(Plain):
    """The score is the mean of class embeddings by their probabilities: a softmax and a product at the end."""

    def __init__(self) -> None:
        super().__init__(KeysFirst)
        self.classes = nn.Parameter(torch.zeros(CLASSES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=-1) @ self.classes


class SumOfLayers(Plain):
    """The class token of every block, weighed by a softmax over the blocks."""

    def __init__(self) -> None:
        super().__init__(KeysFirst)
        self.mix = nn.Parameter(torch.zeros(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.pos_embed
        streams = [x := block(x) for block in self.blocks]
        x = torch.matmul(self.mix.softmax(0), torch.stack(streams).flatten(1)).view_as(x)
        return self.head(self.norm(x)[:, 0])


class Recalibrated(PatchEmbed):
    """A stem whose channels are weighed by a softmax over two branches of it."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        branches = torch.stack([x, self.branch(x)], dim=1)  # (B, 2, D, rows, cols)
        weights = branches.mean((3, 4)).softmax(dim=1)
        return torch.einsum("bkd,bkdrc->bdrc", weights, branches).flatten(2).transpose(1, 2)


class ContextStem(PatchEmbed):
    """A stem that adds one context vector: a softmax over all places, multiplied with their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        weights = self.mask(x).flatten(2).softmax(dim=-1)  # (B, 1, patches)
        context = torch.matmul(weights, x.flatten(2).mT)
        return x.flatten(2).transpose(1, 2) + 0.1 * context


def with_stem(stem: Callable[[], nn.Module]) -> nn.Module:
    """A plain ViT behind another stem."""
    model = Plain(KeysFirst)
    model.embed = stem()
    return randomise(model)


OWN: dict[type[nn.Module], Callable[..., Parts]] = {KeysFirst: projected_parts}
LAYOUTS = [
    Layout("experts", lambda: with_mlp(Experts), OWN),
    Layout("weights beside the kernel", lambda: randomise(Plain(Watched)), {Watched: projected_parts}),
    Layout("product thrown away", lambda: randomise(Plain(ThrownAway)), {ThrownAway: projected_parts}),
    Layout("probabilities times embeddings", lambda: randomise(ClassesOfClasses()), OWN),
    Layout("softmax over blocks", lambda: randomise(SumOfLayers()), OWN, depths=lambda model: model.mix.softmax(0)),
    Layout("softmax over branches of the stem", lambda: with_stem(Recalibrated), OWN, uncertain=True),
    Layout("softmax over places in the stem", lambda: with_stem(ContextStem), OWN, uncertain=True),
]
