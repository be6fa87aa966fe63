"""Maps as pictures: pure functions on tensors, arrays and PIL images."""

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
from .geometry import Map, View

CMAP = "plasma"  # even steps, and its lowest colour is a clear blue: no evidence still looks coloured
ALPHA = 0.6

Cell = tuple[str, Image.Image] | None  # title and picture


def heatmap(
    grid: Map,
    size: tuple[int, int] | None = None,
    view: View | None = None,
    *,
    cmap: str = CMAP,
    smooth: bool = True,
    span: tuple[float, float] | None = None,
) -> Image.Image:
    """A map (rows, cols) in colours as a layer for the image, RGBA, transparent where the model saw nothing.

    Args:
        grid: the map, its least value in the lowest colour, its greatest in the highest; one that is the same
            everywhere in the lowest.
        size: (width, height) of the picture; by default that of the image that `view` belongs to.
        view: how the model looked at the image; None if it saw all of it, squashed to its input.
        cmap: name of a matplotlib colour map.
        smooth: bilinear between the patches; otherwise each patch is a rectangle.
        span: (low, high), the values of the lowest and the highest colour instead of the map's own.
    Raises:
        InputError: not one map, NaN or infinite values in it, or neither size nor view.
        OptionError: matplotlib has no such colour map.
    """
    if view is None:
        if size is None:
            raise InputError("a heat map needs the size of its picture, or a view")
        view = View.of(size)
    placed = view.place(grid, size, smooth=smooth)
    seen = np.isfinite(placed)
    low, high = span or (float(torch.as_tensor(grid).min()), float(torch.as_tensor(grid).max()))
    levels = np.where(seen, placed - low, 0) / ((high - low) if high > low else np.inf)
    colours = palette(cmap)[(255 * levels.clip(0, 1) + 0.5).astype(np.uint8)]  # (height, width, 3)
    return Image.fromarray(np.dstack([colours, np.where(seen, 255, 0).astype(np.uint8)]))


def overlay(
    image: Image.Image,
    grid: Map,
    view: View | None = None,
    *,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    smooth: bool = True,
    span: tuple[float, float] | None = None,
) -> Image.Image:
    """A map (rows, cols) drawn over the part of an image that the model saw, the image itself in grey.

    Args:
        image: the original, or a smaller copy of it.
        alpha: opacity of the colours, 0 to 1.
        grid, view, cmap, smooth, span: as for `heatmap`.
    Returns:
        RGB of the image's size. Pixels that the model never saw stay grey and pale, which no colour of the map is.
    Raises:
        InputError, OptionError: as `heatmap`.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be between 0 and 1, got {alpha}")
    layer = heatmap(grid, image.size, view, cmap=cmap, smooth=smooth, span=span)
    grey = image.convert("L")
    pale = grey.point(lambda value: 110 + value // 3).convert("RGB")  # flat and light: what was not seen
    drawn = Image.blend(grey.convert("RGB"), layer.convert("RGB"), alpha)
    return Image.composite(drawn, pale, layer.getchannel("A"))


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
    shown = [[cell and (cell[0], fitted(cell[1], side)) for cell in row] for row in rows]
    pictures = [cell[1] for row in shown for cell in row if cell]
    if not pictures:
        raise InputError("a sheet needs at least one picture")
    font, gap = typeface(max(12, side // 20)), max(4, side // 24)
    line = round(1.6 * font.size)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = max(map(len, shown))
    drawn = Image.new("RGB", (gap + columns * (width + gap), gap + len(shown) * (line + height + gap)), "white")
    pen = ImageDraw.Draw(drawn)
    for i, row in enumerate(shown):
        for j, cell in enumerate(row):
            if cell is not None:
                x, y = gap + j * (width + gap), gap + i * (line + height + gap)
                pen.text((x, y + line // 2), shortened(cell[0], font, width), "black", font, anchor="lm")
                drawn.paste(cell[1], (x, y + line))
    return drawn


def _stretched(maps: Tensor) -> Tensor:
    """Each map of (N, L, rows, cols) to 0..1; a constant one to 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


@cache
def palette(cmap: str) -> np.ndarray:
    """The 256 colours of a matplotlib colour map, uint8 (256, 3).

    Raises:
        OptionError: there is no such map.
    """
    if cmap not in matplotlib.colormaps:
        raise OptionError(f"matplotlib has no colour map {cmap!r}; perceptually even ones: plasma, viridis, cividis")
    return matplotlib.colormaps[cmap](np.linspace(0, 1, 256), bytes=True)[:, :3]


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image as RGB, enlarged or reduced to a longest side of so many pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@cache
def typeface(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, so many pixels high."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line that fits."""
    text = " ".join(text[:200].split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


SPANS = {"daam": (0.0, 255.0), "own": None}


DISPLAYS = ("daam", "own")


def displayed(flow: Tensor, display: str = "daam") -> Tensor:
    """A flow (layers, rows, cols) as it is drawn.

    Raises:
        OptionError: no such display.
    """
    if display not in DISPLAYS:
        raise OptionError(f"display must be one of {', '.join(DISPLAYS)}, got {display!r}")
    return flow_display(flow.unsqueeze(0))[0] if display == "daam" else flow


def thinned(length: int, count: int | None) -> list[int]:
    """At most `count` positions at even distance, first and last among them; one alone is the last."""
    if count is not None and count < 1:
        raise OptionError(f"count must be at least 1, got {count}")
    if count is None or count >= length:
        return list(range(length))
    if count == 1:
        return [length - 1]
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]
