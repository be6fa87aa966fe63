"""Maps as pictures: pure functions on tensors, arrays and PIL images. What their colours mean is said in `colours`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .colours import LOOK, Look, Scale, check_look
from .errors import InputError, OptionError
from .geometry import Map, Size, View
from .marks import Mark
from .names import printable
from .pixels import to_rgb

LINE = 200  # lines are a pixel wide for so many of the picture's longer side
STRIPE, DARKER = 6, 32  # stripes of what was not seen: one in so many lines, and by how much darker

Cell = tuple[str, Image.Image] | None  # title and picture


def heatmap(
    grid: Map,
    size: tuple[int, int] | None = None,
    view: View | None = None,
    look: Look = LOOK,
    *,
    smooth: bool = True,
    scale: Scale | None = None,
) -> Image.Image:
    """A map (rows, cols) in colours as a layer for the image, RGBA, transparent where the model saw nothing.

    A map without values below 0 goes through the colours from its least value to its greatest. One with two signs is
    drawn in two colours around 0: orange is evidence for, blue is evidence against, dark grey is neither, and equally
    far from 0 is equally bright. One that is nearly flat stays in the lower colours (see `Scale.of`).

    >>> from PIL import Image
    >>> from captum_vit.visualization import heatmap
    >>> shown = Image.alpha_composite(photo.convert("RGBA"), heatmap(explanation.maps[0, 0], photo.size))

    Args:
        grid: the map.
        size: (width, height) of the picture; by default that of the image that `view` belongs to.
        view: how the model looked at the image; None if it saw all of it, squashed to its input.
        look: colours, opacity, threshold and contour.
        smooth: bilinear between the patches; otherwise each patch is a rectangle.
        scale: what the colours stand for, where that is not for the map alone to say.
    Raises:
        InputError: not one map (as of a video), NaN or infinite values in it, or neither size nor view.
    """
    levels, seen, signed = _levels(grid, size, view, look, smooth, scale)
    return _layer(levels, seen, look, signed)


def overlay(
    image: Image.Image,
    grid: Map,
    view: View | None = None,
    look: Look = LOOK,
    *,
    smooth: bool = True,
    scale: Scale | None = None,
    marks: Sequence[Mark] = (),
) -> Image.Image:
    """A map (rows, cols) drawn over the part of an image that the model saw, the image itself in grey.

    Args:
        image: the original, or a smaller copy of it, in any mode.
        grid, view, look, smooth, scale: as for `heatmap`.
        marks: what was asked about, as lines over it, in pixels of the image that `view` belongs to.
    Returns:
        RGB of the image's size. Pixels that the model never saw are grey and pale, with fine stripes.
    Raises:
        InputError: as `heatmap`.
    """
    image = to_rgb(image).image
    levels, seen, signed = _levels(grid, image.size, view, look, smooth, scale)
    layer, grey = _layer(levels, seen, look, signed), image.convert("L")
    drawn = Image.composite(layer.convert("RGB"), grey.convert("RGB"), layer.getchannel("A"))
    if not seen.all():
        unseen = Image.fromarray(_hatched(np.asarray(grey))).convert("RGB")
        drawn = Image.composite(drawn, unseen, Image.fromarray(seen.astype(np.uint8) * 255))
    return _marked(drawn, marks, view.original if view else image.size)


def _marked(drawn: Image.Image, marks: Sequence[Mark], original: Size) -> Image.Image:
    """A picture with marks over it, given in pixels of the original: white lines on wider black ones."""
    width, (across, down) = _line(drawn.size), (drawn.width / original[0], drawn.height / original[1])
    pen = ImageDraw.Draw(drawn)
    for colour, wide in (("black", width + 2 * ((width + 1) // 2)), ("white", width)):
        for ring in (ring for mark in marks for ring in mark.scaled(across, down).rings(drawn.size)):
            pen.line([*ring, *ring[:2]], colour, wide, joint="curve")
    return drawn


def _hatched(grey: np.ndarray) -> np.ndarray:
    """Greys as they look where the model saw nothing: flat, light, with fine stripes, as no photograph is."""
    diagonals = np.add.outer(np.arange(grey.shape[0]), np.arange(grey.shape[1]))
    stripes = diagonals // _line(grey.shape) % STRIPE == 0
    return (160 + grey // 4 - DARKER * stripes).astype(np.uint8)


def _line(shape: tuple[int, ...]) -> int:
    """How many pixels wide lines are on a picture of this height and width."""
    return int(max(shape) / LINE + 0.5) or 1


def _levels(
    grid: Map, size: tuple[int, int] | None, view: View | None, look: Look, smooth: bool, scale: Scale | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Of each pixel its level, and whether the model saw it; and whether the levels are of two signs."""
    check_look(look)
    if view is None:
        if size is None:
            raise InputError("a heat map needs the size of its picture, or a view")
        view = View.of(size)
    if len(grid.shape) == 3:
        raise InputError(f"expected one map of shape (rows, cols), got {tuple(grid.shape)}: draw its slices one by one")
    placed = view.place(grid, size, smooth=smooth)
    seen = np.isfinite(placed)
    scale = scale or look.spanning(grid, [grid])
    return scale.levels(np.where(seen, placed, scale.low)), seen, scale.signed


def _layer(levels: np.ndarray, seen: np.ndarray, look: Look, signed: bool) -> Image.Image:
    """Levels in colours, RGBA, with the contour in white, edged with black."""
    table, inside = look.table(signed), look.inside(signed)
    drawn = Image.fromarray(levels)
    drawn.putpalette(table[:, :3].tobytes())  # five times as fast as numpy's look-up
    layer, opacity = drawn.convert("RGB"), Image.fromarray(levels).point(table[:, 3].tolist())
    if not seen.all():
        opacity = Image.composite(opacity, Image.new("L", opacity.size), Image.fromarray(seen.astype(np.uint8) * 255))
    layer.putalpha(opacity)
    if inside is not None:
        marked = inside[levels] & seen
        for part, colour in ((~marked, "black"), (marked, "white")):
            line = part & seen & _beside(~part & seen, _line(levels.shape))
            layer.paste(colour, mask=Image.fromarray(line.astype(np.uint8) * 255))
    return layer


def _beside(part: np.ndarray, steps: int) -> np.ndarray:
    """Which pixels have one of `part` so many steps to the left, right, above or below."""
    found = np.zeros_like(part)
    found[:, steps:] |= part[:, :-steps]
    found[:, :-steps] |= part[:, steps:]
    found[steps:] |= part[:-steps]
    found[:-steps] |= part[steps:]
    return found


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
        rows: cells as (title, picture); each line of a title is drawn as it is, shortened to the picture's width.
        side: longest side of a picture on the sheet, in pixels.
    Returns:
        RGB, white where nothing stands.
    """
    shown = [[cell and (cell[0], fitted(cell[1], side)) for cell in row] for row in rows]
    pictures = [cell[1] for row in shown for cell in row if cell]
    if not pictures:
        raise InputError("a sheet needs at least one picture")
    font, gap = typeface(max(12, side // 20)), max(4, side // 24)
    line, lines = round(1.6 * font.size), max(len(cell[0].splitlines()) for row in shown for cell in row if cell)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = max(map(len, shown))
    head = max(lines, 1) * line
    drawn = Image.new("RGB", (gap + columns * (width + gap), gap + len(shown) * (head + height + gap)), "white")
    pen = ImageDraw.Draw(drawn)
    for i, row in enumerate(shown):
        for j, cell in enumerate(row):
            if cell is not None:
                x, y = gap + j * (width + gap), gap + i * (head + height + gap)
                for k, text in enumerate(cell[0].splitlines()):
                    pen.text((x, y + k * line + line // 2), shortened(text, font, width), "black", font, anchor="lm")
                drawn.paste(cell[1], (x, y + head))
    return drawn


def _stretched(maps: Tensor) -> Tensor:
    """Each map of (N, L, rows, cols) to 0..1; a constant one to 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


def _scaled(maps: Tensor) -> Tensor:
    """Each map of (N, L, rows, cols) to -1..1, 0 staying 0."""
    largest = maps.abs().amax((2, 3), keepdim=True)
    return maps / largest.where(largest > 0, 1)


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
