"""Where the tokens of Hugging Face's models lie on the image, by their embeddings."""

from typing import Any

from torch import nn

from captum_vit.access import Grid
from captum_vit.errors import TokenLayoutError

PREFIX = {
    "cls_token": "class",
    "class_embedding": "class",
    "distillation_token": "distillation",
    "register_tokens": "register",
}


def prefix_tokens(embeddings: Any) -> tuple[str, ...]:
    """What each token before the patches is."""
    tokens = {kind: getattr(embeddings, name) for name, kind in PREFIX.items() if hasattr(embeddings, name)}
    counts = {kind: token.numel() // token.shape[-1] for kind, token in tokens.items() if token is not None}
    return tuple(kind for kind, count in counts.items() for _ in range(count))


def patch_size(embeddings: Any) -> Grid:
    """(height, width) of a patch; some configurations do not hold it."""
    height, width = next(m.kernel_size for m in embeddings.modules() if isinstance(m, nn.Conv2d))
    return height, width


def patch_grid(embeddings: Any, image_size: Grid, *, any_size: bool) -> Grid:
    """The patches as (rows, columns); what is left of the image at its right and lower edge is not seen.

    Raises:
        TokenLayoutError: another size than the model was built for, unless it takes any, or less than a patch.
    """
    (height, width), patch = image_size, patch_size(embeddings)
    trained = image_size if any_size else embeddings.image_size
    rows, cols = (trained, trained) if isinstance(trained, int) else trained
    if (rows, cols) != image_size:
        raise TokenLayoutError(
            f"the model takes images of {rows}x{cols}, got {height}x{width}: resize them, or pass "
            f"forward_kwargs={{'interpolate_pos_encoding': True}}"
        )
    grid = (height // patch[0], width // patch[1])
    if 0 in grid:
        raise TokenLayoutError(f"images of {height}x{width} are smaller than a patch of {patch[0]}x{patch[1]}")
    return grid
