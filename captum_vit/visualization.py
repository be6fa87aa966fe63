"""Maps as pictures: pure functions on tensors, arrays and PIL images."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import InputError, OptionError

CMAP = "plasma"  # even steps, and its lowest colour is a clear blue: no evidence still looks coloured
ALPHA = 0.6

Map = Tensor | np.ndarray  # (rows, cols)
Box = tuple[float, float, float, float]  # left, top, right, bottom
Cell = tuple[str, Image.Image] | None  # title and picture


def heatmap(grid: Map, size: tuple[int, int], *, cmap: str = CMAP) -> Image.Image:
    """A map (rows, cols) in colours, its least value to its greatest, enlarged to `size` (width, height) as RGB.

    A map that is the same everywhere is drawn in the lowest colour.

    Raises:
        InputError: not one map, or NaN or infinite values in it.
        OptionError: matplotlib has no such colour map.
    """
    values = _normalised(grid)
    return _coloured(values, size, (0, 0, values.width, values.height), cmap)


def overlay(
    image: Image.Image, grid: Map, box: Box | None = None, *, alpha: float = ALPHA, cmap: str = CMAP
) -> Image.Image:
    """A map (rows, cols) drawn over the part of an image that the model saw, the image itself in grey.

    Args:
        image: the original image.
        grid: its map.
        box: what the model saw, (left, top, right, bottom) in pixels of `image`, the map's outer edges; it may reach
            beyond the image where the model saw padding. None for all of it.
        alpha: opacity of the colours, 0 to 1.
        cmap: name of a matplotlib colour map.
    Returns:
        RGB of the image's size. Pixels that the model never saw stay grey and pale, which no colour of the map is.
    Raises:
        InputError, OptionError: as `heatmap`; or the box lies outside the image.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be between 0 and 1, got {alpha}")
    values = _normalised(grid)
    left, top, right, bottom = (0, 0, *image.size) if box is None else box
    x0, x1 = _pixels(left, right, image.width)
    y0, y1 = _pixels(top, bottom, image.height)
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"the box {box} holds no pixel of the image, which is {image.width}x{image.height}")
    across, down = values.width / (right - left), values.height / (bottom - top)
    part = ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down)
    colours = _coloured(values, (x1 - x0, y1 - y0), part, cmap)
    grey = image.convert("L")
    drawn = grey.point(lambda value: 110 + value // 3).convert("RGB")  # flat and light: what was not seen
    drawn.paste(Image.blend(grey.crop((x0, y0, x1, y1)).convert("RGB"), colours, alpha), (x0, y0))
    return drawn


def flow_display(flow: Tensor, *, size: tuple[int, int] | None = None, block_norm: bool = False) -> Tensor:
    """A flow the way DAAM's authors publish it, so that early and faint blocks can be seen beside the last.

    The flow is divided by the maximum of its last slice, sent through sigmoid(5x) - 1/2, and each slice is stretched
    to 0..255.

    Args:
        flow: what `attribute_flow` gives, (N, L, rows, cols), a sum that grows from slice to slice.
        size: (height, width) to enlarge to, bilinear.
        block_norm: stretch what each block adds to 0..1 before summing.
    Returns:
        uint8, (N, L, rows, cols) or (N, L, height, width).
    Source: the program of "Dynamic Accumulated Attention Map" (arXiv:2503.14640).
    """
    if flow.dim() != 4:
        raise InputError(f"expected a flow of shape (N, L, rows, cols), got {tuple(flow.shape)}")
    flow = flow.detach().float()
    if block_norm:
        blocks = torch.cat([flow[:, :1], flow.diff(dim=1)], 1)
        flow = _stretched(blocks).cumsum(1)
    last = flow[:, -1:].amax((2, 3), keepdim=True)
    shown = _stretched(torch.sigmoid(5 * flow / last.where(last > 0, 1)) - 0.5)
    if size is not None:
        shown = F.interpolate(shown, size, mode="bilinear", align_corners=False)
    return (255 * shown).to(torch.uint8)


def sheet(rows: Sequence[Sequence[Cell]], *, side: int = 320) -> Image.Image:
    """Titled pictures in rows, a None leaving its place empty.

    Args:
        rows: cells as (title, picture); titles are drawn as they are, shortened to the picture's width.
        side: longest side of a picture on the sheet, in pixels.
    Returns:
        RGB, white where nothing stands.
    """
    shown = [[cell and (cell[0], _fitted(cell[1], side)) for cell in row] for row in rows]
    pictures = [cell[1] for row in shown for cell in row if cell]
    if not pictures:
        raise InputError("a sheet needs at least one picture")
    font, gap = _font(max(12, side // 20)), max(4, side // 24)
    line = round(1.6 * font.size)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = max(map(len, shown))
    drawn = Image.new("RGB", (gap + columns * (width + gap), gap + len(shown) * (line + height + gap)), "white")
    pen = ImageDraw.Draw(drawn)
    for i, row in enumerate(shown):
        for j, cell in enumerate(row):
            if cell is not None:
                x, y = gap + j * (width + gap), gap + i * (line + height + gap)
                pen.text((x, y + line // 2), _shortened(cell[0], font, width), "black", font, anchor="lm")
                drawn.paste(cell[1], (x, y + line))
    return drawn


def _normalised(grid: Map) -> Image.Image:
    """The map stretched to 0..1, as an image of floats."""
    values = torch.as_tensor(grid).detach().float().cpu()
    if values.dim() != 2 or not values.numel():
        raise InputError(f"expected one map of shape (rows, cols), got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise InputError("the map holds NaN or infinite values: the model's weights or its input do")
    return Image.fromarray(_stretched(values[None, None])[0, 0].numpy())


def _stretched(maps: Tensor) -> Tensor:
    """Each map of (N, L, rows, cols) to 0..1; a constant one to 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


def _pixels(start: float, end: float, limit: int) -> tuple[int, int]:
    """First and last + 1 of the pixels whose centre lies between two edges."""
    return max(0, math.ceil(start - 0.5)), min(limit, math.ceil(end - 0.5))


def _coloured(values: Image.Image, size: tuple[int, int], part: Box, cmap: str) -> Image.Image:
    """The `part` of a map of 0..1 enlarged to `size` and coloured."""
    part = (max(part[0], 0), max(part[1], 0), min(part[2], values.width), min(part[3], values.height))
    enlarged = values.resize(size, Image.Resampling.BILINEAR, part)
    levels = enlarged.point(lambda value: value * 255 + 0.5).convert("L")
    levels.putpalette(_palette(cmap))
    return levels.convert("RGB")


@cache
def _palette(cmap: str) -> bytes:
    if cmap not in matplotlib.colormaps:
        raise OptionError(f"matplotlib has no colour map {cmap!r}; perceptually even ones: plasma, viridis, cividis")
    return matplotlib.colormaps[cmap](np.arange(256), bytes=True)[:, :3].tobytes()


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line that fits."""
    text = " ".join(text[:200].split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
