"""What the first map of a model costs beside later ones: it is examined before it, and code of nobody's library found.

Called by `cost.py`, which says how time is taken.
"""

import copy
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from captum_vit import AGCAM

SIZE, PATCH = 224, 16


class Attention(nn.Module):
    """Step by step, as research code has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OwnViT(nn.Module):
    """A ViT of nobody's library, of the size of `vit_small_patch16_224`."""

    def __init__(self, width: int = 384, heads: int = 6, depth: int = 12) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, width, PATCH, PATCH), nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 1 + (SIZE // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)
        return self.head(self.norm(self.blocks(x + self.place)[:, 0]))


class Owner(nn.Module):
    """Somebody's module around a model of timm."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x)


def small() -> nn.Module:
    return timm.create_model("vit_small_patch16_224")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a model of timm": small,
    "the same inside a module of yours": lambda: Owner(small()),
    "code of nobody's library": OwnViT,
}


def table(rounds: int, batch: int = 1) -> None:
    """AGCAM of ViT-S/16 as a ratio to a plain forward: making it and its first map, the next, and one made anew."""
    print(f"\n| AGCAM, ViT-S/16, 224, batch {batch} | first map | later ones | later, `AGCAM(model)` made anew |")
    print("| --- | --- | --- | --- |")
    x = torch.randn(batch, 3, SIZE, SIZE)
    for name, build in MODELS.items():
        cells = " | ".join(f"{ratio:.1f}" for ratio in ratios(build().eval(), x, rounds))
        print(f"| {name} | {cells} |", flush=True)


def ratios(model: nn.Module, x: Tensor, rounds: int) -> list[float]:
    """Of calls of copies that nobody has seen, to plain forwards in between."""
    round_of(copy.deepcopy(model), x)  # warm up
    taken = [round_of(copy.deepcopy(model), x) for _ in range(rounds)]
    plain, *calls = (statistics.median(times) for times in zip(*taken, strict=True))
    return [each / plain for each in calls]


def round_of(model: nn.Module, x: Tensor) -> tuple[float, ...]:
    """CPU seconds of a plain forward, the first map, a later one, and one of a method made anew."""
    made: list[AGCAM] = []

    def first() -> None:
        made.append(AGCAM(model))
        made[0].attribute(x, 1)

    with torch.no_grad():
        model(x)
        plain = seconds(lambda: model(x))
    return (
        plain,
        seconds(first),
        seconds(lambda: made[0].attribute(x, 1)),
        seconds(lambda: AGCAM(model).attribute(x, 1)),
    )


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
