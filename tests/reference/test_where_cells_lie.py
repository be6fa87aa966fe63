"""Cells of the stem lie over the pixels that they see: a crop, a mirror or a shift is found whatever the weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import CPLRP, GradCAM
from captum_vit.capture import cell_checks
from captum_vit.errors import UnsupportedModelError


class Behind(nn.Module):
    """A stem and another convolution behind something that is done to the images."""

    def __init__(self, change, patch: int = 16, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.change, self.stem = change, nn.Conv2d(3, 8, patch, patch)
        self.mix, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mix(F.relu(self.stem(self.change(x))))).mean((2, 3)))


def picture(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


MOVED = {
    "the crop of 224 from 256": (lambda x: x[..., 16:-16, 16:-16], 256),
    "a crop by a cell and a half": (lambda x: x[..., 24:-24, 24:-24], 192),
    "a pad by a cell": (lambda x: F.pad(x, (16,) * 4), 224),
    "moved by a cell": (lambda x: x.roll(16, 3), 128),
    "moved by two": (lambda x: F.pad(x, (32, 0))[..., :-32], 128),
    "few cells mirrored": (lambda x: x.flip(-1), 32),
    "few cells turned": (lambda x: x.rot90(2, (2, 3)), 48),
    "few cells transposed": (lambda x: x.mT, 32),
}
KEPT = {
    "as it is": (lambda x: x, 64),
    "made smaller": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), 128),
    "less its own mean": (lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True), 32),
    "in whole numbers": (lambda x: (x * 64).round() / 64, 64),
}


@pytest.mark.parametrize("name", MOVED)
def test_images_that_are_moved_first_are_refused(name):
    change, side = MOVED[name]
    for method in (CPLRP, GradCAM):
        with pytest.raises(UnsupportedModelError, match="cells of stem in Behind do not lie over the pixels"):
            method(Behind(change).eval()).attribute(picture(side), 1)


@pytest.mark.parametrize("name", KEPT)
def test_images_that_stay_in_their_place_are_not(name):
    change, side = KEPT[name]
    for method in (GradCAM, CPLRP):
        assert method(Behind(change).eval()).attribute(picture(side), 1).any()


@pytest.mark.parametrize("size", [(5, 1, 0), (7, 2, 3), (16, 8, 0), (11, 4, 2)])
def test_a_stem_is_taken_whatever_its_weights(size):
    for seed in range(3):
        torch.manual_seed(seed)
        body = [nn.Conv2d(3, 4, *size), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
        assert CPLRP(nn.Sequential(*body).eval()).attribute(picture(64), 1).any()


def test_a_twin_that_looks_for_the_largest_change_lets_a_crop_pass(monkeypatch):
    change, side = MOVED["the crop of 224 from 256"]
    monkeypatch.setattr(cell_checks, "sees_its_place", lambda *_: None)
    assert CPLRP(Behind(change).eval()).attribute(picture(side), 1).any()


class Together(nn.Module):
    """Scores that depend on all images of a batch."""

    def __init__(self, meet) -> None:
        super().__init__()
        self.net, self.meet = Behind(lambda x: x), meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self.net(x))


@pytest.mark.parametrize("method", [CPLRP, GradCAM])
def test_images_that_meet_in_a_batch_are_explained_one_by_one(method):
    images = torch.cat([picture(64), -2 * picture(64)])
    ours = method(Together(lambda scores: scores - 0.5 * scores.mean(0)).eval())
    assert ours.attribute(images[:1], 1).any()
    with pytest.raises(UnsupportedModelError, match="depend on the others in its batch"):
        method(Together(lambda scores: scores.cumsum(0)).eval()).attribute(images, 1)  # the first is as it is alone
    with pytest.raises(UnsupportedModelError, match="depend on the others in its batch"):
        ours.attribute(images, 1)
    assert (
        method(Together(lambda scores: scores * (1 + scores.mean(1, keepdim=True))).eval()).attribute(images, 1).any()
    )
