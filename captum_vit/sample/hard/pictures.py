"""The photographs that scenes are made of, and how they are laid onto a scene of any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

FOLDER = Path(__file__).with_name("pictures")
CUTOUTS = ("astronaut", "cat", "clock", "cup", "rocket", "shuttle")
GROUNDS = ("brick", "grass", "gravel", "wood", "sky")
SKY = GROUNDS.index("sky")
MARK = len(CUTOUTS)  # the number of the mark among the cut-outs
LEVELS = 4  # each half as large as the one before


@dataclass(frozen=True)
class Atlas:
    """Pictures of one size in several resolutions.

    levels: (K, C, side, side) each, the sides halved from one to the next.
    """

    levels: tuple[Tensor, ...]

    @classmethod
    def of(cls, pictures: Tensor) -> Atlas:
        """From pictures (K, C, side, side) in full resolution."""
        levels = [pictures]
        for _ in range(LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        return cls(tuple(levels))

    def laid(self, which: np.ndarray, places: Tensor, level: np.ndarray) -> Tensor:
        """Each picture on a scene (M, C, H, W).

        Args:
            which: the numbers of the pictures, (M,).
            places: where in its picture each pixel of a scene lies, from -1 to 1 along x and y, (M, H, W, 2).
            level: in which resolution each is read, (M,).
        """
        m, height, width, _ = places.shape
        out = torch.empty(m, self.levels[0].shape[1], height, width)
        for kind, at in sorted(set(zip(which.tolist(), level.tolist(), strict=True))):
            rows = torch.from_numpy(np.flatnonzero((which == kind) & (level == at)))
            grid = places[rows].reshape(1, len(rows) * height, width, 2)  # one picture, whatever the number of scenes
            found = F.grid_sample(self.levels[at][kind : kind + 1], grid, align_corners=False)
            out[rows] = found.unflatten(2, (len(rows), height))[0].transpose(0, 1)
        return out


@cache
def cutouts() -> Atlas:
    """The objects and, last, the mark, (7, 4, 256, 256): colours, which go on beyond the outline, and opacity."""
    files = [np.asarray(Image.open(FOLDER / f"{name}.webp").convert("RGBA")) for name in CUTOUTS]
    pictures = torch.from_numpy(np.stack([*files, _mark(256)])).permute(0, 3, 1, 2).float() / 255
    return Atlas.of(pictures)


@cache
def grounds() -> Atlas:
    """The backgrounds, (5, 3, 512, 512)."""
    files = [np.asarray(Image.open(FOLDER / f"{name}.webp").convert("RGB")) for name in GROUNDS]
    return Atlas.of(torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2).float() / 255)


def _mark(side: int) -> np.ndarray:
    """A yellow sticker with a black cross on it, RGBA (side, side, 4)."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    disc = np.clip((0.92 - np.hypot(x, y)) * side / 4, 0, 1)
    u, v = np.abs(x + y) / np.sqrt(2), np.abs(x - y) / np.sqrt(2)
    cross = np.clip((0.17 - np.minimum(u, v)) * side / 4, 0, 1) * np.clip((0.62 - np.maximum(u, v)) * side / 4, 0, 1)
    colour = np.array([0.98, 0.82, 0.1]) * (1 - cross[..., None])
    return np.round(np.dstack([colour, disc]) * 255).astype(np.uint8)
