"""Copies of an image of which each different row is computed once: always what torch computes of all of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit.capture import repeated
from captum_vit.capture.repeated import Repeated, each_computed, of_patches, of_rows

WEIGHT = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))


def linear(x: Tensor) -> Tensor:
    return of_rows(x, lambda rows: F.linear(rows, WEIGHT))


def copies() -> Tensor:
    """(5, 6, 8): one image, and four copies in which some tokens are others."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 8, generator=draw).repeat(5, 1, 1)
    for copy in range(1, 5):
        x[copy, torch.arange(6) % 4 == copy - 1] = torch.ones(8)
    return x


def block(x: Tensor) -> Tensor:
    return x + F.gelu(linear(F.layer_norm(linear(x), (8,)))) * torch.arange(8.0)


def written_to(x: Tensor) -> Tensor:
    y = linear(x)
    y[:, 0] = y[:, 1:].mean(1)
    return linear(y)


def in_place(x: Tensor) -> Tensor:
    y = linear(x)
    z = y.mul_(2)
    y += torch.arange(6.0).view(1, 6, 1)
    return torch.cat([y, z, linear(y)], 1)


def moved(x: Tensor) -> Tensor:
    y = linear(x)
    return linear(y.roll(1, 1)) + y


def by_copy(x: Tensor) -> Tensor:
    """Something else for each copy, and for each token."""
    y = linear(x)
    return linear(y * torch.arange(5.0).view(5, 1, 1)) + linear(y + torch.arange(6.0).view(6, 1))


def over_tokens(x: Tensor) -> Tensor:
    y = linear(x)
    return F.layer_norm(y, (6, 8)) + y.softmax(1) + y.norm(dim=0)


def converted(x: Tensor) -> Tensor:
    y = linear(x).double()
    return torch.where(y > 0, y, y.clamp(-1, 0)).float() + linear(x).detach().clone()


PROGRAMS = [block, written_to, in_place, moved, by_copy, over_tokens, converted]


@torch.no_grad()
def same(program: object) -> bool:
    with each_computed():
        expected = program(copies())
    found = program(copies()) * 1
    return torch.allclose(found.full() if isinstance(found, Repeated) else found, expected, atol=1e-5)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_computed_once_is_what_torch_computes(program):
    assert isinstance(linear(copies()), Repeated)
    assert same(program)


def test_numbers_of_rows_are_no_proof_that_they_are_equal(monkeypatch):
    monkeypatch.setattr(repeated, "_weights", lambda width: torch.zeros(width))
    assert not isinstance(linear(copies()), Repeated)
    assert same(block)


@pytest.mark.parametrize("kind", ["plain", "overlapping", "padded"])
def test_patches_of_a_convolution(kind):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 9, 8, generator=draw).repeat(4, 1, 1, 1)
    images[1:, :, :4] = 0
    stem = torch.nn.Conv2d(3, 5, 4, 2 if kind == "overlapping" else 4, padding=int(kind == "padded"))
    args = (images, stem.weight, stem.bias, stem.stride, stem.padding)
    with torch.no_grad():
        found = of_patches(F.conv2d, args, {})
        assert torch.allclose(found + 0, F.conv2d(*args), atol=1e-5)


def lost(self: Repeated) -> Tensor:
    return self.rows[self.place]


TWINS = {
    "what is written is lost": (Repeated, "full", lost, written_to),
    "every function counts as one of single rows": (repeated, "_is_pointwise", lambda func: True, moved),
    "tokens with numbers of their own count as alike": (repeated, "_along_rows", lambda x: True, by_copy),
}


@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_way_is_seen(twin, monkeypatch):
    owner, name, wrong, program = TWINS[twin]
    monkeypatch.setattr(owner, name, wrong)
    try:
        found = same(program)
    except (RuntimeError, IndexError):
        found = False
    assert not found
