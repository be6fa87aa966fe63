"""Localization: against scikit-learn, torchmetrics and loops; its properties; and broken programs that are caught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, recall_score
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from captum_vit import metrics
from captum_vit.errors import InputError, OptionError
from captum_vit.metrics import Localization
from tests.metrics import protocols
from tests.metrics.world import SCENES, assert_equal, world
from tests.properties.broken import caught, unshrunk

OVERLAPS = ("pixel_accuracy", "iou", "dice", "precision", "recall", "miou")
SCORES = (*OVERLAPS, "average_precision", "pointing_game", "energy_inside")
RANKING = ("average_precision", "pointing_game")
seeds = st.integers(0, 2**31)


@st.composite
def batches(draw, least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Maps with ties, masks that are nowhere empty or full, and what is valid, (N, H, W)."""
    count, height, width = draw(st.integers(least, 4)), draw(st.integers(3, 12)), draw(st.integers(3, 12))
    generator = torch.Generator().manual_seed(draw(seeds))
    maps = torch.randint(0, draw(st.integers(2, 50)), (count, height, width), generator=generator).float()
    masks = torch.rand(count, height, width, generator=generator) < draw(st.sampled_from([0.1, 0.5]))
    valid = torch.rand(count, height, width, generator=generator) < 0.8
    masks[:, 0, :2], valid[:, 0, :2] = torch.tensor([True, False]), True
    return maps, masks, valid


def every_score(maps: Tensor, masks: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    return {
        name: getattr(metrics, name)(maps, masks, valid, **({"tolerance": 2} if name == "pointing_game" else {}))
        for name in SCORES
    }


@given(batches())
def test_overlaps_are_those_of_sklearn(batch):
    maps, masks, valid = batch
    region = metrics.binarise(maps, valid=valid)
    ours = every_score(maps, masks, valid)
    for n, seen in enumerate(valid):
        t, p = masks[n][seen].numpy(), region[n][seen].numpy()
        options = {"zero_division": 0}
        assert ours["iou"][n] == pytest.approx(jaccard_score(t, p, **options))
        assert ours["dice"][n] == pytest.approx(f1_score(t, p, **options))
        assert ours["precision"][n] == pytest.approx(precision_score(t, p, **options))
        assert ours["recall"][n] == pytest.approx(recall_score(t, p))
        assert ours["pixel_accuracy"][n] == pytest.approx((t == p).mean())
        assert ours["miou"][n] == pytest.approx(jaccard_score(t, p, average="macro"))
        assert ours["average_precision"][n] == pytest.approx(average_precision_score(t, maps[n][seen].numpy()))
        assert ours["iou"][n].item() == pytest.approx(binary_jaccard_index(torch.tensor(p), torch.tensor(t)).item())


@caught
@unshrunk
@given(batches())
def test_ignored_pixels_counted(batch):
    maps, masks, valid = batch
    region = metrics.binarise(maps, valid=valid)
    ours = metrics.iou(maps, masks, valid)
    for n in range(len(maps)):
        assert ours[n] == pytest.approx(jaccard_score(masks[n].ravel(), region[n].ravel(), zero_division=0))


@pytest.mark.parametrize(
    "flaw", [None, *(pytest.param(f, marks=caught) for f in ("square", "first maximum", "minimum"))]
)
def test_pointing(flaw):
    @unshrunk
    @given(batches(), st.sampled_from([0, 1, 1.5, 2, 3, 15]))
    def check(batch, tolerance):
        maps, masks, _ = batch
        ours = metrics.pointing_game(maps, masks, tolerance=tolerance)
        pairs = zip(maps.numpy(), masks.numpy(), strict=True)
        assert_equal(ours, [protocols.pointing(heat, mask, tolerance, flaw) for heat, mask in pairs])

    check()


@pytest.mark.parametrize("flaw", [None, pytest.param("open disc", marks=caught)])
def test_a_pixel_at_15_hits_and_one_at_16_does_not(flaw):
    maps, masks = torch.zeros(2, 40, 40), torch.zeros(2, 40, 40, dtype=torch.bool)
    maps[:, 5, 5] = 1
    masks[0, 14, 17] = True  # 9² + 12² = 15²
    masks[1, 21, 5] = True
    theirs = [protocols.pointing(m.numpy(), k.numpy(), 15, flaw) for m, k in zip(maps, masks, strict=True)]
    assert_equal(metrics.pointing_game(maps, masks), theirs)


@pytest.mark.parametrize("neighbours", [8, pytest.param(4, marks=caught)])
def test_boxes_of_components(neighbours):
    @unshrunk
    @given(batches())
    def check(batch):
        masks = batch[1]
        for ours, mask in zip(metrics.boxes_of(masks), masks, strict=True):
            assert sorted(map(tuple, ours.tolist())) == protocols.components(mask.numpy(), neighbours)

    check()


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("twin", [False, pytest.param(True, marks=caught)])
def test_filled_boxes(inclusive, twin):
    @unshrunk
    @given(seeds)
    def check(seed):
        draw = np.random.default_rng(seed)
        boxes = [draw.uniform(0, 9, (draw.integers(0, 4), 4)) for _ in range(3)]
        boxes = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1) for b in boxes]
        ours = metrics.fill_boxes([torch.from_numpy(b) for b in boxes], (11, 13), inclusive=inclusive)
        theirs = [protocols.filled(b.tolist(), 11, 13, int(inclusive != twin)) for b in boxes]
        assert ours.tolist() == np.stack(theirs).tolist()

    check()


@given(batches(least=2), seeds)
def test_images_do_not_know_of_each_other(batch, seed):
    together = every_score(*batch)
    order = torch.randperm(len(batch[0]), generator=torch.Generator().manual_seed(seed))
    permuted = every_score(*(part[order] for part in batch))
    for name, values in together.items():
        assert_equal(permuted[name], values[order], 1e-12)
        singles = [every_score(*(part[n : n + 1] for part in batch))[name] for n in range(len(order))]
        assert_equal(values, torch.cat(singles), 1e-12)


@caught
@unshrunk
@given(batches(least=2))
def test_extremes_of_the_batch(batch):
    maps, masks, _ = batch
    scale = torch.arange(1, len(maps) + 1).view(-1, 1, 1)
    together = (maps * scale - (maps * scale).min()) / ((maps * scale).max() - (maps * scale).min()) > 0.5
    assert_equal(metrics.iou(together, masks), metrics.iou(maps * scale, masks), 1e-12)


@given(batches(), st.floats(0.1, 10), st.floats(-5, 5))
def test_scores_lie_between_0_and_1_and_do_not_change_with_the_scale(batch, factor, shift):
    maps, masks, valid = batch
    maps = maps.double()
    plain = every_score(maps, masks, valid)
    moved = every_score(maps * factor + shift, masks, valid)
    bent = every_score((maps / 8).exp(), masks, valid)
    for name, values in plain.items():
        assert ((values >= 0) & (values <= 1)).all()
        if name != "energy_inside":
            levels = metrics.normalise(maps, valid)
            if name in RANKING or ((levels - 0.5).abs() > 1e-9).all():  # else the threshold is a matter of rounding
                assert_equal(moved[name], values, 1e-9)
        if name in RANKING:
            assert_equal(bent[name], values, 1e-9)
    assert_equal(metrics.energy_inside(maps * factor, masks), metrics.energy_inside(maps, masks), 1e-9)


@caught
@unshrunk
@given(batches())
def test_overlap_is_no_matter_of_rank(batch):
    maps, masks, _ = batch
    assert_equal(metrics.iou(maps.double().exp(), masks), metrics.iou(maps.double(), masks))


@given(batches())
def test_the_object_itself_is_perfect_and_its_complement_worthless(batch):
    _, masks, _ = batch
    perfect, worst = every_score(masks.float(), masks), every_score((~masks).float(), masks)
    for name in SCORES:
        assert_equal(perfect[name], [1.0] * len(masks), 1e-12)
    for name in (*OVERLAPS, "energy_inside"):
        assert_equal(worst[name], [0.0] * len(masks), 1e-12)
    assert (worst["average_precision"] <= masks.double().mean((1, 2)) + 1e-6).all()
    assert_equal(metrics.pointing_game((~masks).float(), masks, tolerance=0), [0.0] * len(masks))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("preset", [None, "agcam", "chefer"])
def test_a_bad_map_is_undefined_alone(preset, bad):
    w = world()
    maps, masks = w.maps.clone(), w.masks.clone()
    maps[3, 2, 2], masks[5] = bad, False
    case = w.case(maps=maps, masks=masks, logits=torch.nn.functional.one_hot(w.targets, 8).float())
    ours, sound = Localization(preset)(case), Localization(preset)(w.case(logits=case.logits))
    others = [n for n in range(SCENES) if n not in (3, 5)]
    for name, values in ours.items():
        assert values[[3, 5]].isnan().all(), name
        assert_equal(values[others], sound[name][others], 1e-12)


@caught
def test_torchmetrics_gives_a_number_for_an_empty_mask():
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert binary_jaccard_index(torch.rand(4, 4) > 0.5, empty).isnan()


def test_a_constant_map_gains_nothing():
    w = world()
    flat = metrics.Localization()(w.case(maps=torch.ones(SCENES, 8, 8)))
    share = w.masks.double().mean((1, 2))
    assert_equal(flat["iou"], torch.zeros(SCENES))
    assert_equal(flat["precision"], torch.zeros(SCENES))
    assert_equal(flat["average_precision"], share)
    assert_equal(flat["energy_inside"], share)
    assert (flat["pointing_game"] < 1).all()
    zero = metrics.energy_inside(torch.zeros(SCENES, 64, 64), w.masks)
    assert_equal(zero, torch.zeros(SCENES))


def test_what_the_model_did_not_see_is_not_counted():
    w = world()
    valid = torch.ones_like(w.masks)
    valid[:, :, :20] = False
    ours = Localization()(w.case(valid=valid))
    cut = [x[:, :, 20:] for x in (metrics.enlarge(w.maps, (64, 64)), w.masks)]
    for name, values in every_score(*cut).items():
        if name != "pointing_game":
            assert_equal(ours[name], values)


def test_what_does_not_hold():
    w = world()
    with pytest.raises(InputError, match="the metric needs the masks of the case, which are None"):
        Localization()(w.case(masks=None))
    with pytest.raises(InputError, match=r"pass Case\(logits=...\) or Case\(model=...\)"):
        Localization("agcam")(w.case(logits=None, model=None))
    with pytest.raises(InputError, match=r"maps and masks of one shape \(N, H, W\), masks of bool"):
        metrics.iou(torch.rand(2, 4, 4), torch.rand(2, 4, 4))
    with pytest.raises(InputError, match=r"expected maps of shape \(N, rows, cols\), got \(4, 4\)"):
        metrics.enlarge(torch.rand(4, 4), (8, 8))
    with pytest.raises(OptionError, match="preset must be 'agcam', 'chefer' or None, got 'x'"):
        Localization("x")
    with pytest.raises(OptionError, match=r"threshold must be a number in \[0, 1\) or 'mean', got 'x'"):
        metrics.binarise(torch.rand(2, 4, 4), "x")
    with pytest.raises(OptionError, match="tolerance must be a number of pixels, at least 0, got -1"):
        metrics.pointing_game(torch.rand(2, 4, 4), torch.ones(2, 4, 4) > 0, tolerance=-1)


def test_logits_are_computed_where_they_are_missing():
    w = world()
    given, computed = (Localization("agcam")(w.case(logits=logits)) for logits in (w.logits, None))
    for name, values in given.items():
        assert_equal(computed[name], values, 1e-12)
