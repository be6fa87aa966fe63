"""Properties of the tensor mathematics; under each check, a broken program that it catches."""

from contextlib import contextmanager

import pytest
import torch
from captum._utils.common import _select_targets
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_vit import Readout, ops
from captum_vit.errors import OptionError
from captum_vit.targets import Output, as_target
from tests.helpers import relative_error
from tests.properties.broken import caught, unshrunk

seeds = st.integers(0, 2**31)
small = st.integers(1, 5)
budgets = st.integers(1, 400)


@contextmanager
def chunks_of(elements: int):
    """A budget of this many attention entries at once."""
    before, ops.CHUNK_ELEMENTS = ops.CHUNK_ELEMENTS, elements
    try:
        yield
    finally:
        ops.CHUNK_ELEMENTS = before


@st.composite
def attentions(draw, heads=small) -> Tensor:
    """Attention weights (B, H, N, N) in float64."""
    shape = (draw(small), draw(heads), *[draw(st.integers(2, 9))] * 2)
    generator = torch.Generator().manual_seed(draw(seeds))
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)


def states(a: Tensor, vectors: int = 2) -> Tensor:
    """Row vectors that sum to one, (B, V, N)."""
    draw = torch.Generator().manual_seed(7)
    return torch.rand(len(a), vectors, a.shape[-1], generator=draw, dtype=a.dtype).softmax(-1)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-12) -> None:
    assert relative_error(ours, theirs) <= tolerance


def streamed(
    step, a: Tensor, state: Tensor, ratio: float = 0.0, fusion: str = "mean", budget: int = 1 << 20, **options: bool
) -> Tensor:
    with chunks_of(budget):
        return step(state, lambda rows: ops.fuse_heads(a[:, :, rows], fusion), *a.shape[1:], ratio, **options)


def forgets_the_last_chunk(state, fused_rows, heads, tokens, *rest, **options):
    batch = len(state)
    carried = torch.zeros_like(state)
    for rows in list(ops.row_chunks(tokens, tokens, batch * heads))[:-1] or [slice(0, tokens)]:
        fused = fused_rows(rows)
        share = state[:, :, rows] / (fused.sum(-1) + 1).unsqueeze(1)
        carried += share @ fused
        carried[:, :, rows] += share
    return carried


def normalises_columns(state, fused_rows, *rest, **options):
    step = fused_rows(slice(None)) + torch.eye(state.shape[-1], dtype=state.dtype)
    return state @ (step / step.sum(-2, keepdim=True))


# Rollout


def check_streaming(step, a, budget, ratio, fusion):
    fused = ops.discard_lowest(ops.fuse_heads(a, fusion), ratio, keep_first=True)
    dense = (fused + torch.eye(a.shape[-1], dtype=a.dtype)) / 2
    dense = states(a) @ (dense / dense.sum(-1, keepdim=True))
    close(streamed(step, a, states(a), ratio, fusion, budget), dense)


ratios = st.floats(0, 0.95)
fusions = st.sampled_from(ops.FUSIONS)


@given(attentions(), budgets, ratios, fusions)
def test_streaming_equals_dense_whatever_the_chunk(a, budget, ratio, fusion):
    check_streaming(ops.rollout_step, a, budget, ratio, fusion)


@caught
@unshrunk
@given(attentions(), budgets, fusions)
def test_streaming_that_forgets_a_chunk(a, budget, fusion):
    check_streaming(forgets_the_last_chunk, a, budget, 0.0, fusion)


def check_rows(step, a, ratio, fusion):
    out = states(a)
    for _ in range(3):
        out = streamed(step, a, out, ratio, fusion)
    close(out.sum(-1), torch.ones(out.shape[:2], dtype=out.dtype))
    assert (out >= 0).all()


@given(attentions(), ratios, fusions)
def test_rows_of_a_rollout_sum_to_one(a, ratio, fusion):
    check_rows(ops.rollout_step, a, ratio, fusion)


@caught
@unshrunk
@given(attentions(), ratios, st.just("max"))
def test_rows_with_normalised_columns(a, ratio, fusion):
    check_rows(normalises_columns, a, ratio, fusion)


@given(attentions(), ratios, fusions)
def test_the_carried_rows_do_not_meet(a, ratio, fusion):
    both = states(a, 3)
    one = streamed(ops.rollout_step, a, both[:, 1:2], ratio, fusion)
    close(streamed(ops.rollout_step, a, both, ratio, fusion)[:, 1:2], one)


# Rollout through class attention, where only the first tokens attend, and through a pool without a skip connection


@st.composite
def class_attentions(draw) -> Tensor:
    """Attention weights (B, H, M, N) of the first M of N tokens."""
    a = draw(attentions())
    return a[:, :, : draw(st.integers(1, a.shape[-1] - 1))]


@st.composite
def pools(draw) -> Tensor:
    """Attention weights (B, H, M, N) of M latents, fewer than the N tokens or more."""
    shape = (draw(small), draw(small), draw(st.integers(1, 9)), draw(st.integers(2, 9)))
    generator = torch.Generator().manual_seed(draw(seeds))
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)


def fused_of(a, ratio, fusion, keep_first):
    return ops.discard_lowest(ops.fuse_heads(a, fusion), ratio, keep_first=keep_first)


def drops_the_other_tokens(state, fused_rows, heads, queries, *rest, **options):
    carried = ops.rollout_step(state, fused_rows, heads, queries, *rest, **options)
    carried[:, :, queries:] -= state[:, :, queries:]
    return carried


def discards_of_the_square(state, fused_rows, heads, queries, keys, ratio, **options):
    """Counts the entries of tokens that do not attend."""
    return ops.rollout_step(state, fused_rows, heads, queries, keys, min(ratio * keys / queries, 0.99), **options)


def halves_the_pool(*args, **options):
    """As if a skip connection took the other half."""
    return ops.rollout_step(*args, **options) / 2


def pools_without_dividing(state, fused_rows, heads, queries, keys, ratio, *, keep_first, skip):
    return state @ ops.discard_lowest(fused_rows(slice(None)), ratio, keep_first=keep_first)


def check_class_attention(step, a, budget, ratio, fusion, keep_first):
    queries, keys = a.shape[2:]
    dense = torch.eye(keys, dtype=a.dtype).repeat(len(a), 1, 1)
    mixed = (fused_of(a, ratio, fusion, keep_first) + dense[:, :queries]) / 2
    dense[:, :queries] = mixed / mixed.sum(-1, keepdim=True)
    close(streamed(step, a, states(a), ratio, fusion, budget, keep_first=keep_first), states(a) @ dense)


@given(class_attentions(), budgets, ratios, fusions, st.booleans())
def test_class_attention_is_a_matrix_whose_other_rows_are_identity(a, budget, ratio, fusion, keep_first):
    check_class_attention(ops.rollout_step, a, budget, ratio, fusion, keep_first)


@caught
@unshrunk
@given(class_attentions(), budgets, fusions, st.booleans())
def test_class_attention_that_drops_the_other_tokens(a, budget, fusion, keep_first):
    check_class_attention(drops_the_other_tokens, a, budget, 0.0, fusion, keep_first)


@caught
@unshrunk
@given(class_attentions(), budgets, ratios, fusions, st.booleans())
def test_class_attention_that_discards_of_the_square(a, budget, ratio, fusion, keep_first):
    check_class_attention(discards_of_the_square, a, budget, ratio, fusion, keep_first)


def check_pool(step, a, budget, ratio, fusion, keep_first):
    fused = fused_of(a, ratio, fusion, keep_first)
    total = fused.sum(-1, keepdim=True)
    dense = (fused / total).where(total > 0, 0)  # a latent all of whose entries are discarded carries nothing
    state = states(a.mT)
    close(streamed(step, a, state, ratio, fusion, budget, keep_first=keep_first, skip=False), state @ dense)


@given(pools(), budgets, st.one_of(st.just(0.0), ratios), fusions, st.booleans())
def test_a_pool_is_its_matrix_without_identity(a, budget, ratio, fusion, keep_first):
    check_pool(ops.rollout_step, a, budget, ratio, fusion, keep_first)


@caught
@unshrunk
@given(pools(), budgets, fusions, st.booleans())
def test_a_pool_that_keeps_room_for_a_skip_connection(a, budget, fusion, keep_first):
    check_pool(halves_the_pool, a, budget, 0.0, fusion, keep_first)


@caught
@unshrunk
@given(pools(), budgets, ratios, fusions, st.booleans())
def test_a_pool_that_does_not_divide(a, budget, ratio, fusion, keep_first):
    check_pool(pools_without_dividing, a, budget, ratio, fusion, keep_first)


@given(class_attentions(), ratios, fusions)
def test_rows_through_class_attention_sum_to_one(a, ratio, fusion):
    check_rows(ops.rollout_step, a, ratio, fusion)


@caught
@unshrunk
@given(class_attentions(), ratios, fusions)
def test_rows_through_class_attention_that_drops_the_other_tokens(a, ratio, fusion):
    check_rows(drops_the_other_tokens, a, ratio, fusion)


def check_pool_rows(step, a, ratio, fusion):
    """What a latent brings arrives, unless all of its entries are discarded."""
    state = states(a.mT)
    out = streamed(step, a, state, ratio, fusion, keep_first=False, skip=False)
    alive = fused_of(a, ratio, fusion, False).sum(-1) > 0
    close(out.sum(-1), (state * alive.unsqueeze(1)).sum(-1))
    if alive.all():
        close(out.sum(-1), torch.ones(out.shape[:2], dtype=out.dtype))
    assert (out >= 0).all()


@given(pools(), st.one_of(st.just(0.0), ratios), fusions)
def test_rows_through_a_pool_sum_to_one(a, ratio, fusion):
    check_pool_rows(ops.rollout_step, a, ratio, fusion)


@caught
@unshrunk
@given(pools(), ratios, fusions)
def test_rows_through_a_pool_that_does_not_divide(a, ratio, fusion):
    check_pool_rows(pools_without_dividing, a, ratio, fusion)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), budgets)
def test_row_chunks_are_a_partition_within_the_budget(rows, columns, heads, budget):
    with chunks_of(budget):
        parts = list(ops.row_chunks(rows, columns, heads))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
    assert all(part.stop - part.start == 1 or (part.stop - part.start) * columns * heads <= budget for part in parts)


# Fusing and discarding


def check_fusing(fuse, a):
    low, mean, high = (fuse(a, fusion) for fusion in ("min", "mean", "max"))
    assert (low <= mean + 1e-15).all()
    assert (mean <= high + 1e-15).all()
    shuffled = a[:, torch.randperm(a.shape[1])]
    for fusion, fused in (("min", low), ("mean", mean), ("max", high)):
        close(fuse(shuffled, fusion), fused)
        close(fuse(a[:, :1], fusion), a[:, 0])


@given(attentions())
def test_fused_heads_lie_between_the_extremes_in_any_order(a):
    check_fusing(ops.fuse_heads, a)


@caught
@unshrunk
@given(attentions(heads=st.just(3)))
def test_fusing_weighted_by_position(a):
    check_fusing(lambda a, fusion: ops.fuse_heads(a, "max") if fusion != "mean" else a[:, 0], a)


def check_discard(discard, a, ratio, keep_first):
    fused = a.mean(1)
    out = discard(fused, ratio, keep_first=keep_first)
    for before, after in zip(fused.flatten(1), out.flatten(1), strict=True):
        count = int(before.numel() * ratio)
        dropped = after == 0
        exempt = keep_first and before.argsort().tolist().index(0) < count
        assert dropped.sum() == count - exempt
        assert torch.equal(after[~dropped], before[~dropped])
        others = torch.ones_like(dropped)
        others[0] = not keep_first
        if dropped.any() and (~dropped & others).any():
            assert before[dropped].max() < before[~dropped & others].min()
        if keep_first:
            assert after[0] == before[0]


def discards_of_image_0(fused, ratio, *, keep_first):
    return fused * (ops.discard_lowest(fused[:1], ratio, keep_first=keep_first) > 0)


@given(attentions(), ratios, st.booleans())
def test_discard_drops_the_lowest_of_each_image(a, ratio, keep_first):
    check_discard(ops.discard_lowest, a, ratio, keep_first)


@caught
@unshrunk
@given(attentions(), ratios, st.booleans())
def test_discard_by_the_first_image(a, ratio, keep_first):
    check_discard(discards_of_image_0, a, ratio, keep_first)


@caught
@unshrunk
@given(attentions(), ratios)
def test_discard_without_the_exemption(a, ratio):
    check_discard(lambda f, r, keep_first: ops.discard_lowest(f, r, keep_first=False), a, ratio, True)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0, float("nan")])
def test_ratios_outside_the_interval(ratio):
    with pytest.raises(OptionError, match=r"discard_ratio must lie in \[0, 1\), got"):
        ops.check_ratio(ratio)


# The rest


def check_min_max(min_max, x, scale, shift):
    out = min_max(x)
    assert out.shape == x.shape
    for row, before in zip(out.flatten(1), x.flatten(1), strict=True):
        constant = before.max() == before.min()
        assert row.min() == 0
        assert row.max() == (0 if constant else 1)
    close(min_max(x * scale + shift), out, 1e-9) if out.any() else None


@given(attentions(), st.floats(0.1, 10), st.floats(-3, 3), st.booleans())
def test_min_max_of_each_row(a, scale, shift, constant):
    x = a.clone()
    if constant:
        x[0] = 0.25
    check_min_max(ops.min_max, x, scale, shift)


@caught
@unshrunk
@given(attentions(), st.floats(0.1, 10), st.floats(-3, 3))
def test_min_max_of_the_batch(a, scale, shift):
    check_min_max(lambda x: (x - x.min()) / (x.max() - x.min()), a, scale, shift)


@given(seeds, st.integers(2, 30), st.integers(1, 40), st.floats(0.5, 20))
def test_neighbours_vote_by_direction_and_in_any_order(seed, members, k, scale):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    bank = torch.randn(members, 6, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 4, (members,), generator=draw)
    weights, winner = ops.importance_by_neighbours(features, bank, labels, k)
    order = torch.randperm(members, generator=draw)
    again, same = ops.importance_by_neighbours(features * scale, bank[order] * scale, labels[order], k)
    close(again, weights, 1e-9)
    assert torch.equal(winner, same)
    assert (weights.amin(1) == 0).all()
    assert (weights.amax(1) == 1).all()
    alone, _ = ops.importance_by_neighbours(features[1:2], bank, labels, k)
    close(alone, weights[1:2], 1e-9)


@given(st.integers(0, 4), st.integers(1, 12), st.booleans(), st.data())
def test_readout_weights(prefix, patches, reads_patches, data):
    chosen = data.draw(st.sets(st.integers(0, prefix - 1))) if prefix else set()
    if not chosen and not reads_patches:
        reads_patches = True
    readout = Readout(tuple(sorted(chosen)), patches=reads_patches)
    weights = readout.weights(prefix, prefix + patches)
    assert abs(weights.sum() - 1) < 1e-6
    assert weights.nonzero().flatten().tolist() == [*sorted(chosen), *range(prefix, prefix + patches * reads_patches)]


def select_scores(scores: Tensor, target) -> Tensor:
    return as_target(target).score(Output(scores, scores))


def check_targets(select, scores, target):
    expected = _select_targets(scores, target).flatten()
    assert torch.equal(select(scores, target), expected)


@st.composite
def targets(draw):
    """Scores, and a target in one of captum's forms."""
    count, classes = draw(small), draw(st.integers(2, 6))
    many = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    one = many[0]
    forms = [one, one - classes, (one,), torch.tensor(one), torch.tensor([one]), torch.tensor(many), many]
    return torch.randn(count, classes), draw(st.sampled_from([*forms, [(t,) for t in many]]))


@given(targets())
def test_targets_are_read_as_captum_reads_them(drawn):
    check_targets(select_scores, *drawn)


@caught
@unshrunk
@given(targets())
def test_targets_of_the_first_image_for_all(drawn):
    def first_only(scores, target):
        index = target[0] if isinstance(target, (list, tuple)) else target
        return select_scores(scores, index if not isinstance(index, Tensor) else index.flatten()[:1])

    check_targets(first_only, *drawn)
