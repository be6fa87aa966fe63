"""What the score does without the patches that a map marks, against random parts of the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from ..attr.patches import patch_of_pixels
from ..attr.perturbing import only_images, shaped_images
from ..capture import CellRun, Run
from ..errors import CaptumViTError, UnsupportedModelError
from ..targets import Output, Target
from ..verdicts import FAINT, Finding, Verdict

DRAWS = 7  # random parts beside each map: with its own 8 forwards
FEWEST = 3  # of fewer the interval says nothing
SURE = {2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 6: 3.707}  # 0.995 quantiles of Student's t, by degrees of freedom
ROUNDING = 1e-3  # of log-odds, or of another score: what is less is no change


@dataclass(frozen=True, eq=False)
class LogOdds(Target):
    """The logarithm of p / (1 - p), p being the probability of a class: what a fall from 0.999 to 0.99 shows on.

    of: the class.  alone: whether it is scored by itself, by a sigmoid, and not against the others.  shares: whether
    the scores are probabilities already.
    """

    of: Target
    alone: bool
    shares: bool = False

    def score(self, output: Output) -> Tensor:
        """The log-odds of each image, (N,)."""
        scores = output.scores.double()
        own = self.of.score(replace(output, scores=scores))
        if self.shares:
            least = torch.finfo(output.scores.dtype).tiny
            return own.clamp(min=least).log() - (1 - own).clamp(min=least).log()
        if self.alone or scores.shape[1] == 1:
            return own
        place = (scores - own[:, None]).abs().argmin(1, keepdim=True)
        return own - scores.scatter(1, place, -torch.inf).logsumexp(1)

    def of_image(self, number: int) -> Target:
        """Of the class of one image."""
        own = self.of.of_image(number)
        return self if own is self.of else replace(self, of=own)


def without_marks(
    run: Run, target: Target, whole: Tensor, maps: Mapping[str, Tensor], named: Sequence[Verdict]
) -> dict[str, list[Verdict]]:
    """Of each method, for each image, the verdict with what the score does without the patches that the map marks.

    Args:
        run: of the images, and inside it.
        target: what is explained; of a class its `LogOdds`.
        whole: what it makes of the whole pictures, (N,).
        maps: by method, (N, patches).
        named: for each image the verdict as far as it is known.
    """
    patches = next(iter(maps.values())).shape[1]
    count = max(1, patches // 10)
    draws = min(DRAWS, patches - count)
    known = [replace(each, tokens=count, patches=patches, draws=draws) for each in named]
    if draws < FEWEST:
        return _untested(maps, known, f"{patches} patches are too few to leave some out by chance")
    kept = torch.cat([_choices(own.cpu(), count, draws) for own in maps.values()], 1)
    try:
        values, painted = without_patches(run, kept, target)
    except CaptumViTError as error:
        return _untested(maps, known, str(error).rstrip("."))
    parts = dict(zip(maps, values.double().cpu().split(1 + draws, 1), strict=True))
    odds = isinstance(target, LogOdds)
    found: dict[str, list[Verdict]] = {}
    for name, own in maps.items():
        found[name] = []
        for i, verdict in enumerate(known):
            odd = _odd(own[i])
            done = compared(replace(verdict, painted=painted), float(whole[i]), parts[name][i], odds=odds)
            found[name].append(replace(verdict, reason=odd) if odd else done)
    return found


def compared(verdict: Verdict, whole: float, values: Tensor, *, odds: bool) -> Verdict:
    """The verdict with what the score does.

    Args:
        verdict: that knows all else.
        whole: the score of the whole picture.
        values: without the marked patches, and then without random parts, (1 + draws,).
        odds: whether these are log-odds; the verdict tells probabilities.
    """
    if not all(map(isfinite, [whole, *values.tolist()])):
        return replace(verdict, reason="the scores are not finite")
    without, random = float(values[0]), values[1:]
    draws, middle = len(random), float(random.mean())
    reach = SURE[draws - 1] * float(random.std()) * (1 + 1 / draws) ** 0.5
    reach = max(reach, ROUNDING if odds else ROUNDING * abs(whole))
    low, high = middle - reach, middle + reach
    numbers = torch.tensor([whole, without, low, high], dtype=torch.float64)
    score, left, *ends = (numbers.sigmoid() if odds else numbers).tolist()
    finding: Finding = "chance"
    if without < min(low, whole):
        halved = score - left > abs(score) / 2
        finding = "carries" if halved and not (odds and score < FAINT) else "counts"
    elif without > max(high, whole):
        finding = "against"
    return replace(verdict, score=score, without_map=left, without_random=(ends[0], ends[1]), finding=finding)


def _choices(maps: Tensor, count: int, draws: int) -> Tensor:
    """Which patches are kept, bool (N, 1 + draws, patches): all but the highest ones, and all but random ones.

    The others are dealt into random parts, as equal as they can be but for a few patches that stay: so each is a little
    larger than what the map marks, and together they show what there is. Random tenths would too often miss a small
    object, and a map that hits a corner of it by chance would pass. They are the same whatever stands beside an image.
    """
    kept = torch.ones(len(maps), 1 + draws, maps.shape[1], dtype=torch.bool)
    size = (maps.shape[1] - count) // draws
    for own, (marked, *parts) in zip(maps.nan_to_num(), kept, strict=True):
        order = own.argsort(descending=True, stable=True)
        rest = order[count:].sort().values
        mixed = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
        marked[order[:count]] = False
        for part, chosen in zip(parts, mixed.split(size), strict=False):
            part[chosen] = False
    return kept


def without_patches(run: Run, kept: Tensor, target: Target, batch: int = 64) -> tuple[Tensor, bool]:
    """What the target makes of each choice of patches, (N, S), and whether the others were painted over.

    Args:
        run: of the images, and inside it.
        kept: bool (S, patches), or (N, S, patches).
        target: what is asked; of one that gives K numbers an image, (N, S, K).
        batch: how many choices go through the model at once.
    Raises:
        UnsupportedModelError: neither can be done.
    """
    try:
        return run.on_tokens(kept, target, batch=batch), False
    except UnsupportedModelError:
        if run.adapter.training or isinstance(run, CellRun):
            raise
    reason = only_images(run.adapter)
    if reason is not None:
        raise UnsupportedModelError(f"no part of its tokens can be left out, nor painted over: {reason}")
    images = shaped_images(run)
    patches = patch_of_pixels(run.layout, images.shape[2:]).to(images.device)
    found = []
    for i, (image, own) in enumerate(zip(images, kept.expand(len(images), -1, -1), strict=True)):
        grey, parts = image.mean((1, 2), keepdim=True), []
        for part in own.to(images.device).split(batch):
            hidden = ~part[:, patches.clamp(min=0)] & (patches >= 0)  # (S, H, W)
            painted = torch.where(hidden[:, None], grey, image)
            parts.append(run.on_images(painted, target.of_image(i), place=i))
        found.append(torch.cat(parts))
    return torch.stack(found), True


def _odd(own: Tensor) -> str:
    """Why a map marks nothing; empty if it does."""
    if not own.isfinite().all():
        return "the map holds NaN or infinite values"
    return "the map is the same everywhere, and marks no part" if own.max() == own.min() else ""


def _untested(maps: Mapping[str, Tensor], known: Sequence[Verdict], reason: str) -> dict[str, list[Verdict]]:
    return {name: [replace(verdict, reason=reason) for verdict in known] for name in maps}
