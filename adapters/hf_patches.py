"""Images as the patches that Hugging Face's NaFlex models take, and back."""

import sys
from collections.abc import Callable
from math import isqrt
from typing import Any

from torch import Tensor

from captum_vit.errors import InputError
from captum_vit.geometry import Size

FITTING = "get_image_size_for_max_num_patches"  # beside the image processor of SigLIP 2, of either backend


def cut(images: Tensor, patch: int) -> Tensor:
    """Images (N, C, H, W) as patches row by row, (N, rows * columns, patch * patch * C), the channels innermost."""
    rows = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (N, C, rows, patch, columns, patch)
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def joined(patches: Tensor, shapes: Tensor, channels: int = 3) -> Tensor:
    """The images that patches were cut from, (N, C, H, W), without padding: what `cut` does, undone.

    >>> found = processor(photo, return_tensors="pt")
    >>> joined(found["pixel_values"], found["spatial_shapes"]).shape
    torch.Size([1, 3, 208, 304])

    Args:
        patches: (N, patches, patch * patch * C).
        shapes: (N, 2), rows and columns of each image, which are the same for all.
        channels: C.
    Raises:
        InputError: the images differ in shape.
    """
    grids = {tuple(grid) for grid in shapes.tolist()}
    if len(grids) != 1:
        raise InputError(f"images of several shapes, {sorted(grids)} patches, are no batch: take one at a time")
    rows, cols = grids.pop()
    patch = isqrt(patches.shape[2] // channels)
    found = patches[:, : rows * cols].reshape(len(patches), rows, cols, patch, patch, channels)
    return found.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patches_fitted(processor: Any) -> Callable[[Size], Size] | None:
    """Size of an image -> that of it made up of as many patches as an image processor allows, in about its proportions.

    None of a processor that does not resize so.
    """
    modules = (sys.modules.get(kind.__module__) for kind in type(processor).__mro__)
    fit = next((getattr(module, FITTING) for module in modules if hasattr(module, FITTING)), None)
    if fit is None or not processor.do_resize:
        return None

    def fitted(image: Size) -> Size:
        height, width = fit(image[1], image[0], processor.patch_size, processor.max_num_patches)
        return width, height

    return fitted
