"""What is odd about inputs and scores though nothing forbids it; each function gives a sentence, or None."""

import math
import os
import sys
import warnings
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

FAR = 20.0  # normalised pixels stay within -5 and 5, whatever the mean and the deviation that are in use
SPREAD = 4  # whole numbers within which may be black and white, or a mask
MANY = 5  # classes, of which the scores of a model that was trained do not all lie in 0..1 by chance

_told: "WeakKeyDictionary[nn.Module, set[str]]" = WeakKeyDictionary()


class ModelNote(UserWarning):
    """Something odd about what a model is given, or about what it gives, that nothing forbids.

    `attribute` and its kin warn once a model; `explain` has it among the notes of an explanation.
    """


def note_once(model: nn.Module, kind: str, note: str | None) -> None:
    """Warn of something odd, once for each kind and model, as of the line that called the library."""
    known = _told.setdefault(model, set())
    if note is None or kind in known:
        return
    known.add(kind)
    warnings.warn(note, ModelNote, stacklevel=_outside())


def _outside() -> int:
    """How many frames above the caller somebody else's code stands."""
    here, frame, level = os.path.dirname(__file__), sys._getframe(1), 1
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(here) or frame.f_globals.get("__name__", "").split(".")[0] == "captum"
    ):
        frame, level = frame.f_back, level + 1
    return level


def unusual_inputs(images: Tensor) -> str | None:
    """Whether images look as if nobody had normalised them.

    >>> from captum_vit.unusual import unusual_inputs
    >>> print(unusual_inputs(255 * torch.rand(1, 3, 8, 8)))  # doctest: +ELLIPSIS
    inputs reach from ... as pixels of 0..255 do, and normalised ones stay within about -5 to 5: ...

    Args:
        images: what a model is called with, (N, C, H, W) or one of them.
    """
    if not images.numel():
        return None
    low, high = (float(end) for end in images.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    whole = high - low > SPREAD and _is_whole(images)
    if not whole and max(-low, high) <= FAR:
        return None
    return (
        f"inputs reach from {low:.3g} to {high:.3g}, as pixels of 0..255 do, and normalised ones stay within about -5 "
        f"to 5: divide by 255, and subtract the mean and divide by the deviation that the model was trained with, "
        f"unless it does so itself"
    )


def _is_whole(images: Tensor) -> bool:
    row = images.flatten()[:1000]  # of a batch that is none, these are hardly ever
    return bool((row == row.round()).all()) and bool((images == images.round()).all())


def unusual_scores(scores: Tensor) -> str | None:
    """Whether scores look like probabilities instead of logits.

    >>> from captum_vit.unusual import unusual_scores
    >>> unusual_scores(torch.randn(2, 1000).softmax(-1))
    'outputs are probabilities (0..1, with a sum of 1), and gradients of saturated probabilities vanish: explain logits'

    Args:
        scores: what a model gives, (N, classes).
    """
    what = None
    if adds_up(scores):
        what = "0..1, with a sum of 1"
    elif scores.dim() == 2 and scores.shape[1] >= MANY and _within(scores):
        what = "all in 0..1, as after a sigmoid"
    if what is None:
        return None
    return f"outputs are probabilities ({what}), and gradients of saturated probabilities vanish: explain logits"


def adds_up(scores: Tensor) -> bool:
    """Whether the scores of each image are probabilities of classes, one against the others."""
    if scores.dim() != 2 or scores.shape[1] < 2 or not _within(scores):
        return False
    slack = 1e-2 if scores.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool(((scores.float().sum(1) - 1).abs() <= slack).all())


def _within(scores: Tensor) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all()) and bool(torch.isfinite(scores).all())
