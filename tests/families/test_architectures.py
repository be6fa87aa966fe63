"""Models that no adapter knows: what applies to each, that its score is accounted for, and that its cells lie there."""

import pytest
import torch

from captum_vit.attr import METHODS
from tests.families import architectures
from tests.families.architectures import ARCHITECTURES, Architecture, on_page, row_of, seen

OFF = 2  # cells, since convolutions overlap
checkout = pytest.mark.skipif(not architectures.PAGE.exists(), reason="runs from a checkout only")
MARKED = [
    pytest.param(one, marks=[pytest.mark.slow] if one.slow else [], id=f"{one.library}: {one.name}")
    for one in ARCHITECTURES
]


@checkout
@pytest.mark.parametrize("one", MARKED)
def test_scores_are_accounted_for_and_cells_lie_over_their_pixels(one: Architecture):
    model, image = one.made()
    found = seen(model, image)
    assert row_of(one, found) in on_page(architectures.PAGE.read_text()), "run `python -m tests.families.architectures`"
    errors = {name: error for name, error in found.errors.items() if not isinstance(error, str)}
    assert set(errors) in (set(), {"cp_lrp", "attn_lrp", "libragrad"})
    assert all(error <= 1e-6 for error in errors.values())
    if errors:
        grid, name = found.cells.split(" at ")
        check_place(model, image, name.strip("`"), [int(side) for side in grid.split(" x ")])


def check_place(model: torch.nn.Module, image: torch.Tensor, name: str, grid: list[int]) -> None:
    """The stem's cell over a patch of pixels is among those that change most with it."""
    place = [side // 8 for side in grid]
    sides = image.shape[2:]
    parts = [slice(at * side // n, (at + 1) * side // n) for at, side, n in zip(place, sides, grid, strict=True)]
    other = image.clone()
    other[(slice(None), slice(None), *parts)] += 3
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(image)
        model(other)
    handle.remove()
    change = (kept[1] - kept[0]).abs().sum(1)[0]
    assert list(change.shape) == grid
    most = [int(index) for index in torch.unravel_index(change.argmax(), change.shape)]
    assert all(abs(a - b) <= OFF for a, b in zip(most, place, strict=True))
    assert any(
        abs(a - b) > OFF for a, b in zip(most, [n - 1 - at for n, at in zip(grid, place, strict=True)], strict=True)
    )


@checkout
def test_a_row_of_another_grid_would_be_seen():
    page = on_page(architectures.PAGE.read_text())
    assert "| 16 x 16 at `patch_embed.proj` |" in page
    assert "| 17 x 16 at" not in page
    assert page.startswith(architectures.HEAD)
    assert len(page.splitlines()) == 2 + len(ARCHITECTURES)


def test_there_are_many_from_four_libraries():
    assert len({(one.library, one.name) for one in ARCHITECTURES}) == len(ARCHITECTURES) >= 45
    assert {one.library for one in ARCHITECTURES} == {"timm", "torchvision", "transformers", "monai"}
    assert {"cp_lrp", "attn_lrp", "libragrad"} <= set(METHODS)
