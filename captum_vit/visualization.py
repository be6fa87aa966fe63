"""Maps as pictures: pure functions on tensors, arrays and PIL images."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .checking import check_number
from .errors import InputError, OptionError, brief
from .geometry import Map, View
from .names import printable
from .pixels import to_rgb

# At even steps of OKLab from blue over dark grey to orange; both ends have a lightness of 0.79.
_BLUE = ((78, 202, 255), (75, 159, 197), (68, 119, 142), (58, 80, 91))
_ORANGE = ((92, 73, 52), (143, 103, 56), (198, 134, 53), (255, 166, 38))
_BLUE_ORANGE = (*_BLUE, (44, 44, 44), *_ORANGE)

CMAP = "plasma"  # even steps, and its lowest colour is a clear blue: no evidence still looks coloured
SIGNED_CMAP = "blue-orange"  # of this library: bright on both sides of a dark grey, see `palette`
SIGNS = "orange for, blue against"
ALPHA = 0.6
ROUNDING = 1e-6  # of the greatest value, that a map without a sign may fall below 0

Cell = tuple[str, Image.Image] | None  # title and picture
Span = tuple[float, float]  # values of the lowest and of the highest colour


def heatmap(
    grid: Map,
    size: tuple[int, int] | None = None,
    view: View | None = None,
    *,
    cmap: str | None = None,
    smooth: bool = True,
    span: Span | None = None,
    signed: bool | None = None,
) -> Image.Image:
    """A map (rows, cols) in colours as a layer for the image, RGBA, transparent where the model saw nothing.

    A map without values below 0 goes through the colours from its least value to its greatest. One with two signs is
    drawn in two colours around 0: orange is evidence for, blue is evidence against, dark grey is neither, and equally
    far from 0 is equally bright.

    Args:
        grid: the map. One that is the same everywhere has the lowest colour; with two signs, 0 everywhere is grey.
        size: (width, height) of the picture; by default that of the image that `view` belongs to.
        view: how the model looked at the image; None if it saw all of it, squashed to its input.
        cmap: name of a matplotlib colour map; None takes plasma, or for two signs `palette`'s "blue-orange".
        smooth: bilinear between the patches; otherwise each patch is a rectangle.
        span: (low, high), the values of the lowest and the highest colour instead of the map's own; with two signs
            both sides of 0 reach as far as the longer of them.
        signed: whether the map has two signs; None decides by whether there are values below 0.
    Raises:
        InputError: not one map (as of a video), NaN or infinite values in it, or neither size nor view.
        OptionError: matplotlib has no such colour map.
    """
    if view is None:
        if size is None:
            raise InputError("a heat map needs the size of its picture, or a view")
        view = View.of(size)
    if len(grid.shape) == 3:
        raise InputError(f"expected one map of shape (rows, cols), got {tuple(grid.shape)}: draw its slices one by one")
    placed = view.place(grid, size, smooth=smooth)
    seen = np.isfinite(placed)
    signed = two_signs(grid) if signed is None else signed
    low, high = span_of([grid], signed) if span is None else colour_span(span, signed)
    levels = np.where(seen, placed - low, 0) / ((high - low) if high > low else np.inf)
    if signed and not high > low:
        levels += 0.5
    drawn = Image.fromarray((255 * levels.clip(0, 1) + 0.5).astype(np.uint8))
    drawn.putpalette(palette(cmap_for(signed, cmap)).tobytes())  # five times as fast as numpy's look-up
    layer = drawn.convert("RGB")
    layer.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    return layer


def overlay(
    image: Image.Image,
    grid: Map,
    view: View | None = None,
    *,
    alpha: float = ALPHA,
    cmap: str | None = None,
    smooth: bool = True,
    span: Span | None = None,
    signed: bool | None = None,
) -> Image.Image:
    """A map (rows, cols) drawn over the part of an image that the model saw, the image itself in grey.

    Args:
        image: the original, or a smaller copy of it, in any mode.
        alpha: opacity of the colours, 0 to 1.
        grid, view, cmap, smooth, span, signed: as for `heatmap`.
    Returns:
        RGB of the image's size. Pixels that the model never saw stay grey and pale, which no colour of the map is:
        where a map of two signs is 0, the image is grey and dark.
    Raises:
        InputError, OptionError: as `heatmap`.
    """
    check_number("alpha", alpha, 0, 1)
    image = to_rgb(image).image
    layer = heatmap(grid, image.size, view, cmap=cmap, smooth=smooth, span=span, signed=signed)
    grey = image.convert("L")
    pale = grey.point(lambda value: 110 + value // 3).convert("RGB")  # flat and light: what was not seen
    drawn = Image.blend(grey.convert("RGB"), layer.convert("RGB"), alpha)
    return Image.composite(drawn, pale, layer.getchannel("A"))


def flow_display(
    flow: Tensor, *, size: tuple[int, int] | None = None, block_norm: bool = False, signed: bool = False
) -> Tensor:
    """A flow the way DAAM's authors publish it, so that early and faint blocks can be seen beside the last.

    The flow is divided by the maximum of its last slice, sent through sigmoid(5x) - 1/2, and each slice is stretched
    to 0..255.

    Their program knows sums that grow. Where there is evidence against, a slice that is stretched from its least to
    its greatest value puts 0 anywhere. With `signed` the same curve, which treats both signs alike, is scaled by
    magnitudes: the flow by the greatest of its last slice, each slice by its own greatest, and 0 stays in the middle.

    Args:
        flow: what `attribute_flow` gives, (N, L, rows, cols), a sum that grows from slice to slice.
        size: (height, width) to enlarge to, bilinear.
        block_norm: stretch what each block adds to 0..1 before summing; with `signed`, to -1..1.
        signed: whether values below 0 are evidence against.
    Returns:
        uint8, (N, L, rows, cols) or (N, L, height, width); with `signed`, 128 stands for 0.
    Source: the program of "Dynamic Accumulated Attention Map" (arXiv:2503.14640).
    """
    if flow.dim() != 4:
        raise InputError(
            f"expected a flow of shape (N, L, rows, cols), got {tuple(flow.shape)}: a video's flow is not drawn"
        )
    flow = flow.detach().float()
    stretched = _scaled if signed else _stretched
    if block_norm:
        blocks = torch.cat([flow[:, :1], flow.diff(dim=1)], 1)
        flow = stretched(blocks).cumsum(1)
    last = (flow.abs() if signed else flow)[:, -1:].amax((2, 3), keepdim=True)
    shown = stretched(torch.sigmoid(5 * flow / last.where(last > 0, 1)) - 0.5)
    if size is not None:
        shown = F.interpolate(shown, size, mode="bilinear", align_corners=False)
    return (127 * shown + 128.5 if signed else 255 * shown).to(torch.uint8)


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


def _scaled(maps: Tensor) -> Tensor:
    """Each map of (N, L, rows, cols) to -1..1, 0 staying 0."""
    largest = maps.abs().amax((2, 3), keepdim=True)
    return maps / largest.where(largest > 0, 1)


def two_signs(values: Map) -> bool:
    """Whether there is evidence against in a map: a value below 0, by more than rounding."""
    low, high = (float(end) for end in torch.as_tensor(values).aminmax())
    return -low > ROUNDING * abs(high)


def colour_span(span: Span, signed: bool) -> Span:
    """What the lowest and the highest colour stand for: with two signs, values as far below 0 as above."""
    largest = max(map(abs, span))
    return (0 - largest, largest) if signed else span


def span_of(maps: Iterable[Map], signed: bool) -> Span:
    """The values of the lowest and the highest colour for maps that share one scale."""
    ends = [torch.as_tensor(m).aminmax() for m in maps]
    return colour_span((min(float(low) for low, _ in ends), max(float(high) for _, high in ends)), signed)


def cmap_for(signed: bool, cmap: str | None = None) -> str:
    """The colour map that was asked for, or the one that suits."""
    if cmap is not None and not isinstance(cmap, str):
        raise OptionError(f"a colour map is a name of matplotlib's, as {CMAP!r}, got {brief(cmap)}")
    return cmap or (SIGNED_CMAP if signed else CMAP)


@cache
def palette(cmap: str) -> np.ndarray:
    """The 256 colours of a colour map, uint8 (256, 3).

    Beside matplotlib's there is "blue-orange" for maps with two signs. It is dark grey in the middle, so that the
    photograph stays readable where there is no evidence and differs from the pale part that the model never saw; both
    arms are even steps of OKLab to one brightness, in hues that colour-blind people tell apart.

    Raises:
        OptionError: there is no such map.
    """
    if cmap == SIGNED_CMAP:
        places = (np.arange(256) - 128) / 127  # -1..1, and colour 128 is 0
        stops = np.linspace(-1, 1, len(_BLUE_ORANGE))
        return np.stack([np.interp(places, stops, c) for c in zip(*_BLUE_ORANGE, strict=True)], 1).round().astype("u1")
    if cmap not in matplotlib.colormaps:
        raise OptionError(
            f"matplotlib has no colour map {brief(cmap)}; perceptually even ones: plasma, viridis, cividis"
        )
    return matplotlib.colormaps[cmap](np.linspace(0, 1, 256), bytes=True)[:, :3]


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image as RGB, enlarged or reduced to a longest side of so many pixels."""
    image = to_rgb(image).image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


@cache
def typeface(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, so many pixels high."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text on one line, cut with "…" to fit in so many pixels."""
    text = printable(" ".join(text[:200].split()))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


DISPLAYS = ("daam", "own")


def displayed(flow: Tensor, display: str = "daam", *, signed: bool = False) -> tuple[Tensor, Span | None]:
    """A flow (layers, rows, cols) as it is drawn, and the span of its colours, None where each slice has its own.

    Args:
        display: "daam", see `flow_display`, or "own", each slice in its own scale.
        signed: whether values below 0 are evidence against.
    Raises:
        OptionError: no such display.
    """
    if display not in DISPLAYS:
        raise OptionError(f"display must be one of {', '.join(DISPLAYS)}, got {brief(display)}")
    if display == "own":
        return flow, None
    shown = flow_display(flow.unsqueeze(0), signed=signed)[0]
    return (shown.float() - 128, (-127.0, 127.0)) if signed else (shown, (0.0, 255.0))


def thinned(length: int, count: int | None) -> list[int]:
    """Positions in a row of `length`: at most `count`, evenly spaced, the first and the last among them.

    A single one is the last.
    """
    if count is not None and count < 1:
        raise OptionError(f"count must be at least 1, got {count}")
    if count is None or count >= length:
        return list(range(length))
    if count == 1:
        return [length - 1]
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]
