"""Where the tokens of a model lie on the images that it is given, seen on images of which a part is changed.

A model runs on them up to its first attention only, whose values each belong to one token.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import Adapter, AttentionCall, TokenLayout
from ..errors import TokenLayoutError, UnsupportedModelError
from .inputs import Inputs
from .place import WHOLE, Place
from .repeated import CONVOLUTIONS, of_patches, of_rows
from .scopes import Attention
from .still import still
from .tap import Tap

AT_ONCE = 32 * 224 * 224  # pixels of changed images that go through the stem together
NEAR = 1  # cells that a token may seem to lie off, where patches overlap
EDGE, FIFTH = 2, 0.2  # pixels at the edge of a patch, or this part of it, by which its place is looked at more closely
SEED = 40_961  # nobody's own: noise that is the image again leaves a stem alone that divides by a patch's spread
LEAK = 0.3  # of a token's change with its own patch, up to which it may change with those around it for such a look
NEXT = 0.7  # of a token's change with its own edge, from which that with the next one's tells that it lies off
FEW = 1 / 8  # of the tokens, up to which they may seem to lie off there


class EnoughError(Exception):
    """The first attention has been seen."""


class StemTap(Tap):
    """Stops the model at its first attention; what copies of an image have in common is computed once.

    Attributes:
        values: of the first attention.
        pixels: what the ViT's stem was given.
    """

    values: Tensor
    pixels: Tensor | None = None

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        self.values = call.v
        raise EnoughError

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if func in CONVOLUTIONS:
            return of_patches(func, args, kwargs)
        return still(func, args, kwargs, super().other)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return of_rows(input, lambda rows: F.linear(rows, weight, bias))

    def _look_at_pixels(self, module: torch.nn.Module, args: tuple) -> None:
        super()._look_at_pixels(module, args)
        if self.active and self.pixels is None and args:
            self.pixels = args[0]


class PixelTap(StemTap):
    """Stops the model where its stem is given the images."""

    def _look_at_pixels(self, module: torch.nn.Module, args: tuple) -> None:
        super()._look_at_pixels(module, args)
        if self.active and isinstance(self.pixels, Tensor) and len(self.pixels) == len(self.inputs.images):
            raise EnoughError


def run_until_enough(tap: StemTap) -> None:
    """Run the model until the tap has seen enough."""
    with torch.no_grad(), suppress(EnoughError), tap.listening():
        tap.inputs.run(tap.adapter)


def at_stem(adapter: Adapter, inputs: Inputs, place: Place = WHOLE) -> StemTap:
    """What the stem was given, and where tokens lie on it; of a ViT without one, what the first attention was given."""
    tap = PixelTap(adapter, inputs, None, place)
    run_until_enough(tap)
    return tap


def through_stem(adapter: Adapter, inputs: Inputs, place: Place = WHOLE) -> StemTap:
    """What the first attention was given."""
    tap = StemTap(adapter, inputs, None, place)
    run_until_enough(tap)
    if not hasattr(tap, "values"):
        raise UnsupportedModelError(f"{type(adapter.model).__name__} reaches none of its attention layers")
    count, found = len(inputs.images), len(tap.values)
    if count != found:
        raise UnsupportedModelError(
            f"of {count} images {found} reach the attention of {type(adapter.model).__name__}, as where a model makes "
            f"several views, crops or frames of each: which of them a map belongs to is not known. Explain the module "
            f"that takes one view, on each of them, or captum_vit.OneView(model, 0)"
        )
    return tap


def check_places(adapter: Adapter, inputs: Inputs, place: Place) -> None:
    """Each token must change with the pixels where it lies, and no other.

    Each patch has a number; for each binary digit of it two images are made, in which the patches with a 1 there are
    changed, and those with a 0. So each token tells its number, whatever the patches next to it add. Then the pixels at
    one edge of all patches in even rows are changed, and of those in odd rows, and so on.

    Raises:
        TokenLayoutError: a token lies elsewhere than the layout says.
    """
    first = inputs.first()
    layout = at_stem(adapter, first, place).layout
    axes, dims = axes_of(adapter, inputs.images.dim()), inputs.images.dim()
    places = _places(layout, [inputs.images.shape[axis] for axis in axes])
    numbers = _numbers(layout, places)

    def of_tokens(masks: Sequence[Tensor]) -> Tensor:
        """How large each token is, and how much it changes with the pixels of each mask, (1 + masks, tokens)."""
        return _changes(adapter, first, place, torch.stack([_laid(mask, axes, dims) for mask in masks]))

    count = prod(layout.grid)
    digits = max(1, (count - 1).bit_length())
    seen = numbers >= 0
    masks = [seen & ((numbers >> digit & 1) == bit) for digit in range(digits) for bit in (1, 0)]
    sizes = of_tokens([*masks, *_edges(layout, places, seen)])
    own, at_edges = sizes[1:, -count:].tensor_split([len(masks)])
    found = own.view(digits, 2, -1)
    patches = torch.stack([(found[digit, 0] > found[digit, 1]).long() << digit for digit in range(digits)]).sum(0)
    shown = torch.unique(numbers[seen])
    size = own.amax(0)
    if layout.view is None and len(shown) < prod(layout.grid):
        raise TokenLayoutError(
            f"{type(adapter).__name__} says that {type(adapter.model).__name__} has {prod(layout.grid)} patches of "
            f"{'x'.join(f'{side:g}' for side in layout.patch)} pixels, and only {len(shown)} of them lie on the image"
        )
    if size.max() <= 1e-6 * sizes[0].max():
        raise TokenLayoutError(
            f"no token of {type(adapter.model).__name__} changes with the images that are given: what its ViT looks at "
            f"is something else, as the other image of a pair. Give that one as the images"
        )
    answering = size[shown] > 1e-6 * size.max()
    if not answering.all():  # an owner may black out a part: then its pixels change nothing at all
        silent = torch.isin(numbers, shown[~answering])
        if of_tokens([silent])[1:].max() > 1e-6 * size.max():
            answering = torch.ones_like(answering)
    shown = shown[answering]
    leak = found.amin(1) / found.amax(1).clamp(min=1e-30)
    _compare(adapter, layout, patches, shown, overlap=bool((leak > 1e-3).any()))
    if len(shown) and float(leak[:, shown].median()) < LEAK:
        _compare_edges(adapter, layout, at_edges, shown)


def axes_of(adapter: Adapter, dims: int) -> list[int]:
    """Which axes of a batch are height and width, before them that of frames or slices; (2, 3) of (B, C, H, W)."""
    shape = (2, 3, 5, 7, 11)[:dims]
    return [shape.index(side) for side in adapter.size_of(torch.empty(shape, device="meta"))]


def _laid(mask: Tensor, axes: Sequence[int], dims: int) -> Tensor:
    """A mask over the pixels as an image of the batch has its axes."""
    others = [axis for axis in range(1, dims) if axis not in axes]
    mask = mask.permute([axes.index(axis) for axis in sorted(axes)])
    return mask[tuple(None if axis in others else slice(None) for axis in range(1, dims))]


def _changes(adapter: Adapter, first: Inputs, place: Place, masks: Tensor) -> Tensor:
    """How large each token is, and how much it changes with the pixels of each mask."""
    image = first.images[0]
    draw = torch.Generator().manual_seed(SEED)
    noise = torch.randn(image.shape, generator=draw).to(image) * (image.std() if image.std() > 0 else 1)
    masks = torch.cat([torch.zeros_like(masks[:1]), masks])  # the first is the image as it is
    at_once = max(1, AT_ONCE // masks[0].numel())
    parts, base = [], None
    for some in masks.split(at_once):
        inputs = first.copies(len(some)) if len(some) > 1 else first
        changed = torch.where(some.to(image.device), image + noise, image)
        values = through_stem(adapter, replace(inputs, images=changed), place).values
        if base is None:
            base = values[:1].clone()
            parts.append(base.float().square().sum((1, 3)).sqrt().cpu())
            values = values[1:]
        parts.append((values - base).float().square().sum((1, 3)).sqrt().cpu())
    return torch.cat(parts)


def _places(layout: TokenLayout, size: Sequence[int]) -> list[np.ndarray]:
    """Of the given images' pixels along each axis, where they lie on those that reach the ViT, in pixels; -1 for those
    that do not."""
    view = layout.view
    shown = layout.image_size or tuple(size)
    found = []
    for axis, side in enumerate(size):
        places = np.arange(side) + 0.5
        if view is None:
            found.append(places * shown[axis] / side)
        else:
            across = len(size) - 1 - axis
            inside = (places >= view.window[across]) & (places < view.window[across + 2])
            found.append(np.where(inside, places * view.scale[across] - view.offset[across], -1))
    return found


def _cells(layout: TokenLayout, places: Sequence[np.ndarray]) -> list[Tensor]:
    """The row or column of patches that each pixel lies in along each axis, -1 for none; to be broadcast."""
    axes = []
    for axis, (cells, patch, at) in enumerate(zip(layout.grid, layout.patch, places, strict=True)):
        number = np.floor(at / patch)
        cell = torch.from_numpy(np.where((number >= 0) & (number < cells), number, -1)).long()
        axes.append(cell.view([-1 if axis == other else 1 for other in range(len(places))]))
    return axes


def _numbers(layout: TokenLayout, places: Sequence[np.ndarray]) -> Tensor:
    """Of each pixel of the given images, the patch that it belongs to; -1 for those that belong to none."""
    number, ok = torch.zeros((), dtype=torch.long), torch.ones((), dtype=torch.bool)
    for cell, cells in zip(_cells(layout, places), layout.grid, strict=True):
        number, ok = number * cells + cell, ok & (cell >= 0)
    return torch.where(ok, number, -1)


def _edges(layout: TokenLayout, places: Sequence[np.ndarray], seen: Tensor) -> list[Tensor]:
    """For each axis, and the beginning and the end of patches: the pixels there in even and in odd rows of patches."""
    masks = []
    for axis, cell in enumerate(_cells(layout, places)):
        at = torch.from_numpy(places[axis]).view_as(cell)
        step = float(np.median(np.diff(places[axis]))) if len(places[axis]) > 1 else 1.0
        inside = at - cell * layout.patch[axis]
        width = max(EDGE, FIFTH * layout.patch[axis]) * max(1.0, step)
        for edge in (inside < width, inside >= layout.patch[axis] - width):
            masks += [seen & edge & (cell % 2 == parity) for parity in (0, 1)]
    return masks


def _compare_edges(adapter: Adapter, layout: TokenLayout, changes: Tensor, shown: Tensor) -> None:
    """Raise TokenLayoutError where tokens change with the edge of the next patches about as much as with their own."""
    rows = np.unravel_index(shown.numpy(), layout.grid)
    for axis, (row, cells) in enumerate(zip(rows, layout.grid, strict=True)):
        parity = torch.from_numpy(row % 2)
        for pair in changes.view(len(layout.grid), 2, 2, -1)[axis][..., shown]:
            own = torch.where(parity == 0, pair[0], pair[1])
            off = NEXT * own < torch.where(parity == 0, pair[1], pair[0])
            if cells > 1 and int(off.sum()) > FEW * len(shown):
                raise TokenLayoutError(
                    f"{int(off.sum())} of {len(shown)} patches of {type(adapter.model).__name__} lie some pixels off "
                    f"where {type(adapter).__name__} says, as where an owner pads images with what is in them, or "
                    f"crops them in a way that cannot be followed: a map could not be laid on the image. Explain the "
                    f"module behind that, on what it is given"
                )


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
