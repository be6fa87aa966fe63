"""Pixels that a mask is given, and those of an output that show the image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, TargetError, brief
from .base import Sight

CLEARLY = 4 / 3  # times, by which pixels of an output may be longer one way than the other


def checked(pixels: Any) -> Tensor:
    """An array of true and false, or of 0 and 1, as floats (H, W)."""
    told = f"pixels are an array (H, W) of true and false, or of 0 and 1, None or 'peak', got {brief(pixels)}"
    if not isinstance(pixels, (np.ndarray, Tensor)) or pixels.ndim != 2:
        raise OptionError(told)
    found = torch.as_tensor(pixels).detach().cpu().to(torch.float64, copy=True)
    if not bool(((found == 0) | (found == 1)).all()):
        raise OptionError(f"{told}: other numbers are in it")
    if not bool(found.any()):
        raise TargetError("the mask is empty: no pixel of it is true")
    return found


def shown(plane: Tensor, sight: Sight | None) -> Tensor:
    """Which pixels of the output show the image, (h, w) of 0 and 1: others lie on padding."""
    grid = (plane.shape[1], plane.shape[2])
    if sight is None:
        return plane.new_ones(grid)
    view = sight.of(grid)
    shares = view.shares(np.ones(view.original[::-1]), grid)
    return torch.from_numpy(shares > 1e-9).to(plane)


def check_classes_first(scores: Tensor, sight: Sight) -> None:
    """Raise TargetError where (N, h, w, classes) would be read as (N, classes, h, w): the image has such sides."""
    if scores.dim() != 4:
        return
    first, second, third = scores.shape[1:]
    width, height = sight.input.size
    off = second * width / (third * height)
    if first * width == second * height and not 1 / CLEARLY < off < CLEARLY:
        raise TargetError(
            f"a mask asks for scores (N, classes, h, w), and {tuple(scores.shape)} has the proportions of the image, "
            f"{height}x{width}, in the second and third axis, as where classes come last: wrap the model so that it "
            f"gives scores.movedim(-1, 1)"
        )
