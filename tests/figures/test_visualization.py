"""Maps as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit.errors import InputError, OptionError
from captum_vit.visualization import heatmap, overlay, sheet

LOWEST, HIGHEST = (12, 7, 134), (239, 248, 33)  # of plasma


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def hottest(image: Image.Image) -> tuple[float, float]:
    """Centre (x, y) of the pixels nearest to the highest colour."""
    distance = np.abs(pixels(image) - HIGHEST).sum(-1)
    y, x = np.nonzero(distance <= distance.min() + 5)
    return x.mean() + 0.5, y.mean() + 0.5


def spot(rows: int, cols: int, row: int, col: int) -> torch.Tensor:
    grid = torch.zeros(rows, cols)
    grid[row, col] = 3.0
    return grid


def test_a_heatmap_runs_from_the_lowest_to_the_highest_colour():
    drawn = heatmap(spot(2, 3, 1, 2), (30, 20))
    assert drawn.size == (30, 20)
    assert drawn.getpixel((0, 0)) == LOWEST
    assert drawn.getpixel((29, 19)) == HIGHEST


def test_scale_and_offset_do_not_matter():
    grid = torch.rand(4, 4)
    assert np.array_equal(pixels(heatmap(grid, (16, 16))), pixels(heatmap(5 * grid - 2, (16, 16))))
    assert np.array_equal(pixels(heatmap(grid, (16, 16))), pixels(heatmap(grid.numpy(), (16, 16))))


def test_a_constant_map_is_low_everywhere():
    assert (pixels(heatmap(torch.full((3, 3), 7.0), (6, 6))) == LOWEST).all()


@pytest.mark.parametrize("box", [None, (40, 0, 160, 120), (10.4, 20.6, 190.2, 99.5), (-30, -10, 230, 130)])
def test_a_patch_lies_where_the_model_saw_it(box):
    image = Image.new("RGB", (200, 120), "white")
    drawn = overlay(image, spot(6, 10, 4, 3), box, alpha=1)
    left, top, right, bottom = box or (0, 0, 200, 120)
    expected = left + (right - left) * 3.5 / 10, top + (bottom - top) * 4.5 / 6
    assert hottest(drawn) == pytest.approx(expected, abs=0.6)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the crop has to be noticed")
def test_the_crop_forgotten():
    image = Image.new("RGB", (200, 120), "white")
    drawn = overlay(image, spot(6, 10, 4, 3), None, alpha=1)
    assert hottest(drawn) == pytest.approx((40 + 120 * 0.35, 90), abs=0.6)


def test_unseen_pixels_are_grey_and_seen_ones_never():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8))
    drawn = pixels(overlay(image, torch.rand(6, 6), (40, 0, 160, 120)))
    spread = drawn.max(-1) - drawn.min(-1)
    assert spread[:, :40].max() == spread[:, 160:].max() == 0
    assert drawn[:, :40].min() >= 110
    assert spread[:, 40:160].min() > 20
    assert drawn.shape == (120, 200, 3)


def test_alpha():
    image = Image.new("RGB", (20, 20), (10, 200, 30))
    assert (pixels(overlay(image, torch.rand(2, 2), alpha=0)) == image.convert("L").getpixel((0, 0))).all()
    with pytest.raises(OptionError, match="alpha must be between 0 and 1, got 2"):
        overlay(image, torch.rand(2, 2), alpha=2)


def test_maps_that_cannot_be_drawn():
    with pytest.raises(InputError, match=r"expected one map of shape \(rows, cols\), got \(1, 2, 2\)"):
        heatmap(torch.rand(1, 2, 2), (4, 4))
    with pytest.raises(InputError, match="NaN or infinite"):
        heatmap(torch.tensor([[0.0, float("nan")]]), (4, 4))
    with pytest.raises(InputError, match="holds no pixel of the image, which is 4x4"):
        overlay(Image.new("RGB", (4, 4)), torch.rand(2, 2), (9, 0, 12, 4))
    with pytest.raises(OptionError, match="matplotlib has no colour map 'rainbows'"):
        heatmap(torch.rand(2, 2), (4, 4), cmap="rainbows")


def test_a_sheet_holds_every_picture_and_leaves_gaps_white():
    red, blue = Image.new("RGB", (80, 40), "red"), Image.new("RGB", (10, 20), "blue")
    drawn = sheet([[("a red one", red), ("blue", blue)], [None, ("$\\frac{1}{2}$ [red]x\nü 猫 " * 9, red)]], side=100)
    shown = pixels(drawn)
    assert (shown == (255, 0, 0)).all(-1).sum() == 2 * 100 * 50
    assert (shown == (0, 0, 255)).all(-1).sum() == 50 * 100
    half = shown[shown.shape[0] // 2 + 10 :, : shown.shape[1] // 2 - 5]
    assert (half == 255).all()
    with pytest.raises(InputError, match="at least one picture"):
        sheet([[None]])
