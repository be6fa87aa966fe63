"""Perturbation curves: their properties, what they leave alone, and broken programs that are caught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_vit.errors import InputError, OptionError, TargetError
from captum_vit.metrics import METRICS, Perturbation, black, perturbation, perturbation_curve
from captum_vit.metrics.perturbation import PRESETS
from tests.fingerprint import changes, fingerprint
from tests.helpers import timm_vit
from tests.metrics.world import assert_equal, world
from tests.properties.broken import caught

CLASSES = 4


class Spy(torch.nn.Module):
    """A linear model, which notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(3 * 8 * 8, CLASSES, generator=torch.Generator().manual_seed(0)) / 5
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.seen.append(x.clone())
        return x.flatten(1) @ self.weights


def given_images(count: int = 5, seed: int = 3):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=draw) + 3  # 0 appears nowhere
    return images, torch.randn(count, 4, 4, generator=draw), torch.randint(0, CLASSES, (count,), generator=draw)


@pytest.mark.parametrize("batch_size", [1, 7, 55, 1000])
def test_the_model_gets_full_batches(batch_size):
    model, (images, maps, targets) = Spy(), given_images()
    curve = perturbation_curve(model, images, maps, targets, batch_size=batch_size)
    sizes = [len(x) for x in model.seen]
    assert sum(sizes) == 5 * 11
    assert all(size == batch_size for size in sizes[:-1])
    assert_equal(curve.area, perturbation_curve(Spy(), images, maps, targets).area, 1e-6)
    assert_equal(curve.levels, [i / 10 for i in range(11)], 0)


@pytest.mark.parametrize("unit", ["pixel", "patch"])
@pytest.mark.parametrize("start", ["image", "occluder"])
@pytest.mark.parametrize("order", ["MoRF", "LeRF"])
def test_what_is_exchanged(order, start, unit):
    model, (images, maps, targets) = Spy(), given_images()
    curve = perturbation_curve(model, images, maps, targets, order=order, start=start, unit=unit, step=5, batch_size=4)
    seen = torch.cat(model.seen).view(5, -1, 3, 8, 8)
    gone = (seen == 0).all(2)
    assert torch.equal(torch.where(gone[:, :, None], 0.0, images[:, None]), seen)
    cells = 64 if unit == "pixel" else 16
    amounts = [*range(0, cells, 5), cells]
    swapped = gone if start == "image" else ~gone
    assert swapped.sum((2, 3)).tolist() == [[k * 64 // cells for k in amounts]] * 5
    assert (swapped[:, 1:] >= swapped[:, :-1]).all()
    assert_equal(curve.levels, [k / cells for k in amounts], 1e-12)
    heat = maps.repeat_interleave(2, 1).repeat_interleave(2, 2) if unit == "patch" else None
    if heat is not None:
        for n in range(5):
            taken, kept = heat[n][swapped[n, 1]], heat[n][~swapped[n, 1]]
            assert (taken.min() > kept.max()) if order == "MoRF" else (taken.max() < kept.min())


@given(st.integers(0, 2**31), st.permutations(range(5)))
def test_images_do_not_know_of_each_other(seed, order):
    images, maps, targets = given_images(seed=seed)
    order = torch.tensor(order)
    together = perturbation_curve(Spy(), images, maps, targets, batch_size=3)
    permuted = perturbation_curve(Spy(), images[order], maps[order], targets[order], batch_size=8)
    assert_equal(permuted.scores, together.scores[order], 1e-5)
    single = perturbation_curve(Spy(), images[2:3], maps[2:3], targets[2:3])
    assert_equal(single.scores, together.scores[2:3], 1e-5)
    rising = perturbation_curve(Spy(), images, maps.double() * 3 + 1, targets)
    assert_equal(rising.scores, perturbation_curve(Spy(), images, maps.double(), targets).scores, 1e-6)
    turned = perturbation_curve(Spy(), images, -maps, targets, order="LeRF")
    assert_equal(turned.scores, together.scores, 1e-5)
    assert ((together.scores >= 0) & (together.scores <= 1)).all()


@caught
def test_one_ranking_for_the_whole_batch():
    images, maps, targets = given_images()
    ours = perturbation_curve(Spy(), images, maps, targets).scores
    assert_equal(ours, perturbation_curve(Spy(), images, maps[:1].expand_as(maps), targets).scores)


def test_the_map_of_the_score_itself_has_the_largest_area_between():
    model, (images, _, targets) = Spy(), given_images()
    shares = (images.flatten(1) * model.weights.T[targets]).view(5, 3, 8, 8).sum(1)
    options = {"score": "logit"}
    between = [
        perturbation_curve(model, images, heat, targets, order="LeRF", **options).area
        - perturbation_curve(model, images, heat, targets, order="MoRF", **options).area
        for heat in (shares, torch.rand_like(shares), -shares)
    ]
    assert (between[0] > between[1]).all()
    assert (between[1] > between[2]).all()


def test_areas():
    images, maps, targets = given_images()
    levels = [0.0, 0.1, 0.5, 1.0]
    curves = [perturbation_curve(Spy(), images, maps, targets, levels=levels, area=a) for a in ("mean", "trapezoid")]
    assert_equal(curves[0].area, curves[0].scores.mean(1))
    assert_equal(curves[1].area, [np.trapezoid(scores, levels) for scores in curves[1].scores.numpy()])
    half = perturbation_curve(Spy(), images, maps, targets, levels=[0.25, 0.75], area="trapezoid")
    assert_equal(half.area, half.scores.mean(1))


def test_occluders():
    images, maps, targets = given_images()
    picture = torch.randn(3, 1, 1)
    asked = [
        perturbation_curve(Spy(), images, maps, targets, occluder=o).scores
        for o in (picture, lambda x: 0 * x + picture)
    ]
    assert_equal(asked[0], asked[1])
    model = Spy()
    perturbation_curve(model, images, maps, targets, occluder=black((0.5, 0.4, 0.3), (0.5, 0.2, 0.1)), levels=[1.0])
    assert torch.allclose(model.seen[0][0, :, 0, 0], torch.tensor([-1.0, -2.0, -3.0]))


@pytest.mark.parametrize("score", ["softmax", "top1", "logit"])
def test_a_bad_map_or_image_is_undefined_alone(score):
    images, maps, targets = given_images()
    sound = perturbation_curve(Spy(), images, maps, targets, score=score)
    maps[1, 2, 2], images[3, 0, 0, 0] = torch.nan, torch.nan
    curve = perturbation_curve(Spy(), images, maps, targets, score=score)
    assert curve.scores[1].isnan().all()
    assert curve.area[[1, 3]].isnan().all()
    assert_equal(curve.scores[[0, 2, 4]], sound.scores[[0, 2, 4]])


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training):
    model = timm_vit().train(training)
    x, maps = torch.randn(2, 3, 32, 32), torch.rand(2, 4, 4)
    before = fingerprint(model, x)
    perturbation_curve(model, x, maps, 1, batch_size=5)
    assert changes(before, fingerprint(model, x)) == []


@caught
def test_a_changed_model_is_noticed():
    model = timm_vit()
    before = fingerprint(model)
    model.train()
    assert changes(before, fingerprint(model)) == []


def test_the_class_is_the_function():
    w = world()
    case = w.case(images=w.images[:3], maps=w.maps[:3], targets=w.targets[:3])
    metric = Perturbation(unit="patch", batch_size=16)
    ours = metric(case)
    theirs = perturbation(w.model, case.images, case.maps, case.targets, "agcam", unit="patch")
    assert ours.keys() == theirs.keys() == metric.figures.keys() | metric.curves.keys()
    for name, values in theirs.items():
        assert_equal(ours[name], values)
    better = {name: figure.higher_is_better for name, figure in METRICS["perturbation"]().figures.items()}
    assert better == {"morf": False, "lerf": True, "abpc": True}


@pytest.mark.parametrize("preset", ["agcam", "chefer", "rise"])
def test_levels_are_even_between_those_that_a_metric_names(preset):
    w = world()
    metric = Perturbation(preset)
    found = metric(w.case(images=w.images[:1], maps=w.maps[:1], targets=w.targets[:1]))
    for name, course in PRESETS[preset].curves.items():
        options = {"levels": course.levels, "step": course.step}
        drawn = perturbation_curve(w.model, w.images[:1], w.maps[:1], w.targets[:1], **options)
        even = torch.linspace(*metric.curves[f"{name}_curve"], found[f"{name}_curve"].shape[1])
        assert (drawn.levels - even).abs().max() < 224 / 64**2


def test_what_does_not_hold():
    images, maps, targets = given_images()

    def draw(**options):
        return perturbation_curve(
            Spy(), options.pop("images", images), maps, options.pop("targets", targets), **options
        )

    with pytest.raises(OptionError, match="order must be one of MoRF, LeRF, got 'up'"):
        draw(order="up")
    with pytest.raises(OptionError, match=r"levels must be shares in \[0, 1\] that rise"):
        draw(levels=[0.5, 0.1])
    with pytest.raises(OptionError, match="expected levels, or a step of at least 1"):
        draw(levels=[0.5], step=3)
    with pytest.raises(
        OptionError, match="occluder must be a number, a tensor, 'mean', 'blur', 'tokens' or a function, got 'grey'"
    ):
        draw(occluder="grey")
    with pytest.raises(InputError, match="the occluder does not broadcast to images"):
        draw(occluder=torch.zeros(2))
    with pytest.raises(InputError, match=r"expected images \(N, C, H, W\) and maps \(N, rows, cols\)"):
        draw(images=images[:2])
    with pytest.raises(OptionError, match="batch_size must be at least 1, got 0"):
        draw(batch_size=0)
    with pytest.raises(TargetError, match="target out of range"):
        draw(targets=CLASSES)
    with pytest.raises(InputError, match="sets pixels to 0 before normalisation: pass mean and std"):
        perturbation(Spy(), images, maps, targets, "chefer")
    with pytest.raises(OptionError, match="preset must be one of agcam, chefer, rise, srg, tokens, got 'x'"):
        perturbation(Spy(), images, maps, targets, "x")
    with pytest.raises(OptionError, match="preset must be one of agcam, chefer, rise, srg, tokens, got 'x'"):
        Perturbation("x")
    with pytest.raises(InputError, match="the metric needs the model of the case"):
        Perturbation()(world().case(model=None))
