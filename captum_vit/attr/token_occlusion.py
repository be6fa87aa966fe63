"""Occlusion by tokens: what the score loses with single patches, or windows of them, left out."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ..access import Grid
from ..capture import Run
from ..checking import check_whole
from ..errors import OptionError, UnsupportedModelError, brief
from ..targets import Target
from .patches import patch_of_pixels
from .perturbing import Forwards, OfInput, Score, answer, only_images, shaped_images

Occluder = Literal["none", "grey"]
OCCLUDERS = ("none", "grey")


class TokenOcclusion(OfInput):
    """Occlusion by tokens: what the score loses when a patch is left out.

    >>> TokenOcclusion(model).attribute(images, target=281, window=13).shape
    torch.Size([2, 1, 14, 14])

    y(all) - y(all but w), the mean over the windows w of window x window patches that hold a patch; with a window of 1
    that is leave-one-out. The patches do not go into the blocks, and nothing stands in their place; a model of which
    patches cannot be left out, as where convolutions mix them, is refused, and has a map with `occluder="grey"`. What
    is below 0 speaks against the target. It takes one forward for each window and one without, and draws nothing.

    Options of `attribute`:
        window: sides of the windows, in patches, by default 1.
        occluder: what stands in the place of patches: "none" (default), they are left out; or "grey", 0 in the image
            that the model is given, which is the mean colour where images are normalised by it.
        score: "logit" (default), the target's own number; "probability", the softmax over the classes, or the sigmoid
            where the model says that each is scored for itself; or "sigmoid".
        batch: how many choices go through the model at once, by default 64.
        progress: whether a bar is drawn on stderr, by default False.

    Source: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks" (arXiv:1311.2901), section 4.2;
        with tokens left out as in Englebert et al. 2023, "Explaining through Transformer Input Sampling".
    """

    name, title = "token_occlusion", "Token occlusion"
    signed = True
    paper = "arXiv:1311.2901"
    costly = "a forward for each patch, as 196"

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        window: int = 1,
        occluder: Occluder = "none",
        score: Score = "logit",
        batch: int = 64,
        progress: bool = False,
    ) -> Tensor:
        check_whole("window", window)
        if not isinstance(occluder, str) or occluder not in OCCLUDERS:
            raise OptionError(f"occluder must be one of {', '.join(OCCLUDERS)}, got {brief(occluder)}")
        covered = windows(run.layout.grid, window)
        total = len(run.inputs.images) * (len(covered) + 1)
        with Forwards(run, target, score, batch, total=total, progress=progress, title=self.title) as forwards:
            nothing = torch.zeros_like(covered[:1])
            ask = _left_out if occluder == "none" else _grey
            numbers = ask(forwards, torch.cat([nothing, covered]))  # (N, windows + 1, K)
        losses = numbers[:, :1] - numbers[:, 1:]
        weights = covered.to(losses) / covered.sum(0).to(losses)
        with ops.full_precision(losses.device):
            return answer((losses.mT @ weights).transpose(0, 1), target)


def windows(grid: Grid, side: int) -> Tensor:
    """All windows of so many patches each way, bool (windows, patches).

    Raises:
        OptionError: one would hold all patches, or reach beyond the grid.
    """
    if side > min(grid) or side ** len(grid) == prod(grid):
        raise OptionError(f"window={side} does not leave a patch of a grid of {' x '.join(map(str, grid))}")
    starts: Sequence[tuple[int, ...]] = list(product(*(range(cells - side + 1) for cells in grid)))
    found = torch.zeros(len(starts), *grid, dtype=torch.bool)
    for each, start in zip(found, starts, strict=True):
        each[tuple(slice(first, first + side) for first in start)] = True
    return found.flatten(1)


def _left_out(forwards: Forwards, covered: Tensor) -> Tensor:
    images = len(forwards.run.inputs.images)
    return forwards.of_tokens(~covered.expand(images, -1, -1))


def _grey(forwards: Forwards, covered: Tensor) -> Tensor:
    run = forwards.run
    if (reason := only_images(run.adapter)) is not None:
        raise UnsupportedModelError(f"occluder='grey' does not apply: {reason}")
    images = shaped_images(run)
    patches = patch_of_pixels(run.layout, images.shape[2:])
    hidden = covered[:, patches.clamp(min=0)] & (patches >= 0)  # (windows + 1, H, W)
    found = []
    for i, image in enumerate(images):
        parts = forwards.parts(len(hidden))
        numbers = [forwards.of_images(image.masked_fill(hidden[p, None].to(image.device), 0), i) for p in parts]
        found.append(torch.cat(numbers))
    return torch.stack(found)
