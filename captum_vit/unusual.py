"""What is odd about inputs and scores though nothing forbids it; each function gives a sentence, or None."""

import torch
from torch import Tensor

FAR = 20.0  # normalised pixels stay within -5 and 5, whatever the mean and the deviation that are in use
MANY = 5  # classes, of which the scores of a model that was trained do not all lie in 0..1 by chance


def unusual_inputs(images: Tensor) -> str | None:
    """Whether images look as if nobody had normalised them.

    >>> from captum_vit.unusual import unusual_inputs
    >>> print(unusual_inputs(255 * torch.rand(1, 3, 8, 8)))  # doctest: +ELLIPSIS
    inputs reach from ... as pixels of 0..255 do, and normalised ones stay within about -5 to 5: ...

    Args:
        images: what a model is called with, (N, C, H, W) or one of them.
    """
    if not images.numel() or not torch.isfinite(images).all():
        return None
    low, high = (float(end) for end in images.float().aminmax())
    whole = bool((images == images.round()).all()) and high - low > 4
    if not whole and max(-low, high) <= FAR:
        return None
    return (
        f"inputs reach from {low:.3g} to {high:.3g}, as pixels of 0..255 do, and normalised ones stay within about -5 "
        f"to 5: divide by 255, and subtract the mean and divide by the deviation that the model was trained with"
    )


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
