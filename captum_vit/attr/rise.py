"""Randomized input sampling: the mean probability under masks that keep a pixel."""

from math import ceil

import torch
from torch import Tensor

from .. import ops
from ..capture import Run
from ..checking import check_number, check_whole
from ..errors import OptionError
from ..targets import Target
from .perturbing import Forwards, OfInput, OfPixels, Score, drawing, shaped_images, working


class RISE(OfPixels, OfInput):
    """Randomized input sampling: how probable the target is on average while a pixel shows.

    >>> RISE(model).attribute(images, target=281, masks=16).shape
    torch.Size([2, 1, 14, 14])

    sum_m p(x * M_m) M_m / (masks * keep), for soft masks M_m that are drawn as coarse grids of cells, each kept with
    probability `keep`, enlarged by bilinear interpolation, and moved at random by less than a cell. Where a mask is 0
    stands 0, the mean colour of normalised images. The map on the grid is the mean over each patch; with
    `output_shape="spatial"` it is the published map of the pixels. It takes `masks` forwards an image, and depends on
    the draw: the difference of two seeds tells how much.

    Options of `attribute`:
        masks: how many, by default 4000.
        cells: rows and columns of the coarse grids, by default 7.
        keep: probability with which a cell is kept, by default 0.5.
        score: "probability" (default), the softmax over the classes, or the sigmoid where the model says that each is
            scored for itself; "sigmoid"; or "logit", the target's own number, with which maps may be below 0.
        seed: of the masks, by default 0.
        batch: how many masked images go through the model at once, by default 64.
        progress: whether a bar is drawn on stderr, by default False.

    Source: Petsiuk, Das & Saenko 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
        (arXiv:1806.07421), equation 6.
    """

    name, title = "rise", "RISE"
    paper = "arXiv:1806.07421"
    any_model = True
    costly = "4000 forwards an image"

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        masks: int = 4000,
        cells: int = 7,
        keep: float = 0.5,
        score: Score = "probability",
        seed: int = 0,
        batch: int = 64,
        progress: bool = False,
    ) -> Tensor:
        check_whole("masks", masks)
        check_whole("cells", cells, least=2)
        check_number("keep", keep, 0, 1)
        if not keep:
            raise OptionError("keep must be above 0: nothing of the image would show")
        images = shaped_images(run)
        size, total = (images.shape[2], images.shape[3]), len(images) * masks
        kept, shifts = drawn(masks, cells, keep, size, seed)
        sums: list[Tensor | float] = [0.0] * len(images)
        with Forwards(run, target, score, batch, total=total, progress=progress, title=self.title) as forwards:
            for part in forwards.parts(masks):
                soft = soft_masks(kept[part], shifts[part], size).to(images.device, working(images))
                for i, image in enumerate(images):
                    numbers = forwards.of_images(image * soft[:, None].to(image), i)
                    with ops.full_precision(images.device):
                        sums[i] = sums[i] + torch.einsum("mk,mxy->kxy", numbers.to(soft), soft)
        pixels = torch.stack([torch.as_tensor(each) for each in sums], 1)
        return self._placed(pixels / (masks * keep), run, target)


def drawn(masks: int, cells: int, keep: float, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Which cells are kept, bool (masks, cells, cells), and by how many pixels each grid is moved, (masks, 2)."""
    draw = drawing(seed)
    kept = torch.rand(masks, cells, cells, generator=draw) < keep
    shifts = [torch.randint(ceil(side / cells), (masks,), generator=draw) for side in size]
    return kept, torch.stack(shifts, 1)


def soft_masks(kept: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks of coarse grids, (M, H, W) in float64: each enlarged to one cell more, and cut out where it was moved.

    kept: (M, cells, cells).  shifts: rows and columns that are cut off before, (M, 2).
    """
    down, across = (_enlarging(side, kept.shape[1]) for side in size)
    large = down @ kept.double() @ across.mT
    return torch.stack(
        [
            each[top : top + size[0], left : left + size[1]]
            for each, (top, left) in zip(large, shifts.tolist(), strict=True)
        ]
    )


def _enlarging(side: int, cells: int) -> Tensor:
    """What each cell gives to each pixel in a row of cells + 1 cells' length, (pixels, cells).

    Linear between the centres of the cells, and mirrored about the first and the last of them.
    """
    length = (cells + 1) * ceil(side / cells)
    place = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    place = place.abs()
    place = torch.minimum(place, 2 * (cells - 1) - place)
    return (1 - (place[:, None] - torch.arange(cells, dtype=torch.float64)).abs()).clamp(min=0)
