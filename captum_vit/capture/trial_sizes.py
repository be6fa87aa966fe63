"""Sizes of images that a model may take of which nobody has said so."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from torch import nn

from ..access import Adapter, Grid
from .which import MOST_PREFIX

SIZES = (112, 224, 32, 64, 96, 128, 160, 192, 256, 384, 448, 512, 518)
TRIES = 40
CHANNELS = (3, 1)


def sizes_of(adapter: Adapter) -> Iterator[tuple[int, Grid]]:
    """Channels and sizes that the model may take, the likeliest first."""
    stem: Any = adapter.stem
    if stem is not None:
        patches = [(stem.in_channels, tuple(stem.kernel_size))]
        yield from _of_dimensions(adapter.model, patches, adapter.batch_dims - 2)
        return
    for dims in (2, 3):  # patches by a linear layer may be of images, of videos or of volumes
        yield from _of_dimensions(adapter.model, _patches_of_linear(adapter.model, dims), dims)
    yield from ((c, (deep, side, side)) for c in CHANNELS for side in (32, 64, 96, 128, 224) for deep in (4, 8, 16))


def _of_dimensions(model: Any, patches: Sequence[tuple[int, Grid]], dims: int) -> Iterator[tuple[int, Grid]]:
    """Of images (2) or of videos and volumes (3), for patches of so many channels and such sides."""
    sizes: dict[Grid, None] = {}
    for owner in (
        model,
        *(m for m in model.modules() if "embed" in type(m).__name__.lower()),
        getattr(model, "config", None),
    ):
        for name in ("image_size", "img_size", "input_size"):
            said = getattr(owner, name, None)
            if isinstance(said, int) and not isinstance(said, bool):
                sizes[(said,) * dims] = None
            elif isinstance(said, (tuple, list)) and len(said) == dims and all(isinstance(n, int) for n in said):
                sizes[tuple(said)] = None
    for _, patch in patches:
        sizes.update(dict.fromkeys(_sizes_of_positions(model, patch, dims)))
    if dims == 2 or patches:  # no cubes for patches that are none
        sizes.update(dict.fromkeys((side,) * dims for side in SIZES[: len(SIZES) if dims == 2 else 4]))
    channels = [count for count, _ in patches] or CHANNELS
    yield from list(product(channels, sizes))[:TRIES]


def _patches_of_linear(model: nn.Module, dims: int) -> list[tuple[int, Grid]]:
    """Channels and sides of a patch that a linear stem may take."""
    first = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if first is None:
        return []
    sides = [(count, round((first.in_features / count) ** (1 / dims))) for count in CHANNELS]
    return [(count, (side,) * dims) for count, side in sides if side**dims * count == first.in_features]


def _sizes_of_positions(model: nn.Module, patch: tuple[int, ...], dims: int) -> Iterator[Grid]:
    """Sizes for which there are as many patches as positions, squares first."""
    tensors = [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if "pos" in name.lower()]
    for count in dict.fromkeys(n for _, t in tensors for n in t.shape[:-1] if n > 1):
        for patches in range(count, max(0, count - MOST_PREFIX), -1):
            side = round(patches ** (1 / dims))
            if side**dims == patches:
                yield tuple(side * p for p in patch)
        for patches in (count, count - 1):
            if dims == 3:
                yield from (tuple(n * p for n, p in zip(grid, patch, strict=True)) for grid in _boxes(patches))
            if dims == 2:
                rows = [r for r in range(2, math.isqrt(patches) + 1) if patches % r == 0 and patches // r <= 4 * r]
                for r in reversed(rows):
                    yield (r * patch[0], patches // r * patch[1])
                    yield (patches // r * patch[0], r * patch[1])


def _boxes(count: int) -> Iterator[Grid]:
    """Grids of a volume with so many cells, the most even first."""
    found = [
        (a, b, count // (a * b))
        for a in range(2, count)
        for b in range(2, count)
        if count % (a * b) == 0 and a * b < count
    ]
    yield from sorted(found, key=lambda sides: max(sides) / min(sides))
