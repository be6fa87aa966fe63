"""Where a model's tokens lie on the image, and which of them its score is read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError, TokenLayoutError, UnsupportedModelError
from ..geometry import View

Grid = tuple[int, ...]  # (rows, columns); of videos and volumes (frames or slices, rows, columns)
ENLARGING = {1: "linear", 2: "bilinear", 3: "trilinear"}  # interpolation by the number of a grid's dimensions


@dataclass(frozen=True)
class Readout:
    """The tokens that the score is read from: some of the prefix tokens, the patches, or both.

    >>> Readout((0,), patches=True).weights(prefix=1, tokens=5)  # a class token beside the mean of four patches
    tensor([0.5000, 0.1250, 0.1250, 0.1250, 0.1250], dtype=torch.float64)

    even: every token that is read weighs the same, as in a mean over all tokens; otherwise each prefix token weighs as
        much as the patches together, as where a class token and the mean of the patches stand side by side.
    latents: where an attention pool reads those tokens, the queries of it that the score is read from in turn.
    declared: known from the head, not measured. A measurement shows the rows that receive gradient; only a known head
        is sure not to use the values of others.
    shares: measured, by attention layer: what each token that comes out of the layer's block gives to the score
        itself, (prefix + patches,), and not through a later block; all of them have the sum 1.
        A head may read one region of the patches, or several depths.
    unclear: why tokens have no such weights, as where a head weighs them by what they hold; `shares` then only tells
        which are read.
    by_image: measured, whether other tokens are read, or otherwise weighed, in one image than in another.
    by_class: measured, whether some scores are read from fewer of these tokens than others.
    target: the only one that it holds for, where it was measured by class.
    """

    prefix: tuple[int, ...] = (0,)
    patches: bool = False
    even: bool = False
    latents: tuple[int, ...] = ()
    declared: bool = field(default=True, compare=False)
    shares: Mapping[str, Tensor] | None = field(default=None, compare=False)
    unclear: str | None = field(default=None, compare=False)
    by_image: bool = field(default=False, compare=False)
    by_class: bool = field(default=False, compare=False)
    target: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.prefix and not self.patches:
            raise OptionError(
                "a readout holds the tokens that the score is read from, prefix tokens, patches or both; an attention "
                "pool's too, beside its latents: got none"
            )

    @property
    def only_prefix(self) -> bool:
        """Whether nothing but prefix tokens matters to the score once attention is over."""
        return self.declared and self.of_prefix

    @property
    def of_prefix(self) -> bool:
        """Whether the score is read from prefix tokens alone, as far as gradients show."""
        return not self.patches and not self.latents

    def holds_for(self, target: Any) -> bool:
        """Whether a target that is made of scores is read from these tokens."""
        return not self.by_class or self.target is target

    def reads(self, layer: str) -> bool:
        """Whether the score depends on an attention layer: a head may read an earlier depth than the last."""
        if self.shares is None or self.latents:
            return True
        names = list(self.shares)
        return any(bool(self.shares[name].any()) for name in names[names.index(layer) if layer in names else 0 :])

    def from_layer(self, layer: str, prefix: int) -> tuple[Tensor, Tensor]:
        """Measured: what tokens give to the score in this layer or later, and right after this one, (tokens,) each."""
        assert self.shares is not None
        names = list(self.shares)
        later = [self.shares[name] for name in names[names.index(layer) if layer in names else 0 :]]
        own = later[0] if layer in names else torch.zeros_like(later[0])
        patches = len(own) - prefix
        total = torch.zeros_like(own)
        for share in later:  # patches of another grid, in models that pool them, count evenly
            total[:prefix] += share[:prefix]
            total[prefix:] += share[prefix:] if len(share) == len(own) else share[prefix:].sum() / patches
        return total, own

    def weights(self, prefix: int, tokens: int) -> Tensor:
        """What each token contributes, (tokens,), with sum 1."""
        weights = torch.zeros(tokens, dtype=torch.float64)
        if self.even:
            rows = [*self.prefix, *(range(prefix, tokens) if self.patches else ())]
            weights[rows] = 1 / len(rows)
            return weights
        share = 1 / (len(self.prefix) + self.patches)
        weights[list(self.prefix)] = share
        if self.patches:
            weights[prefix:] = share / (tokens - prefix)
        return weights


CLASS = Readout((0,))
CLASS_AND_DISTILLATION = Readout((0, 1))
PATCHES = Readout((), patches=True)
CLASS_AND_PATCHES = Readout((0,), patches=True)


def all_tokens(prefix: int) -> Readout:
    """The mean over `prefix` tokens and the patches."""
    return Readout(tuple(range(prefix)), patches=True, even=True)


@dataclass(frozen=True)
class LayerLayout:
    """How the queries and keys of one attention layer lie on the image.

    >>> layer = adapt(model).token_layout((224, 224), {}).of_layer("blocks.0.attn", queries=197, keys=197)
    >>> layer.read_rows, layer.to_map(torch.rand(2, 197)).shape
    ([0], torch.Size([2, 196]))

    prefix, grid: the keys are `prefix` tokens, then the patches.
    share: what each query contributes to the readout, (queries,), with sum 1; all 0 if the score reads none of them.
    start: what each token that comes out of the layer contributes, with sum 1: (keys,), of cross-attention (queries,).
    skip: whether a skip connection leads past the attention.
    cross: whether the queries are tokens of their own, as the latents of an attention pool; otherwise they are the
        first of the keys, or all.
    map_grid: the grid of the maps, which differs from `grid` where a model pools its patches on the way.
    mass, direct: where a head reads several depths, the part of the readout that is read from this layer or later, and
        what is read from the tokens right after this one, (keys,), of sum 1 over all layers.
    unclear: why the weights in `share` and `start` are not known, and only which rows are read.
    order: where the keys as they are listed here stand among those of the layer, if that is another order.
    """

    prefix: int
    grid: Grid
    share: Tensor
    start: Tensor
    skip: bool
    map_grid: Grid
    cross: bool = False
    mass: float = 1.0
    direct: Tensor | None = None
    unclear: str | None = None
    order: Tensor | None = None

    @property
    def keys(self) -> int:
        return self.prefix + prod(self.grid)

    @cached_property
    def read_rows(self) -> list[int]:
        """The queries that the score is read from."""
        return self.share.nonzero().flatten().tolist()

    def check_weighed(self) -> None:
        """Raise UnsupportedModelError unless it is known what each token contributes to the readout."""
        if self.unclear is not None:
            raise UnsupportedModelError(
                f"what each token contributes to the score is not known: {self.unclear}. Methods that begin with these "
                f"weights, as rollout and raw attention, have no map; those that go back by gradients, as AGCAM and "
                f"DAAM, do"
            )

    def to_map(self, keys: Tensor) -> Tensor:
        """What belongs to the patches, on the grid of the maps: (..., keys) -> (..., rows*cols)."""
        patches = keys[..., self.prefix :]
        if self.grid == self.map_grid:
            return patches
        coarse = patches.reshape(-1, 1, *self.grid)
        fine = F.interpolate(coarse, self.map_grid, mode=ENLARGING[len(self.grid)], align_corners=False)
        return fine.reshape(*patches.shape[:-1], -1)


@dataclass(frozen=True)
class TokenLayout:
    """How a model's tokens lie on the image.

    >>> layout = adapt(model).token_layout((224, 224), {})
    >>> layout.prefix, layout.grid, layout.tokens
    (1, (14, 14), 197)

    grid: patches as (rows, columns).  prefix: tokens before the patches.  patch: (height, width) in pixels that each
    stands for.  readout: the tokens that the score is read from.  grids: of layers, by name, whose grid is another, as
    where patches are pooled on the way.  image_size: (height, width) of the images that reach the ViT, which its owner
    may have resized; filled in while a model runs. Of videos and volumes grid, patch and size have one number more,
    which comes first.
    order: where the tokens, prefix and then patches in reading order of the image, stand in the model's own sequence,
    (tokens,); None if they stand so. A class token may come last, or the patches column by column.
    view: how the images that reach the ViT lie on those that the model is given, where its owner crops or pads them.
    prefixes: where not all of the prefix tokens are there from the beginning, how many each layer has, by name: the
        last of the prefix, as those that join later, queries for instance, come before them.
    """

    grid: Grid
    prefix: int
    patch: tuple[float, ...]
    readout: Readout = CLASS
    grids: Mapping[str, Grid] = field(default_factory=dict)
    image_size: Grid | None = None
    order: Tensor | None = None
    view: View | None = None
    prefixes: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.prefix + prod(self.grid)

    def prefixes_of(self, name: str) -> set[int]:
        """How many prefix tokens there may be in a layer, or at another module of that name."""
        known = [self.prefixes[name]] if name in self.prefixes else [self.prefix, *self.prefixes.values()]
        return {0, *known}

    def to_grid(self, patches: Tensor) -> Tensor:
        """(..., patches) -> (..., *grid)."""
        return patches.unflatten(-1, self.grid)

    def of_layer(self, name: str, queries: int, keys: int, *, cross: bool | None = None) -> LayerLayout:
        """The layout of the layer whose attention has so many queries and keys.

        `cross` is given where the queries are tokens of their own: whether a skip connection leads them past it.

        Raises:
            TokenLayoutError: the keys are not the patches, with the prefix tokens or without; or the queries are not
                the tokens.
        """
        grid = self.grids.get(name, self.grid)
        prefix = keys - prod(grid)
        known = self.prefixes_of(name)
        if prefix not in known:
            raise TokenLayoutError(
                f"expected prefix + rows*cols = {max(known)} + {'*'.join(map(str, grid))} tokens in {name}, got {keys}"
                f": the adapter's grid does not fit this input, or tokens are added or dropped on the way, as prompts "
                f"are, or patches in train mode"
            )
        if cross is not None:
            share = torch.zeros(queries, dtype=torch.float64)
            share[list(self.readout.latents)] = 1 / max(1, len(self.readout.latents))
            return LayerLayout(prefix, grid, share, share, skip=cross, map_grid=self.grid, cross=True)
        if queries != keys and not 0 < queries <= prefix:
            raise TokenLayoutError(
                f"expected as many queries as keys in {name}, {keys}, or no more than the {prefix} before the patches: "
                f"got {queries}"
            )
        weights, mass, direct = self._weights(name, prefix + prod(grid))
        start, unclear = _normalised(weights), self.readout.unclear
        share = _normalised(start[:queries])
        order = None if self.order is None else self.order[self.prefix - prefix :].argsort().argsort()
        return LayerLayout(prefix, grid, share, start, True, self.grid, False, mass, direct, unclear, order)

    def _weights(self, name: str, keys: int) -> tuple[Tensor, float, Tensor | None]:
        """What the tokens of a layer contribute, which part of the readout that is, and what is read right there."""
        if self.readout.shares is None:
            tokens = self.prefix + prod(self.grids.get(name, self.grid))
            return self.readout.weights(self.prefix, tokens)[tokens - keys :], 1.0, None
        total, own = (weights[len(weights) - keys :] for weights in self.readout.from_layer(name, self.prefix))
        return total, float(total.sum()), None if self.readout.latents else own


def _normalised(weights: Tensor) -> Tensor:
    """With sum 1, unless all are 0."""
    return weights / (weights.sum() or 1)
