"""From a map to the region that it shows: enlarged, normalised, binarised, boxed."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import OptionError, brief
from .base import blank, finite

Threshold = float | Literal["mean"]


def normalise(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """Each map between its own minimum 0 and maximum 1, (N, H, W) in float64.

    A constant map is 0 everywhere; one with NaN or infinite values is NaN everywhere. Where `valid` is False, the
    map is 0 and has no part in the extremes.
    """
    maps, bad = finite(maps.double())
    seen = torch.ones_like(maps, dtype=torch.bool) if valid is None else valid
    low = maps.masked_fill(~seen, torch.inf).amin((1, 2), keepdim=True)
    high = maps.masked_fill(~seen, -torch.inf).amax((1, 2), keepdim=True)
    span = high - low
    scaled = torch.where(seen & (span > 0), (maps - low) / span, 0.0)
    return blank(scaled, bad)


def binarise(maps: Tensor, threshold: Threshold = 0.5, valid: Tensor | None = None) -> Tensor:
    """Where the min-max normalised map is greater than the threshold, (N, H, W) bool.

    Args:
        maps: (N, H, W).
        threshold: a number in [0, 1), or "mean" for the mean of each normalised map over its valid pixels.
        valid: (N, H, W), bool.
    Raises:
        OptionError: another threshold.
    """
    scaled = normalise(maps, valid)
    if threshold == "mean":
        count = scaled[0].numel() if valid is None else valid.sum((1, 2)).view(-1, 1, 1)
        return scaled > scaled.sum((1, 2), keepdim=True) / count
    if isinstance(threshold, str) or not 0 <= threshold < 1:
        raise OptionError(f"threshold must be a number in [0, 1) or 'mean', got {brief(threshold)}")
    return scaled > threshold


def boxes_of(binary: Tensor) -> list[Tensor]:
    """The bounding rectangle of every connected component (8 neighbours) of each image.

    Args:
        binary: (N, H, W), bool.
    Returns:
        For each image (n, 4), int64: left, top, right, bottom, where right and bottom are the first pixel beyond.
    """
    from scipy import ndimage

    plane = torch.zeros(3, 3, 3, dtype=torch.bool)
    plane[1] = True  # neighbours lie in the same image
    labels, _ = ndimage.label(binary.cpu().numpy(), plane.numpy())
    found: list[list[tuple[int, ...]]] = [[] for _ in binary]
    for image, rows, columns in ndimage.find_objects(labels):
        found[image.start].append((columns.start, rows.start, columns.stop, rows.stop))
    return [torch.tensor(boxes, dtype=torch.int64, device=binary.device).view(-1, 4) for boxes in found]


def fill_boxes(boxes: Sequence[Tensor], size: tuple[int, int], *, inclusive: bool = False) -> Tensor:
    """The union of each image's boxes, (N, H, W) bool.

    Args:
        boxes: for each image (n, 4), left, top, right, bottom; fractions of pixels are cut off (`int`).
        size: (H, W); what lies beyond is cut off.
        inclusive: whether the column `right` and the row `bottom` are filled too.
    """
    height, width = size
    device = boxes[0].device if len(boxes) else None
    corners = torch.zeros(len(boxes), height + 1, width + 1, dtype=torch.int32, device=device)
    image = torch.cat([torch.full((len(b),), n, device=device) for n, b in enumerate(boxes)]) if len(boxes) else None
    if image is not None and len(image):
        left, top, right, bottom = torch.cat([b.view(-1, 4) for b in boxes]).long().unbind(1)
        left, right = left.clamp(0, width), (right + inclusive).clamp(0, width)
        top, bottom = top.clamp(0, height), (bottom + inclusive).clamp(0, height)
        right, bottom = torch.maximum(left, right), torch.maximum(top, bottom)
        for row, column, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
            corners.index_put_((image, row, column), torch.full_like(row, sign, dtype=torch.int32), accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, :height, :width] > 0  # how many boxes cover a pixel
