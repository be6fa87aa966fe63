"""Which token a voxel goes into is told by several directions: in one of them it may weigh next to nothing."""

import pytest
import torch
from torch import Tensor, nn

from captum_vit.capture import labels
from captum_vit.errors import UnsupportedModelError

HEADS, WIDTH, SIDE, GRID = 2, 4, 4, (2, 3, 4)


def values_of(volume: Tensor) -> Tensor:
    """Values (1, H, N, d) of patches, in whose first direction one voxel of each patch weighs nothing but rounding."""
    stem = nn.Conv3d(1, HEADS * WIDTH, SIDE, stride=SIDE)
    first = torch.randn(HEADS, 1, WIDTH, generator=torch.Generator().manual_seed(0)).flatten()
    with torch.no_grad():
        weight = torch.randn(stem.weight.shape, generator=torch.Generator().manual_seed(1))
        own = weight[:, 0, 1, 2, 3]
        own -= (own @ first) / (first @ first) * first - 1e-7 * first
        stem.weight.copy_(weight)
    return stem(volume).flatten(2).unflatten(1, (HEADS, WIDTH)).mT


def found() -> labels.Patches:
    draw = torch.Generator().manual_seed(2)
    volume = torch.randn(1, 1, *(SIDE * n for n in GRID), generator=draw).requires_grad_()
    return labels.patches_of(values_of(volume), volume, "a model")


def test_a_voxel_that_weighs_nothing_in_one_direction_is_told_by_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "_of_centres", lambda *_: None)  # the way that would take long
    patches = found()
    assert (patches.grid, patches.patch) == (GRID, (SIDE, SIDE, SIDE))
    assert patches.tokens.tolist() == list(range(24))


def test_by_one_direction_it_would_not_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "_of_centres", lambda *_: None)
    monkeypatch.setattr(labels, "TRIES", 1)
    with pytest.raises(UnsupportedModelError, match="is no grid of equal cells"):
        found()


def test_centres_tell_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "TRIES", 1)
    patches = found()
    assert (patches.grid, patches.patch) == (GRID, (SIDE, SIDE, SIDE))
    assert patches.tokens.tolist() == list(range(24))
