"""Maps as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit.colours import SIGNED_CMAP, Look, Scale, nearly_flat, palette
from captum_vit.errors import InputError, OptionError
from captum_vit.geometry import Box, View
from captum_vit.visualization import flow_display, heatmap, overlay, sheet

LOWEST, HIGHEST = (12, 7, 134), (239, 248, 33)  # of plasma
AGAINST, NEITHER, FOR = (78, 202, 255), (44, 44, 44), (255, 166, 38)
OPAQUE = Look(alpha=1.0, fade=False)


def pixels(image: Image.Image) -> np.ndarray:
    """Colours alone."""
    return np.asarray(image.convert("RGB")).astype(int)


def looking_at(box: Box | None) -> View | None:
    """The view of a model whose input of 64 x 64 pixels is this part of an image of 200 x 120."""
    if box is None:
        return None
    left, top, right, bottom = box
    across, down = 64 / (right - left), 64 / (bottom - top)
    window = (max(left, 0), max(top, 0), min(right, 200), min(bottom, 120))
    return View((200, 120), (64, 64), (across, down), (left * across, top * down), window)


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
    assert drawn.getpixel((0, 0)) == (*LOWEST, 0)
    assert drawn.getpixel((29, 19)) == (*HIGHEST, 204)


def test_a_heatmap_is_transparent_where_nothing_was_seen_and_only_there():
    drawn = np.asarray(heatmap(torch.rand(6, 6), None, looking_at((40, 0, 160, 120)), OPAQUE))
    assert drawn.shape == (120, 200, 4)
    assert (drawn[:, 40:160, 3] == 255).all()
    assert not drawn[:, :40, 3].any()
    assert not drawn[:, 160:, 3].any()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the view has to be noticed")
def test_a_heatmap_over_all_of_the_image():
    assert not np.asarray(heatmap(torch.rand(6, 6), (200, 120), look=OPAQUE))[:, :40, 3].any()


def test_padding_hides_nothing_of_the_image():
    assert (np.asarray(heatmap(torch.rand(6, 6), None, looking_at((-30, -10, 230, 130)), OPAQUE))[..., 3] == 255).all()


def test_a_heatmap_of_a_smaller_copy_is_transparent_at_the_same_place():
    drawn = np.asarray(heatmap(torch.rand(6, 6), (100, 60), looking_at((40, 0, 160, 120)), OPAQUE))
    assert drawn.shape == (60, 100, 4)
    assert not drawn[:, :20, 3].any()
    assert (drawn[:, 20:80, 3] == 255).all()


def test_colours_in_a_scale_that_is_given():
    grid = torch.tensor([[0.0, 1.0, 4.0]])
    drawn = heatmap(grid, (3, 1), look=Look(scale=(1, 2)), smooth=False)
    assert [drawn.getpixel((x, 0))[:3] for x in range(3)] == [LOWEST, LOWEST, HIGHEST]
    same = heatmap(grid, (3, 1), scale=Scale(0, 4))
    assert np.array_equal(pixels(same), pixels(heatmap(grid, (3, 1))))


def test_patches_as_rectangles():
    drawn = pixels(heatmap(spot(2, 2, 0, 1), (20, 20), smooth=False))
    assert (drawn[:10, 10:] == HIGHEST).all()
    assert (drawn[10:] == LOWEST).all()
    assert (drawn[:, :10] == LOWEST).all()


def test_scale_and_offset_do_not_matter():
    grid = torch.rand(4, 4)
    assert np.array_equal(pixels(heatmap(grid, (16, 16))), pixels(heatmap(5 * grid + 2, (16, 16))))
    assert np.array_equal(
        pixels(heatmap(grid, (16, 16))),
        pixels(heatmap(5 * grid - 2, (16, 16), scale=Scale.of([5 * grid - 2], signed=False))),
    )
    assert np.array_equal(pixels(heatmap(grid, (16, 16))), pixels(heatmap(grid.numpy(), (16, 16))))


def test_a_constant_map_is_low_everywhere():
    assert (pixels(heatmap(torch.full((3, 3), 7.0), (6, 6))) == LOWEST).all()


def test_a_map_that_is_nearly_flat_stays_in_the_lower_colours():
    """0.19 to 0.21 is a tenth of the greatest value, and takes 0.4 of the quarter that the colours span at least."""
    for grid, flat, top in [((0.19, 0.21), True, 97), ((0.75, 1.0), True, 255), ((0.7, 1.0), False, 255)]:
        values = torch.tensor([grid])
        assert nearly_flat(values) == flat
        assert Scale.of([values]).levels(values.numpy())[0].tolist() == [0, top]
    assert nearly_flat(torch.zeros(1, 3))
    assert nearly_flat(torch.tensor([[-1.0, -0.9]]))
    assert not nearly_flat(torch.tensor([[-0.1, 0.1]]))


def in_patches(grid: torch.Tensor, signed: bool | None = None, **look) -> list[tuple[int, ...]]:
    """The colour of each patch of a map with one row."""
    scale = None if signed is None else Scale.of([grid], signed)
    drawn = heatmap(grid, (grid.shape[1], 1), look=Look(**look), smooth=False, scale=scale)
    return [drawn.getpixel((x, 0))[:3] for x in range(drawn.width)]


def test_a_map_of_two_signs_has_two_colours_around_zero():
    for grid in (torch.tensor([[-4.0, 0.0, 4.0]]), torch.tensor([[-4e-9, 0.0, 4e-9]])):
        assert in_patches(grid) == [AGAINST, NEITHER, FOR]
    longer = torch.tensor([[-1.0, 0.0, 4.0]])
    assert in_patches(longer)[1:] == [NEITHER, FOR]
    assert in_patches(longer)[0] == in_patches(torch.tensor([[-4.0, -1.0, 0.0]]))[1]  # the same value, the same colour
    assert in_patches(torch.tensor([[-4.0, -1.0]]))[0] == AGAINST


def test_what_decides_whether_there_are_two_signs():
    grid = torch.tensor([[0.0, 1.0, 4.0]])
    assert in_patches(grid)[::2] == [LOWEST, HIGHEST]
    assert in_patches(grid, signed=True)[::2] == [NEITHER, FOR]
    assert in_patches(torch.tensor([[-1e-8, 4.0]])) == [LOWEST, HIGHEST]  # rounding
    assert in_patches(grid - 4, signed=False)[::2] == [LOWEST, HIGHEST]
    assert in_patches(torch.zeros(1, 3), signed=True) == [NEITHER] * 3
    assert in_patches(torch.zeros(1, 3)) == [LOWEST] * 3


def test_two_signs_in_a_scale_and_in_colours_that_are_given():
    grid = torch.tensor([[-1.0, 0.0, 1.0]])
    assert in_patches(grid, scale=(-0.5, 1)) == [AGAINST, NEITHER, FOR]
    assert in_patches(grid, scale=(-1, 4))[1] == NEITHER
    grey = in_patches(grid, cmap="gray")
    assert (grey[0], grey[2]) == ((0, 0, 0), (255, 255, 255))
    assert grey[1] == (128, 128, 128)


def lightness(colours: np.ndarray) -> np.ndarray:
    """L of OKLab, by Ottosson's published matrices, for sRGB in 0..255."""
    c = colours / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(lms) @ (0.2104542553, 0.7936177850, -0.0040720468)


def even(colours: np.ndarray) -> None:
    """Both arms grow in steps of one size, and are as bright as each other at the same distance from 0."""
    found = lightness(colours)
    assert found[1:129] == pytest.approx(found[:127:-1], abs=0.01)
    assert found[128:] == pytest.approx(np.linspace(found[128], found[255], 128), abs=0.01)
    assert found[128] == found.min()
    assert len(set(colours[128])) == 1


def test_the_two_colours_are_even():
    even(palette(SIGNED_CMAP))


@pytest.mark.parametrize("cmap", ["bwr", "coolwarm", "PuOr", "plasma"])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: other colours have to be noticed")
def test_colours_that_are_not_even(cmap):
    even(palette(cmap))


@pytest.mark.parametrize("cone", [0, 1, 2], ids=["protanopia", "deuteranopia", "tritanopia"])
def test_the_two_colours_differ_for_colour_blind_people(cone):
    """By the matrices of Machado, Oliveira and Fernandes 2009, severity 1."""
    seen = np.array(
        [
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ]
    )[cone]
    against, neither, for_ = (seen @ np.array(c) for c in (AGAINST, NEITHER, FOR))
    assert min(np.linalg.norm(against - for_), np.linalg.norm(against - neither), np.linalg.norm(for_ - neither)) > 120


def signed_flow() -> torch.Tensor:
    """(1, 3, 1, 4): one patch grows for, one against, one stays 0, one turns."""
    return torch.tensor([[[0.1, -0.1, 0.0, 0.02]], [[0.5, -0.2, 0.0, -0.1]], [[2.0, -1.0, 0.0, -0.5]]])[None]


def test_daams_display_of_two_signs_keeps_zero_and_the_sign():
    flow = signed_flow()
    for block_norm in (False, True):
        shown = flow_display(flow, signed=True, block_norm=block_norm).int() - 128
        assert torch.equal(shown.sign()[..., :3], flow.sign()[..., :3].int())
        assert shown.abs().amax((2, 3)).tolist() == [[127, 127, 127]]
        mirrored = flow_display(-flow, signed=True, block_norm=block_norm).int() - 128
        assert (shown + mirrored).abs().max() <= 1
    curve = torch.sigmoid(5 * flow / 2) - 0.5
    expected = 127 * curve / curve.abs().amax((2, 3), keepdim=True)
    assert (flow_display(flow, signed=True).int() - 128 - expected).abs().max() <= 0.5
    assert (flow_display(torch.zeros(1, 2, 3, 4), signed=True) == 128).all()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: what the authors' program would do")
def test_daams_display_of_two_signs_as_of_one():
    shown = flow_display(signed_flow()).int() - 128
    assert torch.equal(shown.sign()[..., :3], signed_flow().sign()[..., :3].int())


def opacities(grid: torch.Tensor, **look) -> list[int]:
    drawn = heatmap(grid, (grid.shape[1], 1), look=Look(**look), smooth=False)
    return np.asarray(drawn)[0, :, 3].tolist()


def test_opacity_follows_the_value_or_is_the_same_everywhere():
    assert opacities(torch.tensor([[0.0, 1.0, 2.0, 4.0]]), alpha=1.0) == [0, 64, 128, 255]
    assert opacities(torch.tensor([[-4.0, 0.0, 2.0]]), alpha=0.5) == [128, 0, 63]
    assert opacities(torch.tensor([[0.0, 1.0, 4.0]]), alpha=0.5, fade=False) == [128, 128, 128]


def test_below_the_threshold_the_photograph_is_bare():
    assert opacities(torch.tensor([[0.0, 1.0, 3.0, 4.0]]), threshold=0.5, fade=False, alpha=1.0) == [0, 0, 255, 255]
    assert opacities(torch.tensor([[-4.0, -1.0, 3.0]]), threshold=0.5, fade=False, alpha=1.0) == [255, 0, 255]


def test_boosted_values_are_those_of_daams_display():
    """Where a map begins at 0; and of two signs."""
    values = torch.linspace(0, 1, 256)[None]
    curve = (torch.sigmoid(5 * values) - 0.5) / (torch.sigmoid(torch.tensor(5.0)) - 0.5)
    colours = np.array(in_patches(values, boost_faint=True))
    assert np.array_equal(colours, palette("plasma")[(255 * curve[0]).round().int().numpy()])
    both = torch.tensor([[-0.25, 0.0, 0.25, 1.0]])
    against, neither, for_, _ = in_patches(both, boost_faint=True)
    assert neither == NEITHER
    for found, sign in ((for_, 1), (against, -1)):
        wanted = palette(SIGNED_CMAP)[128 + round(sign * 127 * float(curve[0, 64]))].astype(int)
        assert np.abs(found - wanted).max() <= 4  # one level of the 127 on each side


def test_a_contour_runs_where_the_share_is_reached():
    """White just within, black just outside, and nothing on what was never seen."""
    grid = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]])
    row = pixels(heatmap(grid, (6, 1), look=Look(contour=0.5), smooth=False))[0].tolist()
    plain = pixels(heatmap(grid, (6, 1), smooth=False))[0].tolist()
    assert row == [*plain[:2], [0, 0, 0], [255, 255, 255], *plain[4:]]
    photo, view = Image.new("RGB", (200, 120), "white"), looking_at((40, 0, 160, 120))
    lined = pixels(overlay(photo, torch.rand(6, 6), view, Look(contour=0.4)))
    assert (lined[:, 40:160] == 0).all(-1).any()
    assert np.array_equal(lined[:, :40], pixels(overlay(photo, torch.rand(6, 6), view))[:, :40])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scale": "mine"}, r'scale must be "own", "common" or \(low, high\), got'),
        ({"scale": (1, 0)}, r"from a lower to a higher finite value, got \(1, 0\)"),
        ({"scale": (0, float("nan"))}, "finite"),
        ({"alpha": 60}, "alpha must be between 0 and 1, got 60"),
        ({"threshold": None}, "threshold must be between 0 and 1, got None"),
        ({"contour": "half"}, "contour must be between 0 and 1, got 'half'"),
        ({"boost_faint": 1}, "boost_faint must be True or False, got 1"),
        ({"cmap": "rainbows"}, "matplotlib has no colour map 'rainbows'"),
        ({"cmap": 7}, "a colour map is a name of matplotlib's, as 'plasma', got 7"),
    ],
)
def test_looks_that_there_are_not(given, told):
    with pytest.raises(OptionError, match=told):
        Look(**given)
    with pytest.raises(OptionError, match=r"look must be a captum_vit.Look, as Look\(alpha=0.5\), got 'plasma'"):
        heatmap(torch.rand(2, 2), (4, 4), look="plasma")


@pytest.mark.parametrize("box", [None, (40, 0, 160, 120), (10.4, 20.6, 190.2, 99.5), (-30, -10, 230, 130)])
def test_a_patch_lies_where_the_model_saw_it(box):
    image = Image.new("RGB", (200, 120), "white")
    drawn = overlay(image, spot(6, 10, 4, 3), looking_at(box), OPAQUE)
    left, top, right, bottom = box or (0, 0, 200, 120)
    expected = left + (right - left) * 3.5 / 10, top + (bottom - top) * 4.5 / 6
    assert hottest(drawn) == pytest.approx(expected, abs=0.6)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the crop has to be noticed")
def test_the_crop_forgotten():
    image = Image.new("RGB", (200, 120), "white")
    drawn = overlay(image, spot(6, 10, 4, 3), None, OPAQUE)
    assert hottest(drawn) == pytest.approx((40 + 120 * 0.35, 90), abs=0.6)


def test_unseen_pixels_are_grey_and_seen_ones_never():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8))
    drawn = pixels(overlay(image, torch.rand(6, 6), looking_at((40, 0, 160, 120)), Look(fade=False)))
    spread = drawn.max(-1) - drawn.min(-1)
    assert spread[:, :40].max() == spread[:, 160:].max() == 0
    assert 128 <= drawn[:, :40].min() < 160
    assert drawn[:, :40].max() <= 223
    assert spread[:, 40:160].min() > 20
    assert drawn.shape == (120, 200, 3)


def test_alpha():
    image = Image.new("RGB", (20, 20), (10, 200, 30))
    assert (pixels(overlay(image, torch.rand(2, 2), look=Look(alpha=0))) == image.convert("L").getpixel((0, 0))).all()


def test_maps_that_cannot_be_drawn():
    with pytest.raises(InputError, match=r"expected one map of shape \(rows, cols\), got \(1, 2, 2\)"):
        heatmap(torch.rand(1, 2, 2), (4, 4))
    with pytest.raises(InputError, match="draw its slices one by one"):
        overlay(Image.new("RGB", (4, 4)), torch.rand(8, 2, 2))
    with pytest.raises(InputError, match=r"got \(1, 2, 3, 4, 5\): a video's flow is not drawn"):
        flow_display(torch.rand(1, 2, 3, 4, 5))
    with pytest.raises(InputError, match="NaN or infinite"):
        heatmap(torch.tensor([[0.0, float("nan")]]), (4, 4))
    with pytest.raises(InputError, match="needs the size of its picture, or a view"):
        heatmap(torch.rand(2, 2))
    with pytest.raises(InputError, match="leaves nothing of an image of 4x4"):
        View.of((4, 4)).cropped(9, 0, 3, 4)


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
