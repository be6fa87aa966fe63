"""Tokens of an abnormal norm, on which some models keep what belongs to the whole image, and maps that show them."""

from math import prod

import torch
from torch import Tensor

from ..attr.patches import of_patches
from ..capture import Run
from ..errors import UnsupportedModelError
from .base import blank, finite

OUTLIER = 3.5  # modified z-score, as Iglewicz and Hoaglin set it
TIMES = 2.0  # the median's; in a stream of nearly equal norms an outlier alone is no artifact


def token_norms(run: Run) -> Tensor:
    """The norm of each patch's token after the last block that has patches, (N, *grid) float64.

    Raises:
        UnsupportedModelError: the model's token stream is not known, or has no patches after a block.
    """
    count = prod(run.layout.grid)
    for name, stream in reversed(run.tokens().items()):
        norms = stream.double().norm(dim=-1)
        parts = of_patches(torch.ones_like(norms), run.layout, name)  # of a patch that was pooled
        if count and bool((parts > 0).all()):
            return run.layout.to_grid(of_patches(norms, run.layout, name) / parts)
    raise UnsupportedModelError(
        f"no token stream of {type(run.adapter.model).__name__} has patches, whose norms could be compared"
    )


def artifact_tokens(norms: Tensor) -> Tensor:
    """Which tokens are artifacts by their norm, bool, of the same shape (N, ...).

    Those whose norm is an outlier of the image's, `0.6745 (x - median) / MAD > 3.5` (the modified z-score with its
    usual bound), and more than twice the median. The paper's own bound, a norm of 150, holds for one model; its
    artifacts have about ten times the norm of other tokens.

    Source: Darcet et al. 2024, "Vision Transformers Need Registers" (arXiv:2309.16588), section 2; the rule is of
        Iglewicz & Hoaglin 1993, "How to Detect and Handle Outliers".

    Args:
        norms: (N, ...), of the patches' tokens alone, as `token_norms` gives them.
    """
    values = norms.double().flatten(1)
    middle = values.quantile(0.5, dim=1, keepdim=True)
    spread = (values - middle).abs().quantile(0.5, dim=1, keepdim=True)
    found = (0.6745 * (values - middle) > OUTLIER * spread) & (values > TIMES * middle)
    return found.view_as(norms)


def artifact_share(maps: Tensor, artifacts: Tensor) -> Tensor:
    """Which part of a map's absolute values lies on artifact tokens, (N,) float64: 0 where there are none.

    Beside it stands the part of all tokens that they are: a map that has more on them than that is drawn to them.

    Args:
        maps: (N, rows, cols), on the grid of the tokens; the signs do not count.
        artifacts: bool, of the same shape.
    Returns:
        NaN for a map of zeros, or one that is not finite.
    """
    values, bad = finite(maps.double().abs())
    values = values.flatten(1)
    total = values.sum(1)
    held = torch.where(artifacts.flatten(1), values, 0.0).sum(1)
    return blank(held / total, bad | (total == 0))
