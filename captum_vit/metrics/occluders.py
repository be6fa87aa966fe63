"""What stands where a perturbed image does not show itself."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, OptionError, brief

Occluder = Tensor | float | Literal["mean", "blur", "tokens"] | Callable[[Tensor], Tensor]


def black(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Black as the model is given it: the value of a pixel of 0 after the normalisation, (C, 1, 1)."""
    return (-torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)


def blur(images: Tensor) -> Tensor:
    """Images blurred as in RISE's program: 11x11 Gaussian, sigma 5, zeros beyond the image.

    The kernel is what a Gaussian filter makes of a single point in a frame of 11x11 whose edges reflect; it sums to 1.
    """
    reach, sigma, radius = 11, 5.0, 20  # scipy's Gaussian ends after 4 sigma
    wide = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    place = (torch.arange(-radius, radius + 1) + reach // 2) % (2 * reach)  # reflected: d c b a | a b c d | d c b a
    place = torch.minimum(place, 2 * reach - 1 - place)
    line = torch.zeros(reach, dtype=torch.float64).index_add_(0, place, wide / wide.sum())
    line = line.to(images)
    channels = images.shape[1]
    down = F.conv2d(images, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), padding=(reach // 2, 0), groups=channels)
    return F.conv2d(down, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), padding=(0, reach // 2), groups=channels)


def mean_colour(images: Tensor) -> Tensor:
    """The mean of each image's pixels, (N, C, 1, 1)."""
    return images.mean((2, 3), keepdim=True)


def occlusion(occluder: Occluder, images: Tensor) -> Tensor:
    """What stands where the images (N, C, H, W) do not, of the same shape, dtype and device.

    Raises:
        OptionError: an unknown word.
        InputError: it does not broadcast to the images.
    """
    if isinstance(occluder, str):
        occluder = {"blur": blur, "mean": mean_colour}.get(occluder, occluder)
    if callable(occluder):
        occluder = occluder(images)
    if isinstance(occluder, str):
        raise OptionError(
            f"occluder must be a number, a tensor, 'mean', 'blur', 'tokens' or a function, got {brief(occluder)}"
        )
    try:
        return torch.as_tensor(occluder, dtype=images.dtype, device=images.device).expand_as(images)
    except RuntimeError as error:
        raise InputError(f"the occluder does not broadcast to images {tuple(images.shape)}: {error}") from error
