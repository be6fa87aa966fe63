"""The way between an image and what a preprocessing makes of it, in both directions."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

Size = tuple[int, int]  # (width, height)
Box = tuple[float, float, float, float]  # left, top, right, bottom: edges, so that pixel i lies between i and i + 1
Map = Tensor | np.ndarray  # (rows, cols)


@dataclass(frozen=True)
class View:
    """How a model looks at an image, which was resized, cropped and padded on the way: a scale and an offset an axis.

    A pixel of the input with centre `x` lies in the image at `(x + offset + 0.5) / scale - 0.5`.

    original: size of the image, upright.
    size: of the model's input.
    scale: (across, down), pixels of the input for a pixel of the image.
    offset: (left, top), where the input begins in the resized image, in pixels; negative where it was padded.
    window: the part of the image that is in the input, in pixels of the image.
    """

    original: Size
    size: Size
    scale: tuple[float, float]
    offset: tuple[float, float]
    window: Box

    @classmethod
    def of(cls, size: Size) -> "View":
        """The view of an image of (width, height) that nothing has happened to yet."""
        return cls(size, size, (1.0, 1.0), (0.0, 0.0), (0.0, 0.0, float(size[0]), float(size[1])))

    def resized(self, width: int, height: int) -> "View":
        """After a resize to these sides, whatever the proportions."""
        if width < 1 or height < 1:
            raise InputError(f"the preprocessing leaves {width}x{height} pixels of an image of {_text(self.original)}")
        across, down = width / self.size[0], height / self.size[1]
        return replace(
            self,
            size=(width, height),
            scale=(self.scale[0] * across, self.scale[1] * down),
            offset=(self.offset[0] * across, self.offset[1] * down),
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> "View":
        """After a crop that begins at (left, top); what of it lies outside is padding."""
        moved = replace(self, size=(width, height), offset=(self.offset[0] + left, self.offset[1] + top))
        outer, own = moved.box, self.window
        window = (max(own[0], outer[0]), max(own[1], outer[1]), min(own[2], outer[2]), min(own[3], outer[3]))
        if window[0] >= window[2] or window[1] >= window[3]:
            raise InputError(f"the preprocessing leaves nothing of an image of {_text(self.original)}")
        return replace(moved, window=window)

    def of_copy(self, size: Size) -> "View":
        """The same look at a copy of the image that was resized to (width, height): all lies where it lay."""
        if min(size) < 1:
            raise InputError(f"a copy of an image has at least one pixel, got {_text(size)}")
        across, down = size[0] / self.original[0], size[1] / self.original[1]
        left, top, right, bottom = self.window
        return replace(
            self,
            original=size,
            scale=(self.scale[0] / across, self.scale[1] / down),
            window=(left * across, top * down, right * across, bottom * down),
        )

    def then(self, inner: "View") -> "View":
        """After another look at this one's input, as where a model crops what it is given."""
        scale = self.scale[0] * inner.scale[0], self.scale[1] * inner.scale[1]
        offset = tuple(o * s + i for o, s, i in zip(self.offset, inner.scale, inner.offset, strict=True))
        seen = [(edge + self.offset[i % 2]) / self.scale[i % 2] for i, edge in enumerate(inner.window)]
        own = self.window
        window = (max(own[0], seen[0]), max(own[1], seen[1]), min(own[2], seen[2]), min(own[3], seen[3]))
        return View(self.original, inner.size, scale, (offset[0], offset[1]), window)

    @property
    def box(self) -> Box:
        """The input's outer edges in pixels of the image; beyond the image where it was padded."""
        (left, top), (across, down) = self.offset, self.scale
        return left / across, top / down, (left + self.size[0]) / across, (top + self.size[1]) / down

    def to_original(self, points: np.ndarray) -> np.ndarray:
        """Pixels of the input, (..., 2) as (x, y), in the image; whole numbers are centres of pixels."""
        return (np.asarray(points) + self.offset + 0.5) / self.scale - 0.5

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Pixels of the image, (..., 2) as (x, y), in the input."""
        return (np.asarray(points) + 0.5) * self.scale - self.offset - 0.5

    def place(self, values: Map, size: Size | None = None, *, smooth: bool = True) -> np.ndarray:
        """What lies on the input, (rows, cols) that divide it evenly, laid on the image.

        Args:
            values: a map, or anything else of (rows, cols).
            size: (width, height) to give the image in, its own by default.
            smooth: bilinear between the centres of the cells; otherwise every pixel has its cell's value.
        Returns:
            float32, (height, width); NaN where the model saw nothing of the image.
        """
        cells = _numbers(values)
        width, height = size or self.original
        left, top, right, bottom = self.box
        xs = (np.arange(width) + 0.5) * self.original[0] / width  # in the image, as edges count
        ys = (np.arange(height) + 0.5) * self.original[1] / height
        across = _weights((xs - left) / (right - left) * cells.shape[1], cells.shape[1], smooth)
        down = _weights((ys - top) / (bottom - top) * cells.shape[0], cells.shape[0], smooth)
        placed = down @ cells @ across.T
        placed[(ys < self.window[1]) | (ys >= self.window[3])] = np.nan
        placed[:, (xs < self.window[0]) | (xs >= self.window[2])] = np.nan
        return placed

    def shows(self) -> np.ndarray:
        """Which pixels of the input show the image, bool (height, width); the others are padding."""
        across, down = self._under()
        return self._within(down, 1)[:, None] & self._within(across, 0)[None, :]

    def take(self, values: np.ndarray) -> np.ndarray:
        """What of an array (height, width) over the image lies under the centre of each pixel of the input."""
        if values.shape != self.original[::-1]:
            raise InputError(f"expected an array over the image, {self.original[::-1]}, got {values.shape}")
        across, down = self._under()
        columns, rows = (
            np.clip(np.floor(edge).astype(int), 0, n - 1) for edge, n in zip((across, down), self.original, strict=True)
        )
        return values[np.ix_(rows, columns)]

    def shares(self, values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """The mean of an array (height, width) over the image, in each cell of a grid (rows, cols) over the input.

        >>> import numpy as np
        >>> from captum_vit.geometry import View
        >>> View.of((4, 2)).shares(np.array([[1, 1, 1, 0], [1, 1, 0, 0]]), (1, 2))
        array([[1.  , 0.25]])

        Of a cell that lies partly beyond the image, that part counts as 0.
        """
        if values.shape != self.original[::-1]:
            raise InputError(f"expected an array over the image, {self.original[::-1]}, got {values.shape}")
        left, top, right, bottom = self.box
        across = _overlaps(left, right, grid[1], self.original[0])
        down = _overlaps(top, bottom, grid[0], self.original[1])
        return down @ values.astype(float) @ across.T  # type: ignore[no-any-return]

    def _under(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the centres of the input's pixels lie in the image, across and down, as edges count."""
        across, down = (
            (np.arange(n) + o + 0.5) / s for n, o, s in zip(self.size, self.offset, self.scale, strict=True)
        )
        return across, down

    def _within(self, places: np.ndarray, axis: int) -> np.ndarray:
        return (places >= self.window[axis]) & (places < self.window[axis + 2])

    def cell_at(self, x: float, y: float, grid: tuple[int, int]) -> tuple[int, int] | None:
        """The (row, column) of a grid over the input that a point of the image lies in; None where nothing was seen."""
        left, top, right, bottom = self.window
        if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
            return None
        column, row = (self.to_input(np.array([x, y])) + 0.5) / self.size * (grid[1], grid[0])
        return min(max(int(row), 0), grid[0] - 1), min(max(int(column), 0), grid[1] - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "View":
        """The view that `to_dict` wrote."""
        return cls(**{name: tuple(numbers[name]) for name in ("original", "size", "scale", "offset", "window")})


def shortest_edge(size: Size, side: int, longest: int | None = None) -> Size:
    """(width, height) resized to a shorter side of `side`, or where the longer one would pass `longest`, to that."""
    short, long = sorted(size)
    new_short, new_long = side, int(side * long / short)
    if longest is not None and new_long > longest:
        new_short, new_long = int(longest * new_short / new_long), longest
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def covered(view: View, layout: Any, input_size: tuple[int, int]) -> View:
    """The view of a model's patches: without what it crops itself, and what is left over beside the last whole one.

    Args:
        view: of the model's input.
        layout: where the model's tokens lie on it, a `TokenLayout`.
        input_size: (height, width) of that input.
    """
    if layout.view is not None:
        view, input_size = view.then(layout.view), layout.view.size[::-1]
    seen = layout.image_size or input_size  # the ViT's owner may have resized
    height = round(layout.grid[-2] * layout.patch[-2] * input_size[0] / seen[-2])
    width = round(layout.grid[-1] * layout.patch[-1] * input_size[1] / seen[-1])
    return view if (width, height) == view.size else view.cropped(0, 0, width, height)


def _overlaps(start: float, end: float, cells: int, pixels: int) -> np.ndarray:
    """What share of each of some cells in a row lies in each pixel, (cells, pixels)."""
    edges = start + (end - start) * np.arange(cells + 1) / cells
    inner = np.minimum(edges[1:, None], np.arange(1, pixels + 1)) - np.maximum(edges[:-1, None], np.arange(pixels))
    return np.clip(inner, 0, None) * cells / (end - start)


def _weights(positions: np.ndarray, count: int, smooth: bool) -> np.ndarray:
    """What each of `count` cells in a row gives to each position on it, (positions, count); the edges go on."""
    weights = np.zeros((len(positions), count), np.float32)
    every = np.arange(len(positions))
    if not smooth:
        weights[every, np.clip(np.floor(positions).astype(int), 0, count - 1)] = 1
        return weights
    centred = np.clip(positions - 0.5, 0, count - 1)
    low = np.minimum(centred.astype(int), max(count - 2, 0))
    share = (centred - low).astype(np.float32)
    weights[every, low] = 1 - share
    weights[every, np.minimum(low + 1, count - 1)] += share
    return weights


def _numbers(values: Map) -> np.ndarray:
    cells = torch.as_tensor(values).detach().float().cpu().numpy()
    if cells.ndim != 2 or not cells.size:
        raise InputError(f"expected one map of shape (rows, cols), got {cells.shape}")
    if not math.isfinite(float(cells.sum(dtype=np.float64))):
        raise InputError("the map holds NaN or infinite values: the model's weights or its input do")
    return cells


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
