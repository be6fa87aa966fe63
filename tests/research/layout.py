"""What is known of a small ViT of nobody's library, and the pieces that such models share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import CLASSES, DEPTH, HEADS, PATCH, SIZE, WIDTH, randomise

__all__ = [
    "CLASSES",
    "DEPTH",
    "HEADS",
    "PATCH",
    "SIZE",
    "WIDTH",
    "Layout",
    "Mlp",
    "Parts",
    "PatchEmbed",
    "fused_parts",
    "merge",
    "randomise",
    "split",
]


@dataclass(frozen=True)
class Parts:
    """What goes into one attention, written out: A = softmax(scale * q k^T + bias), `finish(A v)` is what it returns.

    q: (B, H, M, d).  k, v: (B, H, N, d).  bias: broadcastable to (B, H, M, N).
    finish: (B, H, M, d) -> whatever the module returns.
    change: what a model does to A before it meets the values.
    skip: whether a skip connection leads past it, as past all but an attention pool.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    finish: Callable[[Tensor], Any]
    bias: Tensor | float = 0.0
    change: Callable[[Tensor], Tensor] | None = None
    skip: bool = True


@dataclass(frozen=True)
class Layout:
    """A model, and by independent means where its attention is and how its tokens lie.

    build: the model in eval mode with random weights.
    attention: the class of every attention module -> what it computes, (module, *its arguments) -> Parts.
    grid: patches as (rows, columns), or (slices, rows, columns).
    extra: tokens besides the patches, by default all before them.
    size: height and width of the images, before them the slices of a volume; `channels` of these.
    patch: height and width of a patch in pixels, by default so that the grid covers the image.
    patches: the token of each patch in the order of the grid; by default those after `extra`.
    read: the tokens besides the patches that the score is read from.
    reads_patches, even: whether patches are read, and then each as much as a token of `read`.
    depths: what the class token of each block gives to the score, with sum 1; by default the last block's gives all.
    tolerance: of the maps in float64; wider where a model itself computes in less.
    refused: a pattern of the reason for which no map is given; None where maps are due.
    without: methods that are refused, though there is a truth for others.
    uncertain: either a right map or a refusal will do.
    """

    name: str
    build: Callable[[], nn.Module]
    attention: Mapping[type[nn.Module], Callable[..., Parts]] = field(default_factory=dict)
    grid: tuple[int, ...] = (SIZE // PATCH, SIZE // PATCH)
    extra: int = 1
    size: tuple[int, ...] = (SIZE, SIZE)
    channels: int = 3
    patch: tuple[int, ...] | None = None
    patches: tuple[int, ...] | None = None
    read: tuple[int, ...] = (0,)
    reads_patches: bool = False
    even: bool = False
    depths: Callable[[nn.Module], Tensor] | None = None
    tolerance: float = 1e-6
    refused: str | None = None
    without: tuple[str, ...] = ()
    uncertain: bool = False

    @property
    def count(self) -> int:
        """Patches."""
        return prod(self.grid)

    @property
    def pixels(self) -> tuple[int, ...]:
        """Of a patch, in each dimension."""
        return self.patch or tuple(size // count for size, count in zip(self.size, self.grid, strict=True))

    @property
    def tokens_of_patches(self) -> list[int]:
        """The token of each patch, in the order of the grid."""
        return list(range(self.extra, self.extra + self.count)) if self.patches is None else list(self.patches)

    def start(self) -> Tensor:
        """What each token contributes to the score, (N,), with sum 1."""
        weights = torch.zeros(self.extra + self.count, dtype=torch.float64)
        weights[list(self.read)] = 1.0
        if self.reads_patches:
            weights[self.tokens_of_patches] = 1.0 if self.even else 1 / self.count
        return weights / weights.sum()

    def images(self, count: int = 2, seed: int = 1) -> Tensor:
        """Random images or volumes in float64."""
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.channels, *self.size, generator=draw, dtype=torch.float64)


def split(x: Tensor, heads: int = HEADS) -> Tensor:
    """(B, N, H * d) -> (B, H, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(2)


def fused_parts(module: nn.Module, x: Tensor, *_: Any, **__: Any) -> Parts:
    """Of the commonest attention module: `qkv` in one layer, `proj` behind."""
    q, k, v = (split(part) for part in module.qkv(x).chunk(3, -1))
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: module.proj(merge(out)))


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int = WIDTH, hidden: int = 2 * WIDTH) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PatchEmbed(nn.Module):
    """A strided convolution, its positions row by row."""

    def __init__(self, width: int = WIDTH, patch: int = PATCH) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class RMSNorm(nn.Module):
    """Division by the root mean square, as written by hand before torch had it."""

    def __init__(self, width: int = WIDTH, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class SwiGLU(nn.Module):
    """A gated MLP."""

    def __init__(self, width: int = WIDTH, hidden: int = 2 * WIDTH) -> None:
        super().__init__()
        self.fc1, self.fc3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))
