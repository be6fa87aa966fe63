"""The display of a flow against the pictures of DAAM's own program."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_vit.visualization import flow_display

EXPECTED = np.load(Path(__file__).parent / "data" / "expected.npz")
PICTURES = [
    ("daam_blocks", "daam_flow_uint8", False),
    ("daam_blocks", "daam_flow_uint8_blocknorm", True),
    ("ss_daam_blocks", "ss_daam_flow_uint8", False),
]


def flow_of(blocks: str) -> Tensor:
    return torch.from_numpy(EXPECTED[blocks]).cumsum(1)


def levels_off(shown: Tensor, picture: str) -> int:
    expected = EXPECTED[picture]
    assert shown.dtype == torch.uint8
    assert shown.shape == expected.shape
    return np.abs(shown.numpy().astype(int) - expected.astype(int)).max()


@pytest.mark.parametrize(("blocks", "picture", "block_norm"), PICTURES)
def test_the_published_display(blocks, picture, block_norm):
    assert levels_off(flow_display(flow_of(blocks), size=(64, 64), block_norm=block_norm), picture) <= 1


@pytest.mark.parametrize(("blocks", "picture", "block_norm"), PICTURES)
@pytest.mark.xfail(strict=True, reason="broken on purpose: the comparison has to see it")
def test_without_the_sigmoid(blocks, picture, block_norm):
    flow = flow_of(blocks)
    flow = (flow - flow.amin((2, 3), True)) / (flow.amax((2, 3), True) - flow.amin((2, 3), True))
    shown = torch.nn.functional.interpolate(flow, (64, 64), mode="bilinear")
    assert levels_off((255 * shown).to(torch.uint8), picture) <= 1


@pytest.mark.xfail(strict=True, reason="broken on purpose: block_norm has to matter")
def test_blocks_as_they_are():
    assert levels_off(flow_display(flow_of("daam_blocks"), size=(64, 64)), "daam_flow_uint8_blocknorm") <= 1


def test_a_flow_without_evidence_is_black():
    assert not flow_display(torch.zeros(1, 2, 3, 4)).any()
    assert not flow_display(torch.zeros(1, 2, 3, 4), block_norm=True).any()
