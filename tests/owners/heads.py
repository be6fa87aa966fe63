"""What owners make of the tokens of their ViT, and what each token gives to the score by construction."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.helpers import CLASSES, DEPTH, WIDTH, randomise
from tests.owners.truth import Reading

Streams = list[Tensor]  # normalised tokens after each block, (B, N, D)


class Head(nn.Module):
    """From tokens to features by `pool`, and from these to scores."""

    def __init__(self, pool: Callable, prefix: int, width: int = WIDTH, *, deep: bool = False) -> None:
        super().__init__()
        self.pool, self.prefix = pool, prefix
        hidden = (nn.LayerNorm(width), nn.Linear(width, 31), nn.GELU()) if deep else ()
        self.scores = nn.Sequential(*hidden, nn.Linear(31 if deep else width, CLASSES))
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.one = nn.Linear(WIDTH, 1)
        self.query = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 3, batch_first=True)

    def forward(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Features and scores."""
        features = self.pool(self, streams, self.prefix)
        return features, self.scores(features)


@dataclass(frozen=True)
class Pooling:
    """A kind of head.

    pool: of the head, the streams and the number of prefix tokens, the features.
    weights: of the number of prefix tokens and of patches, (layers, N); None where they are not fixed.
    rows: which tokens are read where the weights are not fixed, by default the patches of the last block.
    needs: how many prefix tokens there must be.
    """

    name: str
    pool: Callable[[Head, Streams, int], Tensor]
    weights: Callable[[int, int], Tensor] | None = None
    rows: Callable[[int, int], Tensor] | None = None
    width: int = WIDTH
    deep: bool = False
    needs: int = 0
    wide: Callable[[int], int] | None = None

    def build(self, prefix: int, patches: int) -> Head:
        width = self.width if self.wide is None else self.wide(patches)
        return randomise(Head(self.pool, prefix, width, deep=self.deep), 5)

    @property
    def by_content(self) -> bool:
        """Whether which tokens are read, or how much, depends on what they hold."""
        return self.weights is None or self.name == "a neuron on each token"

    @property
    def deep_streams(self) -> bool:
        """Whether tokens are read after other blocks than the last."""
        return self.weights is not None and bool(self.weights(1, 16)[:-1].any())

    def reading(self, prefix: int, patches: int) -> Reading:
        if self.weights is not None:
            return Reading.of(self.weights(prefix, patches))
        rows = (self.rows or last_patches)(prefix, patches)
        return Reading(rows != 0, None)


def none(prefix: int, patches: int) -> Tensor:
    return torch.zeros(DEPTH, prefix + patches, dtype=torch.float64)


def last_patches(prefix: int, patches: int) -> Tensor:
    weights = none(prefix, patches)
    weights[-1, prefix:] = 1 / patches
    return weights


def at(*cells: tuple[int, int, float]) -> Callable[[int, int], Tensor]:
    """Weights at (layer, token); tokens count from the first patch, negative ones are prefix tokens from the last."""

    def weights(prefix: int, patches: int) -> Tensor:
        found = none(prefix, patches)
        for layer, token, weight in cells:
            found[layer, prefix + token if token >= 0 else token + prefix] += weight
        return found

    return weights


def first(*layers: float) -> Callable[[int, int], Tensor]:
    """Weights of the first token after each block."""

    def weights(prefix: int, patches: int) -> Tensor:
        found = none(prefix, patches)
        found[:, 0] = torch.tensor(layers, dtype=torch.float64)
        return found

    return weights


def beside(one: Callable[[int, int], Tensor], other: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
    return lambda prefix, patches: one(prefix, patches) + other(prefix, patches)


def mean_at(*layers: float) -> Callable[[int, int], Tensor]:
    """Weights of the mean of the patches after each block."""

    def weights(prefix: int, patches: int) -> Tensor:
        found = none(prefix, patches)
        found[:, prefix:] = torch.tensor(layers, dtype=torch.float64)[:, None] / patches
        return found

    return weights


def every(prefix: int, patches: int) -> Tensor:
    weights = none(prefix, patches)
    weights[-1] = 1
    return weights
