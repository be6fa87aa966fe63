"""Where the queries and keys of a layer lie; under each check, a broken program that it catches."""

from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_vit import Readout, TokenLayout
from captum_vit.access import LayerLayout
from captum_vit.errors import TokenLayoutError
from tests.properties.broken import caught, unshrunk
from tests.properties.test_calls import close

OWN = "own"  # the layer whose grid is another

dimensions = st.integers(1, 3)  # of a sequence of patches, an image, a video
prefixes = st.integers(0, 3)
own_prefixes = st.integers(1, 3)
names = st.sampled_from(["block", OWN])
of_layer = TokenLayout.of_layer


@st.composite
def grids(draw, count: int, dims: int) -> list[tuple[int, ...]]:
    """So many grids of so many dimensions."""
    return [tuple(draw(st.integers(1, 6 - dims)) for _ in range(dims)) for _ in range(count)]


@st.composite
def readouts(draw, prefix: int) -> Readout:
    """Any tokens of a model with so many prefix tokens, and any of cross-attention's first four latents."""
    chosen = draw(st.sets(st.integers(0, prefix - 1))) if prefix else set()
    latents = draw(st.sets(st.integers(0, 3)))
    patches = draw(st.booleans()) or not chosen
    return Readout(tuple(sorted(chosen)), patches, even=draw(st.booleans()), latents=tuple(sorted(latents)))


@st.composite
def layouts(draw, prefix=prefixes) -> TokenLayout:
    count, dims = draw(prefix), draw(dimensions)
    grid, own = draw(grids(2, dims))
    return TokenLayout(grid, count, (8.0,) * dims, draw(readouts(count)), grids={OWN: own})


def grid_of(layout: TokenLayout, name: str) -> tuple[int, ...]:
    return layout.grids[OWN] if name == OWN else layout.grid


def patches_of(layout: TokenLayout, name: str) -> int:
    return prod(grid_of(layout, name))


def shares(layout: TokenLayout, name: str) -> list[float]:
    """What each prefix token and each patch contributes to the readout."""
    readout, patches = layout.readout, patches_of(layout, name)
    own = [1.0 if i in readout.prefix else 0.0 for i in range(layout.prefix)]
    each = (1.0 if readout.even else 1 / patches) if readout.patches else 0.0
    return [*own, *[each] * patches]


def normalised(share: list[float]) -> Tensor:
    total = torch.tensor(share, dtype=torch.float64)
    return total / total.sum() if total.any() else total


def check_layer(
    found: LayerLayout, layout: TokenLayout, name: str, prefix: int, share: Tensor, cross: bool | None = None
) -> None:
    """`cross`: None of self-attention, else whether a skip connection leads the latents past the layer."""
    assert (found.prefix, found.grid, found.map_grid) == (prefix, grid_of(layout, name), layout.grid)
    assert found.keys == prefix + patches_of(layout, name)
    assert found.cross == (cross is not None)
    assert found.skip == (cross is None or cross)
    close(found.share, share)
    if cross is None:
        close(found.start, normalised(shares(layout, name)[layout.prefix - prefix :]))
        close(normalised(found.start[: len(share)].tolist()), share)
    else:
        close(found.start, share)
    assert found.read_rows == [row for row, part in enumerate(share.tolist()) if part]


# Self-attention


def check_self_attention(of_layer, layout, name):
    keys = layout.prefix + patches_of(layout, name)
    found = of_layer(layout, name, keys, keys)
    check_layer(found, layout, name, layout.prefix, normalised(shares(layout, name)))
    assert abs(found.share.sum() - 1) < 1e-12


@given(layouts(), names)
def test_self_attention_is_among_all_tokens(layout, name):
    check_self_attention(of_layer, layout, name)


@caught
@unshrunk
@given(layouts(), names)
def test_self_attention_with_the_same_share_for_each_row(layout, name):
    def same(*args):
        found = of_layer(*args)
        return replace(found, share=normalised((found.share > 0).tolist()))

    check_self_attention(same, layout, name)


@caught
@unshrunk
@given(layouts())
def test_self_attention_with_maps_on_the_grid_of_the_layer(layout):
    def own_maps(*args):
        found = of_layer(*args)
        return replace(found, map_grid=found.grid)

    check_self_attention(own_maps, layout, OWN)


def check_late_prefix(of_layer, layout, name):
    keys = patches_of(layout, name)
    share = shares(layout, name)[layout.prefix :]
    check_layer(of_layer(layout, name, keys, keys), layout, name, 0, normalised(share))


@given(layouts(own_prefixes), names)
def test_before_the_class_token_comes_only_the_patches_are_there(layout, name):
    check_late_prefix(of_layer, layout, name)


@caught
@unshrunk
@given(layouts(own_prefixes), names)
def test_a_late_class_token_that_is_read_from_the_first_patch(layout, name):
    def from_the_front(layout, name, queries, keys):
        share = shares(layout, name)[:queries]
        return replace(of_layer(layout, name, queries, keys), share=normalised(share))

    check_late_prefix(from_the_front, layout, name)


# Class attention


def check_class_attention(of_layer, layout, name, queries):
    queries = min(queries, layout.prefix)
    keys = layout.prefix + patches_of(layout, name)
    share = normalised(shares(layout, name)[:queries])
    check_layer(of_layer(layout, name, queries, keys), layout, name, layout.prefix, share)


@given(layouts(own_prefixes), names, own_prefixes)
def test_class_attention_is_of_the_first_tokens(layout, name, queries):
    check_class_attention(of_layer, layout, name, queries)


@caught
@unshrunk
@given(layouts(own_prefixes), names, own_prefixes)
def test_class_attention_whose_share_is_that_among_all_tokens(layout, name, queries):
    def part(layout, name, queries, keys):
        share = normalised(shares(layout, name))[:queries]
        return replace(of_layer(layout, name, queries, keys), share=share)

    check_class_attention(part, layout, name, queries)


# Cross-attention, as of attention pools and decoders


def check_cross(of_layer, layout, name, latents, with_prefix, skip):
    queries = max([latents, *(i + 1 for i in layout.readout.latents)])
    prefix = layout.prefix if with_prefix else 0
    found = of_layer(layout, name, queries, prefix + patches_of(layout, name), cross=skip)
    share = normalised([float(i in layout.readout.latents) for i in range(queries)])
    check_layer(found, layout, name, prefix, share, skip)


@given(layouts(), names, st.integers(1, 30), st.booleans(), st.booleans())
def test_cross_attention_is_read_from_its_latents(layout, name, latents, with_prefix, skip):
    check_cross(of_layer, layout, name, latents, with_prefix, skip)


@caught
@unshrunk
@given(layouts(), names, st.integers(1, 30), st.booleans(), st.booleans())
def test_cross_attention_that_is_read_from_all_its_latents(layout, name, latents, with_prefix, skip):
    def from_all(layout, name, queries, keys, *, cross):
        found = of_layer(layout, name, queries, keys, cross=cross)
        return replace(found, share=normalised([1.0] * queries))

    check_cross(from_all, layout, name, latents, with_prefix, skip)


@caught
@unshrunk
@given(layouts(), names, st.integers(1, 30), st.booleans(), st.booleans())
def test_cross_attention_whose_skip_connection_is_forgotten(layout, name, latents, with_prefix, skip):
    def as_a_pool(layout, name, queries, keys, *, cross):
        return of_layer(layout, name, queries, keys, cross=False)

    check_cross(as_a_pool, layout, name, latents, with_prefix, skip)


# What does not fit


def refusal(of_layer, *args, **options) -> str:
    try:
        of_layer(*args, **options)
    except TokenLayoutError as error:
        return str(error)
    return ""


def check_keys(of_layer, layout, name, keys, cross):
    patches, sides = patches_of(layout, name), "*".join(str(side) for side in grid_of(layout, name))
    text = refusal(of_layer, layout, name, keys, keys, cross=cross)
    if keys in (patches, layout.prefix + patches):
        assert not text
        return
    assert text == (
        f"expected prefix + rows*cols = {layout.prefix} + {sides} tokens in {name}, got {keys}: the adapter's "
        f"grid does not fit this input, or tokens are added or dropped on the way, as prompts are, or patches in train "
        f"mode"
    )


crosses = st.sampled_from([None, False, True])


@st.composite
def miscounted(draw) -> tuple[TokenLayout, str, int]:
    """A layout, a layer, and a number of keys about as large as it should be."""
    layout, name = draw(layouts()), draw(names)
    return layout, name, max(4, patches_of(layout, name) + draw(st.integers(-4, 4)))


@given(miscounted(), crosses)
def test_keys_must_be_the_patches_with_the_prefix_or_without(drawn, cross):
    check_keys(of_layer, *drawn, cross)


@caught
@unshrunk
@given(miscounted(), crosses)
def test_keys_that_are_taken_for_a_part_of_the_prefix(drawn, cross):
    def lenient(layout, name, queries, keys, *, cross):
        spare = keys - patches_of(layout, name)
        if 0 <= spare <= layout.prefix:
            layout = replace(layout, prefix=spare, readout=Readout((), patches=True))
        return of_layer(layout, name, queries, keys, cross=cross)

    check_keys(lenient, *drawn, cross)


def check_queries(of_layer, layout, name, queries, with_prefix):
    prefix = layout.prefix if with_prefix else 0
    keys = prefix + patches_of(layout, name)
    text = refusal(of_layer, layout, name, queries, keys)
    if queries == keys or 0 < queries <= prefix:
        assert not text
        return
    assert text.startswith(f"expected as many queries as keys in {name}, {keys}, ")
    assert text.endswith(f": got {queries}")


@given(layouts(), names, st.integers(0, 30), st.booleans())
def test_queries_must_be_the_tokens_or_the_first_of_them(layout, name, queries, with_prefix):
    check_queries(of_layer, layout, name, queries, with_prefix)


@caught
@unshrunk
@given(layouts(), names, st.integers(0, 30), st.booleans())
def test_queries_that_are_not_looked_at(layout, name, queries, with_prefix):
    check_queries(lambda layout, name, _, keys: of_layer(layout, name, keys, keys), layout, name, queries, with_prefix)


# Onto the grid of the maps


@dataclass(frozen=True)
class Place:
    """Where the keys of a layer lie, and the grid of the maps."""

    prefix: int
    grid: tuple[int, ...]
    map_grid: tuple[int, ...]

    def layout(self, kind: type[LayerLayout]) -> LayerLayout:
        share = torch.ones(1, dtype=torch.float64)
        return kind(self.prefix, self.grid, share, share, skip=True, map_grid=self.map_grid)


same_grid = st.builds(
    lambda prefix, one: Place(prefix, *one, *one), prefixes, dimensions.flatmap(lambda n: grids(1, n))
)
other_grid = st.builds(lambda prefix, two: Place(prefix, *two), prefixes, dimensions.flatmap(lambda n: grids(2, n)))
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}
leading = st.lists(st.integers(1, 3), max_size=3)


def check_same_grid(kind, place, leading):
    layout = place.layout(kind)
    x = torch.randn(*leading, layout.keys, dtype=torch.float64)
    close(layout.to_map(x), x[..., place.prefix :], 0)


@given(same_grid, leading)
def test_a_map_on_its_own_grid_is_the_patches(place, leading):
    check_same_grid(LayerLayout, place, leading)


class CutAtTheEnd(LayerLayout):
    """Takes the prefix tokens for the last."""

    def to_map(self, keys: Tensor) -> Tensor:
        return super().to_map(keys.roll(self.prefix, -1))


@caught
@unshrunk
@given(same_grid, leading)
def test_a_map_without_the_last_tokens(place, leading):
    check_same_grid(CutAtTheEnd, place, leading)


def check_other_grid(kind, place, leading):
    layout = place.layout(kind)
    x = torch.randn(*leading, layout.keys, dtype=torch.float64)
    mode = SMOOTH[len(place.grid)]
    maps = [
        F.interpolate(one[place.prefix :].view(1, 1, *place.grid), place.map_grid, mode=mode, align_corners=False)
        for one in x.view(-1, layout.keys)
    ]
    close(layout.to_map(x), torch.stack(maps).view(*leading, -1))


@given(other_grid, leading)
def test_a_map_on_another_grid_is_linear_along_each_side(place, leading):
    check_other_grid(LayerLayout, place, leading)


class Transposed(LayerLayout):
    """Takes columns for rows."""

    def to_map(self, keys: Tensor) -> Tensor:
        return LayerLayout(self.prefix, self.grid[::-1], self.share, self.start, self.skip, self.map_grid).to_map(keys)


@caught
@unshrunk
@given(other_grid, leading)
def test_a_map_on_another_grid_with_columns_for_rows(place, leading):
    check_other_grid(Transposed, place, leading)


def check_constant(kind, place, value):
    layout = place.layout(kind)
    x = torch.cat([torch.randn(2, place.prefix), torch.full((2, layout.keys - place.prefix), value)], 1).double()
    close(layout.to_map(x), torch.full((2, prod(place.map_grid)), value).double())


@given(other_grid, st.floats(0.1, 10))
def test_a_constant_stays_constant_on_any_grid(place, value):
    check_constant(LayerLayout, place, value)


class KeepsTheSum(LayerLayout):
    """Divides by how many places of the map stand for one patch."""

    def to_map(self, keys: Tensor) -> Tensor:
        found = super().to_map(keys)
        return found * ((self.keys - self.prefix) / found.shape[-1])


@caught
@unshrunk
@given(other_grid, st.floats(0.1, 10))
def test_a_constant_whose_sum_is_kept(place, value):
    check_constant(KeepsTheSum, place, value)
