"""Removals are measured: the model's scores of an image without some of its patches."""

import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from ..capture import CellRun, Run
from ..errors import InputError, UnsupportedModelError
from ..models import LoadedModel
from ..removals import Removals, regions
from ..targets import Classes, Output, Target
from ..targets.joined import Several
from .asking import Wanted
from .judging import asked_of
from .marked import LogOdds, without_patches

STROKES = 128
SIZES = 8  # how many sizes strokes have, so that those of one size go through the model at once
LEAST, MOST = 0.03, 0.6  # of the picture


def removals_of(
    run: Run, wanted: Sequence[Wanted], output: Callable[[Target], Output], loaded: LoadedModel
) -> list[dict[str, Removals]]:
    """Of each image, by title of each target, what the score is without some patches; to be asked inside the run.

    They take a forward for each region, for everything and for each stroke, 193 at most; all targets share them.

    Raises:
        UnsupportedModelError: no part of the patches can be left out or painted over, and why.
        InputError: there are too few patches, or the scores are not finite.
    """
    if isinstance(run, CellRun):
        raise UnsupportedModelError(run.no_tokens)
    grid = run.layout.grid
    if len(grid) != 2:
        raise UnsupportedModelError(f"removals are of pictures: expected a grid (rows, cols), got {tuple(grid)}")
    asked = [asked_of(run, each, loaded) for each in wanted]
    empty = not run.readout.patches or (run.readout.even and bool(run.readout.prefix))  # else nothing would be read
    sets = removed_sets((grid[0], grid[1]), empty=empty)
    values, painted = without_patches(run, ~sets[1:].flatten(1), Several(asked))  # (N, S, K)
    found: list[dict[str, Removals]] = [{} for _ in values]
    for k, (each, target) in enumerate(zip(wanted, asked, strict=True)):
        whole = target.score(output(target if target.reads_scores else each.target)).double().cpu()
        unit = "value" if isinstance(target, Classes) else target.unit
        for i, label in enumerate(each.labels):
            if label is not None or len(wanted) == 1:
                measured = torch.cat([whole[i : i + 1], values[i, :, k].double().cpu()])
                title = label.title if label else ""
                of = label.unit if label and label.index is not None else unit
                found[i][title] = Removals(sets, measured, isinstance(target, LogOdds), of, painted)
    return found


def removed_sets(grid: tuple[int, int], seed: int = 0, *, empty: bool = True) -> Tensor:
    """What is removed, bool (M, rows, cols): nothing, each region, everything, and strokes, each set once.

    >>> from captum_vit.explanation.removing import removed_sets
    >>> removed_sets((14, 14)).shape
    torch.Size([179, 14, 14])

    Args:
        grid: patches as (rows, columns).
        seed: of the strokes.
        empty: whether everything can be removed, too.
    Raises:
        InputError: there are hardly any patches.
    """
    if min(grid) < 3:
        raise InputError(f"{grid[0]}x{grid[1]} patches are too few to take some away")
    whole = torch.ones(1, *grid, dtype=torch.bool)
    drawn = torch.cat([~whole, regions(grid), *[whole] * empty, strokes(grid, STROKES, seed)])
    different = {each.numpy().tobytes(): i for i, each in reversed(list(enumerate(drawn)))}
    return drawn[sorted(different.values())]


def strokes(grid: tuple[int, int], count: int, seed: int) -> Tensor:
    """Patches as a brush wipes over them, bool (count, rows, cols): a disc that wanders, of any size."""
    rows, cols = grid
    random, patches = Random(seed), rows * cols
    y, x = torch.arange(rows)[:, None] + 0.5, torch.arange(cols) + 0.5
    found = torch.zeros(count, *grid, dtype=torch.bool)
    for number, wiped in enumerate(found):
        share = LEAST * (MOST / LEAST) ** (number % SIZES / (SIZES - 1))
        left = max(2, round(share * patches))
        radius, turn = 0.5 + random.random() * min(grid) / 8, 2 * math.pi * random.random()
        step = max(radius, 0.7)
        down, across = rows * random.random(), cols * random.random()
        while left:
            far = ((y - down) ** 2 + (x - across) ** 2).masked_fill(wiped, math.inf)
            nearest = far.flatten().argsort(stable=True)[:left]
            new = nearest[far.flatten()[nearest] <= radius**2]
            wiped.view(-1)[new] = True
            left -= len(new)
            turn += 1.5 * (random.random() - 0.5)
            down, across = down + step * math.sin(turn), across + step * math.cos(turn)
            if not (0 <= down <= rows and 0 <= across <= cols):
                down, across = rows * random.random(), cols * random.random()
    return found
