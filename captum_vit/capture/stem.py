"""Where the tokens of a model lie on the images that it is given, seen on images of which a part is changed.

A model runs on them up to its first attention only, whose values each belong to one token.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from ..access import Adapter, AttentionCall, TokenLayout
from ..errors import TokenLayoutError, UnsupportedModelError
from .inputs import Inputs
from .place import WHOLE, Place
from .scopes import Attention
from .still import still
from .tap import Tap

AT_ONCE = 8 * 224 * 224  # pixels of changed images that go through the stem together
NEAR = 1  # cells that a token may seem to lie off, where patches overlap


class EnoughError(Exception):
    """The first attention has been seen."""


class StemTap(Tap):
    """Stops the model at its first attention."""

    values: Tensor
    pixels: Tensor | None = None

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        self.values = call.v
        raise EnoughError

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        return still(func, args, kwargs, super().other)

    def _look_at_pixels(self, module: torch.nn.Module, args: tuple) -> None:
        super()._look_at_pixels(module, args)
        if self.active and self.pixels is None and args:
            self.pixels = args[0]


def through_stem(adapter: Adapter, inputs: Inputs, place: Place = WHOLE) -> StemTap:
    """What the first attention was given."""
    tap = StemTap(adapter, inputs, None, place)
    with torch.no_grad():
        try:
            with tap.listening():
                inputs.run(adapter.model)
        except EnoughError:
            pass
    if not hasattr(tap, "values"):
        raise UnsupportedModelError(f"{type(adapter.model).__name__} reaches none of its attention layers")
    count, found = len(inputs.images), len(tap.values)
    if count != found:
        raise UnsupportedModelError(
            f"of {count} images {found} reach the attention of {type(adapter.model).__name__}, as where a model makes "
            f"several views, crops or frames of each: which of them a map belongs to is not known. Explain the module "
            f"that takes one view, on each of them"
        )
    return tap


def check_places(adapter: Adapter, inputs: Inputs, place: Place) -> None:
    """Each token must change with the pixels where it lies, and no other.

    Each patch has a number; for each binary digit of it two images are made, in which the patches with a 1 there are
    changed, and those with a 0. So each token tells its number, whatever the patches next to it add.

    Raises:
        TokenLayoutError: a token lies elsewhere than the layout says.
    """
    first = inputs.first()
    base = through_stem(adapter, first, place)
    layout = base.layout
    axes = axes_of(adapter, inputs.images.dim())
    numbers = _numbers(layout, [inputs.images.shape[axis] for axis in axes])
    digits = max(1, (prod(layout.grid) - 1).bit_length())
    seen = numbers >= 0
    masks = [seen & ((numbers >> digit & 1) == bit) for digit in range(digits) for bit in (1, 0)]
    laid = torch.stack([_laid(mask, axes, inputs.images.dim()) for mask in masks])  # (2 * digits, ...) as the images
    changes = _changes(adapter, first, place, laid, base.values)  # (2 * digits, tokens)
    own = changes.view(digits, 2, -1)
    found = torch.stack([(own[digit, 0] > own[digit, 1]).long() << digit for digit in range(digits)]).sum(0)
    patches = found[len(found) - prod(layout.grid) :]
    _compare(adapter, layout, patches, torch.unique(numbers[seen]), overlap=_overlap(own[..., -len(patches) :]))


def axes_of(adapter: Adapter, dims: int) -> list[int]:
    """Which axes of a batch are height and width, before them that of frames or slices; (2, 3) of (B, C, H, W)."""
    shape = (2, 3, 5, 7, 11)[:dims]
    return [shape.index(side) for side in adapter.size_of(torch.empty(shape, device="meta"))]


def _laid(mask: Tensor, axes: Sequence[int], dims: int) -> Tensor:
    """A mask over the pixels as an image of the batch has its axes."""
    others = [axis for axis in range(1, dims) if axis not in axes]
    mask = mask.permute([axes.index(axis) for axis in sorted(axes)])
    return mask[tuple(None if axis in others else slice(None) for axis in range(1, dims))]


def _overlap(own: Tensor) -> bool:
    """Whether tokens change with pixels around their patch as well."""
    return bool((own.amin(1) > 1e-3 * own.amax(1)).any())


def _changes(adapter: Adapter, first: Inputs, place: Place, masks: Tensor, base: Tensor) -> Tensor:
    """How much each token changes with the pixels of each mask."""
    image = first.images[0]
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=draw).to(image) * (image.std() if image.std() > 0 else 1)
    at_once = max(1, AT_ONCE // masks[0].numel())
    parts = []
    for some in masks.split(at_once):
        inputs = first.copies(len(some)) if len(some) > 1 else first
        changed = torch.where(some.to(image.device), image + noise, image)
        values = through_stem(adapter, replace(inputs, images=changed), place).values
        parts.append((values - base).float().square().sum((1, 3)).sqrt().cpu())
    return torch.cat(parts)


def _numbers(layout: TokenLayout, size: Sequence[int]) -> Tensor:
    """Of each pixel of the given images, the patch that it belongs to; -1 for those that belong to none."""
    view = layout.view
    shown = layout.image_size or tuple(size)
    axes = []
    for axis, (cells, patch, side) in enumerate(zip(layout.grid, layout.patch, size, strict=True)):
        places = np.arange(side) + 0.5
        if view is None:
            places = places * shown[axis] / side
        else:
            across = len(size) - 1 - axis
            inside = (places >= view.window[across]) & (places < view.window[across + 2])
            places = np.where(inside, places * view.scale[across] - view.offset[across], -1)
        cell = np.floor(places / patch)
        axes.append(torch.from_numpy(np.where((cell >= 0) & (cell < cells), cell, -1)).long())
    number, ok = torch.zeros([1] * len(size), dtype=torch.long), torch.ones([1] * len(size), dtype=torch.bool)
    for axis, (cell, cells) in enumerate(zip(axes, layout.grid, strict=True)):
        cell = cell.view([-1 if axis == other else 1 for other in range(len(size))])
        number, ok = number * cells + cell, ok & (cell >= 0)
    return torch.where(ok, number, -1)


def _compare(adapter: Adapter, layout: TokenLayout, found: Tensor, shown: Tensor, *, overlap: bool) -> None:
    expected = torch.arange(prod(layout.grid))
    wrong = (found[shown] != expected[shown]).nonzero().flatten()
    wrong = shown[wrong]
    if not len(wrong):
        return
    if overlap and len(wrong) < len(shown) / 4 and all(_near(layout, found[i], expected[i]) for i in wrong):
        return
    token = int(wrong[0])
    raise TokenLayoutError(
        f"{len(wrong)} of {len(shown)} patches of {type(adapter.model).__name__} do not lie where "
        f"{type(adapter).__name__} says: token {layout.prefix + token} should be that in {_cell(layout, token)} of a "
        f"grid of {'x'.join(map(str, layout.grid))}, and changes with {_cell(layout, int(found[token]))}. The "
        f"adapter's grid, its prefix tokens or their order are wrong here, or the owner moves tokens or pixels"
    )


def _near(layout: TokenLayout, one: Tensor, other: Tensor) -> bool:
    places = (np.unravel_index(int(index) % prod(layout.grid), layout.grid) for index in (one, other))
    return max(abs(int(a) - int(b)) for a, b in zip(*places, strict=True)) <= NEAR


def _cell(layout: TokenLayout, number: int) -> str:
    if number >= prod(layout.grid):
        return "none"
    place = np.unravel_index(number, layout.grid)
    names = ("frame or slice", "row", "column")[-len(place) :]
    return ", ".join(f"{name} {int(index)}" for name, index in zip(names, place, strict=True))
