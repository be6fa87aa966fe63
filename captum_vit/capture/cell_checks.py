"""Whether cells hold all that a score knows of an image, and lie over the pixels that they answer to."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..access.any_model import AnyModel
from ..errors import UnsupportedModelError
from .cells import AtCells
from .inputs import Inputs
from .sight import sees_its_place
from .stem import SEED
from .untouched import untouched

NEAR = 1e-3  # of what another image does to the scores, which no cell may miss
ROUNDING = 1e-4  # of the largest score, by which rules may round otherwise in float32; squared in float64
ALONE = 1e-2  # of the largest score, by which an image in a batch may seem other than by itself: devices round so
EIGHTHS = ((1, 1), (1, 6), (6, 1), (4, 4))  # of the rows and columns, at which it is seen where cells lie
CLEARLY, FAINTLY = 2, 1e-3  # times what is compared
OFF = 2  # cells by which a change may be largest elsewhere, since convolutions overlap


def check_nothing_passes(found: AtCells) -> None:
    """Raise UnsupportedModelError where the score knows more of the image than what the cells tell it."""
    if found.module is None:
        return
    if not holds_all(found.adapter, found.inputs, found.module, found.values, found.scores):
        raise UnsupportedModelError(
            f"the score of {type(found.adapter.model).__name__} depends on the image in other ways than through "
            f"{found.name}, as where a skip connection leads past it or two branches look at the image: a map of its "
            f"cells would leave a part out. Name another module by layer=, or ask for the pixels themselves, by "
            f"output_shape='input'"
        )


def holds_all(adapter: AnyModel, inputs: Inputs, module: nn.Module, values: Tensor, scores: Tensor) -> bool:
    """Whether all that the scores know of the images comes through what a module gives.

    The model is run on other images, as it is, and with the module giving what it gave: then its scores must not move.

    Args:
        adapter, inputs: the model and what it is called with.
        module, values: and what it gave.
        scores: those of the images.
    """
    images, ours = inputs.images, scores.detach()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED)).to(images)
    changed = replace(inputs, images=images.flip(-1) + noise * images.std(correction=0).clamp(min=1e-3))
    with torch.no_grad(), untouched(adapter), ExitStack() as stack:
        moved = changed.scores(adapter, changed.run(adapter))
        stack.callback(module.register_forward_hook(lambda *_: values.detach().clone()).remove)
        held = changed.scores(adapter, changed.run(adapter))
    if not held.shape == moved.shape == ours.shape:
        return False
    eps = torch.finfo(ours.dtype).eps
    rounding = max(64 * eps, ROUNDING if eps > ROUNDING**2 else ROUNDING**2) * ours.abs().max()
    return bool(((held - ours).abs() <= torch.maximum(rounding, NEAR * (moved - ours).abs().max())).all())


def check_images_stand_alone(found: AtCells) -> None:
    """Raise UnsupportedModelError where the scores of an image are clearly others in a batch than by itself.

    A model in train mode is left out, whose dropout draws otherwise for another batch.
    """
    adapter, ours, ends = found.adapter, found.scores.detach(), (0, len(found.scores) - 1)
    if any(module.training for module in adapter.model.modules()):
        return
    with torch.no_grad(), untouched(adapter):
        calls = [found.inputs.image(end) for end in ends]  # an image may depend on those before it or behind
        alone = torch.cat([call.scores(adapter, call.run(adapter)) for call in calls])
    rounding = max(64 * torch.finfo(ours.dtype).eps, ALONE) * ours.abs().max()
    if alone.shape[1:] != ours.shape[1:] or bool(((alone - ours[[*ends]]).abs() > rounding).any()):
        raise UnsupportedModelError(
            f"the scores of {type(adapter.model).__name__} for one image depend on the others in its batch, as where "
            f"a mean is taken over the batch: a map would hold what is in all of them. Explain one image at a time"
        )


def check_stem_lies(found: AtCells) -> None:
    """Raise UnsupportedModelError where cells of the stem answer to other pixels than those that they lie over.

    So a model is found that crops or mirrors its images before. Where no gradient tells, as behind `.round()`, it is
    seen less closely, by what changes.
    """
    if found.module is None:
        return
    places = _places(found.cells.grid)
    lies = sees_its_place(found.adapter, found.inputs.first(), found.module, found.cells, places)
    if lies is None:
        check_cells_lie(found)
    elif not lies:
        raise _elsewhere(found)


def check_cells_lie(found: AtCells) -> None:
    """Raise UnsupportedModelError where cells change with other pixels than those that they lie over, by some cells."""
    if found.module is None:
        return
    grid, places = found.cells.grid, _places(found.cells.grid)
    for place, change in zip(places, _changes(found, places), strict=True):
        seen = _unravelled(int(change.argmax()), grid)
        if not change.any() or any(abs(a - b) > OFF for a, b in zip(seen, place, strict=True)):
            raise _elsewhere(found)


def check_cells_answer(found: AtCells) -> None:
    """Raise UnsupportedModelError where cells of a deep module answer to other pixels than those that they lie over.

    Deep cells see much of the image, some of them all, and some change with whatever pixel does. So the places that are
    changed are compared at the same cell, each as a share of what it changes in all: another place may not count
    clearly more there than the cell's own, and that has to count at all. That images are neither cropped nor mirrored
    shows at the stem, whose cells see little.
    """
    if found.module is None:
        return
    grid, places = found.cells.grid, _places(found.cells.grid)
    changes = _changes(found, places).double()
    at = [_ravelled(place, grid) for place in places]
    shares = (changes / changes.sum(1, keepdim=True).clamp_min(1e-300))[:, at]
    unmoved = changes[:, at].diagonal() <= FAINTLY * changes.amax(1)
    if bool((unmoved | (shares.amax(0) > CLEARLY * shares.diagonal())).any()):
        raise _elsewhere(found)


def _changes(found: AtCells, places: list[tuple[int, ...]]) -> Tensor:
    """By how much each cell changes with the pixels of each of these places of the first image, (places, cells)."""
    module, sides, grid = found.module, found.inputs.images.shape[2:], found.cells.grid
    assert module is not None
    inputs = found.inputs.copies(len(places) + 1)
    images = inputs.images.clone()
    gave: list[Tensor] = []
    for image, place in zip(images[1:], places, strict=True):
        parts: Any = [
            slice(at * side // count, -(-(at + 1) * side // count))
            for at, side, count in zip(place, sides, grid, strict=True)
        ]
        changed: Any = (slice(None), *parts)
        image[changed] += 1 + images[0].abs().max()
    with torch.no_grad(), untouched(found.adapter), ExitStack() as stack:
        stack.callback(module.register_forward_hook(lambda module, args, output: gave.append(output.clone())).remove)
        replace(inputs, images=images).run(found.adapter)
    cells = found.cells.tokens(gave[0])
    return (cells[1:] - cells[:1]).abs().sum(2)


def _places(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Cells at which it is seen, each once."""
    middle = [count // 2 for count in grid[:-2]]  # of the slices of a volume
    found = [(*middle, rows * grid[-2] // 8, cols * grid[-1] // 8) for rows, cols in EIGHTHS]
    return list(dict.fromkeys(found))


def _unravelled(number: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for count in reversed(grid):
        place.insert(0, number % count)
        number //= count
    return tuple(place)


def _ravelled(place: tuple[int, ...], grid: tuple[int, ...]) -> int:
    number = 0
    for at, count in zip(place, grid, strict=True):
        number = number * count + at
    return number


def _elsewhere(found: AtCells) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the cells of {found.name} in {type(found.adapter.model).__name__} do not lie over the pixels that they "
        f"change with, as where a model crops, mirrors or shuffles its images first: a map could not be laid on the "
        f"image. Conserving gradients have maps at the pixels themselves, by output_shape='input'"
    )
