"""What owners do to images before their ViT sees them, and where the pixels then lie on the images that were given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from tests.helpers import PATCH, SIZE, randomise

Size = tuple[int, int]  # (height, width)
Line = tuple[float, float]  # a, b: what lies at c, as edges count, lies at a * c + b of the given image


@dataclass(frozen=True)
class Way:
    """Where the pixels lie that an image has become: a line for each axis, (down, across).

    grids: what turns a map over the tokens into one over the image, beyond what the lines say.
    """

    given: Size
    size: Size
    lines: tuple[Line, Line] = ((1.0, 0.0), (1.0, 0.0))
    grids: tuple[Callable[[Tensor], Tensor], ...] = ()

    def cropped(self, top: int, left: int, size: Size) -> "Way":
        (a, b), (c, d) = self.lines
        return replace(self, size=size, lines=((a, b + a * top), (c, d + c * left)))

    def resized(self, size: Size) -> "Way":
        (a, b), (c, d) = self.lines
        return replace(self, size=size, lines=((a * self.size[0] / size[0], b), (c * self.size[1] / size[1], d)))

    def flipped(self, axis: int) -> "Way":
        lines = list(self.lines)
        a, b = lines[axis]
        lines[axis] = -a, b + a * self.size[axis]
        return replace(self, lines=(lines[0], lines[1]))

    def moved(self, grid: Callable[[Tensor], Tensor]) -> "Way":
        return replace(self, grids=(grid, *self.grids))

    def over_image(self, tokens: Tensor) -> Tensor:
        """(B, rows, cols) of the tokens -> the same in the order of the image."""
        for grid in self.grids:
            tokens = grid(tokens)
        return tokens.flip([1 + axis for axis, (a, _) in enumerate(self.lines) if a < 0])

    def over_pixels(self, maps: Tensor) -> Tensor:
        """(B, rows, cols) in the order of the image -> (B, height, width) of the given one, 0 where it was not seen."""
        down, across = (
            _bilinear(line, own, given, cells)
            for line, own, given, cells in zip(self.lines, self.size, self.given, maps.shape[1:], strict=True)
        )
        return torch.einsum("yr,brc,xc->byx", down.to(maps), maps, across.to(maps))


def _bilinear(line: Line, own: int, given: int, cells: int) -> Tensor:
    """What each cell gives to each pixel, (given, cells)."""
    a, b = line if line[0] > 0 else (-line[0], line[1] + line[0] * own)
    weights = torch.zeros(given, cells, dtype=torch.float64)
    for pixel in range(given):
        place = (pixel + 0.5 - b) / a
        if not 0 <= place < own:
            continue
        at = min(max(place * cells / own - 0.5, 0.0), cells - 1.0)
        low = min(int(at), cells - 2)
        weights[pixel, low], weights[pixel, low + 1] = 1 - (at - low), at - low
    return weights


@dataclass(frozen=True)
class Change:
    """One thing that an owner does to images.

    before: the size that becomes this one.  make: of the size before and after, what is done to a batch, and the way.
    loose: whether a map may lie a pixel off, as where pixels of several places are mixed, or their values rounded.
    moves: whether pixels move.  alone: whether no other change may that moves them, as no line tells the way then.
    """

    name: str
    before: Callable[[Size], Size]
    make: Callable[[Size, Size], tuple[Callable[[Tensor], Tensor], Callable[[Way], Way]]]
    loose: bool = False
    moves: bool = True
    alone: bool = False


def same(size: Size) -> Size:
    return size


def stays(way: Way) -> Way:
    return way


def plain(name: str, change: Callable[[Tensor], Tensor], *, loose: bool = False) -> Change:
    """One that leaves pixels where they are."""
    return Change(name, same, lambda before, after: (change, stays), loose, moves=False)


def crop(name: str, height: int, width: int, top: int, left: int) -> Change:
    def make(before: Size, after: Size) -> tuple:
        def cut(x: Tensor) -> Tensor:
            return x[..., top : top + after[0], left : left + after[1]]

        return cut, lambda way: way.cropped(top, left, after)

    return Change(name, lambda size: (size[0] + height, size[1] + width), make)


def centre_crop(more: int) -> Change:
    def make(before: Size, after: Size) -> tuple:
        return v2.CenterCrop(after), lambda way: way.cropped(more // 2, more // 2, after)

    return Change(f"centre crop by {more}", lambda size: (size[0] + more, size[1] + more), make)


def pad(name: str, mode: str, left: int, right: int, top: int, bottom: int) -> Change:
    def make(before: Size, after: Size) -> tuple:
        def padded(x: Tensor) -> Tensor:
            return F.pad(x, (left, right, top, bottom), mode=mode)

        return padded, lambda way: way.cropped(-top, -left, after)

    return Change(name, lambda size: (size[0] - top - bottom, size[1] - left - right), make, mode != "constant")


def resize(name: str, given: Size, **options: Any) -> Change:
    def make(before: Size, after: Size) -> tuple:
        return lambda x: F.interpolate(x, after, **options), lambda way: way.resized(after)

    return Change(name, lambda size: given, make, options["mode"] == "nearest", alone=options["mode"] == "nearest")


def flip(axis: int) -> Change:
    def make(before: Size, after: Size) -> tuple:
        return lambda x: x.flip(axis - 2), lambda way: way.flipped(axis)

    return Change(f"flip of axis {axis}", same, make)


def turned(name: str, change: Callable[[Tensor], Tensor], grid: Callable[[Tensor], Tensor]) -> Change:
    """One that moves pixels in a way that no line tells; grid: of (B, rows, cols) from the tokens to the image."""
    return Change(name, same, lambda before, after: (change, lambda way: way.moved(grid)), alone=True)


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-6)


def _blackened(x: Tensor) -> Tensor:
    mask = torch.ones_like(x)
    mask[..., :12, 9:] = 0
    return x * mask


class Learned(nn.Module):
    """A convolution before the ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = randomise(nn.Conv2d(3, 3, 3, padding=1), 7)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * self.conv.to(x.dtype)(x)


def _shuffled(x: Tensor) -> Tensor:
    """Patches of pixels exchanged: the one at i becomes that at 5 * i + 3."""
    cells = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, r, c, p, p)
    rows, columns = cells.shape[2:4]
    order = (5 * torch.arange(rows * columns) + 3) % (rows * columns)
    moved = cells.flatten(2, 3)[:, :, order].unflatten(2, (rows, columns))
    return moved.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


def _unshuffled(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    order = (5 * torch.arange(flat.shape[1]) + 3) % flat.shape[1]
    return torch.zeros_like(flat).index_copy(1, order, flat).view_as(maps)


CHANGES = [
    centre_crop(32),
    centre_crop(4),
    crop("corner crop", 12, 20, 0, 0),
    crop("crop off the middle", 16, 9, 13, 2),
    crop("crop by a few pixels", 3, 3, 3, 0),
    pad("zeros around", "constant", 4, 4, 4, 4),
    pad("zeros below and right", "constant", 0, 7, 0, 3),
    pad("zeros above and left", "constant", 5, 0, 3, 0),
    pad("reflected", "reflect", 4, 4, 4, 4),
    pad("reflected on one side", "reflect", 6, 0, 0, 0),
    pad("edges repeated", "replicate", 4, 3, 3, 4),
    resize("enlarged", (20, 24), mode="bilinear"),
    resize("made smaller", (64, 64), mode="bilinear", antialias=True),
    resize("made smaller without care", (50, 77), mode="bilinear"),
    resize("nearest", (64, 32), mode="nearest"),
    resize("nearest, unevenly", (45, 27), mode="nearest"),
    resize("bicubic", (48, 24), mode="bicubic", antialias=True),
    flip(0),
    flip(1),
    turned("transposed", lambda x: x.mT, lambda maps: maps.mT),
    turned("a quarter turn", lambda x: x.rot90(1, (2, 3)), lambda maps: maps.rot90(-1, (1, 2))),
    turned("shuffled", _shuffled, _unshuffled),
    plain("grey", lambda x: x.mean(1, keepdim=True).expand_as(x)),
    plain("BGR", lambda x: x.flip(1)),
    plain("normalised", lambda x: (x - 0.45) / torch.tensor([0.2, 0.3, 0.25]).to(x)[:, None, None]),
    plain("standardised", _standardised, loose=True),
    plain("clamped", lambda x: x.clamp(-1, 1), loose=True),
    plain("rounded", lambda x: ((x + 3) * 42).round().clamp(0, 255) / 42 - 3, loose=True),
    plain("rounded coarsely", lambda x: x.round(), loose=True),
    plain("blackened", _blackened),
    Change("a convolution", same, lambda before, after: (Learned(), stays), loose=True, moves=False),
]


def way_through(changes: Sequence[Change], last: Size = (SIZE, SIZE)) -> tuple[nn.ModuleList, Way]:
    """What these do, one after another, and where the pixels lie at the end."""
    sizes = [last]
    for change in reversed(changes):
        sizes.insert(0, change.before(sizes[0]))
    way, modules = Way(sizes[0], sizes[0]), nn.ModuleList()
    for change, before, after in zip(changes, sizes[:-1], sizes[1:], strict=True):
        done, onward = change.make(before, after)
        modules.append(done if isinstance(done, nn.Module) else Done(done))
        way = onward(way)
    return modules, way


class Done(nn.Module):
    """A function of a batch, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
