"""A video that is made by hand: six frames, a map of three cells."""

from dataclasses import replace

import torch

from captum_vit.explanation.explanation import Explanation
from captum_vit.frames import Frames
from tests.report.helpers import explained, noise

COUNT, CELLS = 6, 3


def video(source: str = "clip.mp4", size: tuple[int, int] = (96, 64)) -> Explanation:
    """Random flows over three cells of time, by daam for each label and by rollout for all."""
    plain = explained(size, (4, 6), source=source)
    draw = torch.Generator().manual_seed(1)
    shown = tuple(
        replace(a, flow=torch.rand(len(a.layers), CELLS, 4, 6, generator=draw).pow(4).cumsum(0))
        for a in plain.attributions
    )
    pictures = tuple(noise(size, seed) for seed in range(COUNT))
    names = tuple(f"frame {2 * i}, {i / 4:.2f} s" for i in range(COUNT))
    frames = Frames(pictures, Frames.spread(COUNT, CELLS), names)
    return replace(plain, image=frames.middle, attributions=shown, frames=frames)
