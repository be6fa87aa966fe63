"""The scores of images of which some pixels or patches are exchanged, or whose tokens are left out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..capture import Run
from ..errors import InputError
from ..targets import Output, Target, target_indices
from .base import blank, finite, run_of
from .course import Course
from .occluders import occlusion

Model = Callable[[Tensor], Tensor]
Asked = Model | Run


@dataclass(frozen=True)
class Choices:
    """Variants of each image of a batch, in each of which other cells are exchanged.

    count: S, how many variants there are of each.
    cells: (B,) numbers of images and (B,) numbers of variants -> bool (B, rows, cols), the cells that are exchanged;
        of the map's grid, or of the image's pixels.
    cover: (height, width) of the part of the image, from its upper left corner, that a grid lies on; None for all.
    """

    count: int
    cells: Callable[[Tensor, Tensor], Tensor]
    cover: tuple[int, int] | None = None


def exchanged(asked: Asked, images: Tensor, targets: Any, course: Course, choices: Choices, batch_size: int) -> Tensor:
    """The score of each variant of each image, (N, S) float64.

    Variants of all images fill batches of `batch_size`, so that memory does not grow with either.

    Args:
        asked: the model, or a run of it on these images, which is needed where tokens are left out.
        images: (N, C, H, W), normalised.
        targets: class of each image, as captum takes it.
        course: what stands where cells are exchanged, and how the rest is scored.
        choices: which cells.
        batch_size: images that the model gets at once.
    Raises:
        InputError, TargetError, OptionError: what was passed does not hold.
        UnsupportedModelError: tokens are to be left out, and the model does not take a part of them.
    """
    every = torch.arange(len(images) * choices.count, device=images.device)
    with torch.no_grad():
        if course.on_tokens:
            return _on_tokens(run_of(asked, images), images, targets, course, choices, batch_size)
        other = occlusion(course.occluder, images)
        source, filling = (images, other) if course.start == "image" else (other, images)
        model = asked.score if isinstance(asked, Run) else asked
        found: list[Tensor] = []
        classes = None
        for part in every.split(batch_size):
            n, s = part // choices.count, part % choices.count
            gone = _at_pixels(choices.cells(n, s), (images.shape[2], images.shape[3]), choices.cover)
            logits = model(torch.where(gone[:, None], filling[n], source[n]))
            if classes is None:  # known to fit once the number of classes is
                classes = target_indices(targets, len(images), logits.shape[1]).to(logits.device)
            found.append(course.scores(logits, classes[n]))
    return torch.cat(found).view(len(images), -1)


def _on_tokens(run: Run, images: Tensor, targets: Any, course: Course, choices: Choices, batch_size: int) -> Tensor:
    """The same where the tokens of exchanged patches do not enter the model's blocks."""
    count = len(images)
    every = torch.arange(count * choices.count, device=images.device)
    cells = choices.cells(every // choices.count, every % choices.count)
    if cells.shape[1:] != run.layout.grid:
        raise InputError(
            f"tokens are left out patch by patch: maps lie on the model's grid of {run.layout.grid}, got "
            f"{tuple(cells.shape[1:])}"
        )
    gone = cells.view(count, choices.count, -1)
    classes = target_indices(targets, count, run.scores.shape[1]).cpu()
    asked, own = classes.unique(return_inverse=True)  # together in one batch, whatever each image is asked about
    kept = gone if course.start == "occluder" else ~gone
    values = run.on_tokens(kept, _Scores(course, asked), batch=batch_size)  # (N, S, classes asked)
    scores = values.gather(2, own.view(-1, 1, 1).expand(-1, choices.count, 1).to(values.device))
    return blank(scores[..., 0].double().to(images.device), finite(images)[1])


class _Scores(Target):
    """The scores of some classes, (R, K), as a course takes them."""

    def __init__(self, course: Course, classes: Tensor) -> None:
        self.course, self.classes = course, classes

    def score(self, output: Output) -> Tensor:
        """(R, K), float64."""
        return self.course.values(output.scores)[:, self.classes.to(output.scores.device)]


def _at_pixels(cells: Tensor, size: tuple[int, int], cover: tuple[int, int] | None) -> Tensor:
    """Cells (B, rows, cols) as pixels (B, H, W); what they do not cover is none of them."""
    if cells.shape[1:] == size:
        return cells
    covered = cover or size
    grid = zip(covered, cells.shape[1:], strict=True)
    rows, columns = (torch.arange(n, device=cells.device) * g // n for n, g in grid)
    beside = (0, size[1] - covered[1], 0, size[0] - covered[0])
    return F.pad(cells[:, rows][:, :, columns], beside)
