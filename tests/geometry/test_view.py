"""The view by itself: what is laid back on the image, point by point."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_vit.errors import InputError
from captum_vit.geometry import View

sides = st.integers(1, 300)


@st.composite
def views(draw: st.DrawFn) -> View:
    """A resize and a crop or padding, that leave something of the image."""
    width, height = draw(sides), draw(sides)
    view = View.of((draw(sides), draw(sides))).resized(width, height)
    left, top = draw(st.integers(-50, width - 1)), draw(st.integers(-50, height - 1))
    right, bottom = draw(st.integers(max(left, 0) + 1, width + 50)), draw(st.integers(max(top, 0) + 1, height + 50))
    return view.cropped(left, top, right - left, bottom - top)


@given(views(), st.floats(-20, 400), st.floats(-20, 400))
def test_there_and_back(view: View, x: float, y: float):
    np.testing.assert_allclose(view.to_original(view.to_input(np.array([x, y]))), [x, y], atol=1e-6)


@given(views())
def test_the_window_lies_in_the_image_and_in_the_input(view: View):
    left, top, right, bottom = view.window
    assert 0 <= left < right <= view.original[0] + 1e-9
    assert 0 <= top < bottom <= view.original[1] + 1e-9
    corners = view.to_input(np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]]))
    assert (corners > -0.5 - 1e-6).all()
    assert (corners < np.array(view.size) - 0.5 + 1e-6).all()


@given(views(), st.integers(1, 5), st.integers(1, 5))
def test_rectangles_are_where_their_cells_are(view: View, rows: int, cols: int):
    """Placed without smoothing, each pixel has the value of the cell that `cell_at` names."""
    values = np.arange(rows * cols, dtype=float).reshape(rows, cols)
    placed = view.place(values, smooth=False)
    assert placed.shape == view.original[::-1]
    rng = np.random.default_rng(0)
    for x, y in zip(rng.integers(0, view.original[0], 20), rng.integers(0, view.original[1], 20), strict=True):
        cell = view.cell_at(x, y, (rows, cols))
        if cell is None:
            assert np.isnan(placed[y, x])
        else:
            assert placed[y, x] == values[cell]


def by_hand(view: View, values: np.ndarray, x: int, y: int) -> float:
    """Bilinear interpolation at one pixel of the image, from its definition."""
    rows, cols = values.shape
    column, row = (view.to_input(np.array([x, y])) + 0.5) / view.size * (cols, rows) - 0.5
    column, row = min(max(column, 0), cols - 1), min(max(row, 0), rows - 1)
    left, top = int(column), int(row)
    right, below = min(left + 1, cols - 1), min(top + 1, rows - 1)
    across, down = column - left, row - top
    upper = values[top, left] * (1 - across) + values[top, right] * across
    lower = values[below, left] * (1 - across) + values[below, right] * across
    return upper * (1 - down) + lower * down


@given(views(), st.integers(1, 6), st.integers(1, 6))
def test_between_the_centres_of_cells_it_is_bilinear(view: View, rows: int, cols: int):
    values = np.random.default_rng(1).normal(size=(rows, cols))
    placed = view.place(torch.from_numpy(values))
    rng = np.random.default_rng(2)
    for x, y in zip(rng.integers(0, view.original[0], 20), rng.integers(0, view.original[1], 20), strict=True):
        if np.isfinite(placed[y, x]):
            assert placed[y, x] == pytest.approx(by_hand(view, values, x, y), abs=1e-4)


@given(views())
def test_as_json(view: View):
    assert View.from_dict(json.loads(json.dumps(view.to_dict()))) == view


def test_on_a_smaller_copy_of_the_image():
    view = View.of((400, 200)).resized(100, 50).cropped(25, 0, 50, 50)
    placed = view.place(np.array([[1.0, 2.0]]), (40, 20), smooth=False)
    assert placed.shape == (20, 40)
    assert np.isnan(placed[:, :10]).all()
    assert np.isnan(placed[:, 30:]).all()
    assert (placed[:, 10:20] == 1).all()
    assert (placed[:, 20:30] == 2).all()


def agrees(copy: View, view: View, smooth: bool) -> None:
    """What lies on the copy is what the view lays on an image of its size, but for rounding at an edge."""
    values = np.random.default_rng(3).normal(size=(3, 4))
    placed, expected = copy.place(values, smooth=smooth), view.place(values, copy.original, smooth=smooth)
    assert placed.shape == expected.shape
    kept = np.ix_(*(away_from_edges(copy, axis, cells) for axis, cells in ((1, 3), (0, 4))))
    np.testing.assert_allclose(placed[kept], expected[kept], atol=1e-4)


def away_from_edges(view: View, axis: int, cells: int) -> np.ndarray:
    """The pixels along an axis whose centres lie on no edge of the window or of a cell."""
    edges = [view.window[axis], view.window[axis + 2], *np.linspace(view.box[axis], view.box[axis + 2], cells + 1)]
    centres = np.arange(view.original[axis]) + 0.5
    return np.flatnonzero(np.abs(centres[:, None] - edges).min(1) > 1e-6)


copies = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(views(), copies, st.booleans())
def test_a_view_of_a_copy(view: View, size: tuple[int, int], smooth: bool):
    copy = view.of_copy(size)
    assert (copy.original, copy.size) == (size, view.size)
    agrees(copy, view, smooth)
    np.testing.assert_allclose(copy.of_copy(view.original).box, view.box, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("forgotten", ["scale", "window"])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: all of the view has to follow")
def test_a_view_that_does_not_follow(forgotten: str):
    view = View.of((400, 200)).resized(100, 50).cropped(25, 0, 50, 50)
    agrees(replace(view.of_copy((40, 30)), **{forgotten: getattr(view, forgotten)}), view, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 2, 2)), r"expected one map of shape \(rows, cols\)"),
        (np.zeros((0, 2)), r"expected one map of shape"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
        (torch.tensor([[float("inf"), 0.0]]), "NaN or infinite"),
    ],
)
def test_what_cannot_be_placed(values: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        View.of((4, 4)).place(values)


def test_what_leaves_nothing():
    with pytest.raises(InputError, match="leaves 0x4 pixels of an image of 4x4"):
        View.of((4, 4)).resized(0, 4)
    with pytest.raises(InputError, match="leaves nothing of an image of 4x4"):
        View.of((4, 4)).cropped(4, 0, 2, 2)
    with pytest.raises(InputError, match="at least one pixel, got 0x4"):
        View.of((4, 4)).of_copy((0, 4))
