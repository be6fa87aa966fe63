"""Captum's own attributions as methods of ours: the values of the pixels, summed where the patches lie."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient
from torch import Tensor, nn

from captum_vit.attr.captum_methods import method_of_captum
from tests.helpers import assert_close, images, timm_vit


class Owner(nn.Module):
    """Shows its ViT, of 32 x 32 pixels with patches of 8, something of an image."""

    def __init__(self, shown: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.vit, self.shown = timm_vit(), shown

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(self.shown(x))


def enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x[..., 6:22, 3:19], (32, 32), mode="bilinear")


OWNERS = {  # what is shown; top, left and side of the patches on the image
    "all, halved": (lambda x: F.avg_pool2d(x, 2), (64, 64), (0, 0, 16)),
    "a crop": (lambda x: x[..., 4:36, 8:40], (40, 44), (4, 8, 8)),
    "a crop, enlarged": (enlarged, (40, 44), (6, 3, 4)),
    "padded": (lambda x: F.pad(x, (4, 4, 8, 8)), (16, 24), (-8, -4, 8)),
}


@pytest.mark.parametrize("shown", OWNERS)
def test_pixels_are_summed_where_the_patches_lie(shown):
    show, size, (top, left, side) = OWNERS[shown]
    model, x = Owner(show).double(), images(2, size).double()
    pixels = InputXGradient(model).attribute(x.clone().requires_grad_(), target=1).sum(1)
    expected = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    for row in range(size[0]):
        for column in range(size[1]):
            place = (row - top) // side, (column - left) // side
            if min(place) >= 0 and max(place) < 4:
                expected[:, 0, place[0], place[1]] += pixels[:, row, column]
    assert_close(method_of_captum(InputXGradient)(model).attribute(x, 1), expected.detach(), 1e-6)
