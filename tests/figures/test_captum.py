"""Captum's own figures of our maps."""

from dataclasses import replace

import numpy as np
import pytest
from captum.attr import visualization as captum
from matplotlib.figure import Figure

from tests.figures.made import explanation

COLOURED = ["heat_map", "blended_heat_map"]
ONE_SIGN = ["positive", "absolute_value"]


def signed():
    """An explanation whose map has both signs."""
    e = explanation()
    flow = e.attributions[0].flow - 2
    assert flow[-1].min() < 0 < flow[-1].max()
    return replace(e, attributions=(replace(e.attributions[0], flow=flow),))


def drawn(figure: Figure) -> None:
    figure.draw_without_rendering()


def test_what_captum_is_given():
    e = explanation(size=(240, 160))
    attr, image = e.for_captum()
    assert (attr.shape, attr.dtype) == ((160, 240, 1), np.float32)
    assert np.array_equal(image, np.asarray(e.image))
    assert not attr[:, :40].any()
    assert not attr[:, 200:].any()
    assert attr[:, 40:200].min() == pytest.approx(e.maps.min().item())
    assert attr.max() == pytest.approx(e.maps.max().item())


@pytest.mark.parametrize("sign", [*ONE_SIGN, "all"])
@pytest.mark.parametrize("method", COLOURED)
def test_the_hottest_place_is_ours(method, sign):
    attr, image = explanation().for_captum()
    figure, axes = captum.visualize_image_attr(attr, image, method, sign, use_pyplot=False, show_colorbar=True)
    drawn(figure)
    shown = axes.images[-1].get_array()
    assert strongest(shown) == divmod(explanation().maps.argmax().item(), 4)


@pytest.mark.parametrize("sign", ONE_SIGN)
@pytest.mark.parametrize("method", ["masked_image", "alpha_scaling", "original_image"])
def test_pictures_without_colours(method, sign):
    attr, image = explanation().for_captum()
    figure, axes = captum.visualize_image_attr(attr, image, method, sign, use_pyplot=False)
    drawn(figure)
    assert axes.images[-1].get_array().shape[:2] == image.shape[:2]


def strongest(values: np.ndarray) -> tuple[int, int]:
    """Row and column of the patch with the greatest of the values (height, width) on the photograph."""
    y, x = np.unravel_index(values.argmax(), values.shape)
    return y // 40, (x - 40) // 40


@pytest.mark.parametrize("sign", [*ONE_SIGN, "negative", "all"])
def test_a_map_of_both_signs(sign):
    e = signed()
    figure, axes = captum.visualize_image_attr(*e.for_captum(), "blended_heat_map", sign, use_pyplot=False)
    drawn(figure)
    shown, grid = axes.images[-1].get_array(), e.maps[0, 0].numpy()
    highest, lowest = (np.unravel_index(place, grid.shape) for place in (grid.argmax(), grid.argmin()))
    largest = np.unravel_index(np.abs(grid).argmax(), grid.shape)
    assert strongest(shown) == {"negative": lowest, "absolute_value": largest}.get(sign, highest)
    if sign == "all":
        assert strongest(-shown) == lowest
    else:
        assert shown.min() >= 0


def test_several_at_once():
    methods = ["original_image", *COLOURED, "masked_image", "alpha_scaling"]
    signs = ["all", "all", "positive", "positive", "absolute_value"]
    figure, axes = captum.visualize_image_attr_multiple(
        *explanation().for_captum(), methods, signs, titles=methods, show_colorbar=True, use_pyplot=False
    )
    assert [ax.get_title() for ax in axes] == methods
    drawn(figure)


@pytest.mark.xfail(strict=True, raises=(AssertionError, ValueError), reason="broken on purpose: maps alone do not fit")
def test_the_grid_as_it_is():
    e = explanation()
    attr = e.maps[0].permute(1, 2, 0).numpy()
    figure, axes = captum.visualize_image_attr(
        attr, np.asarray(e.image), "blended_heat_map", "positive", use_pyplot=False
    )
    drawn(figure)
    assert axes.images[-1].get_array().shape == e.image.size[::-1]
