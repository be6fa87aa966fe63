"""Losses on maps: their numbers, and that a few steps of training by them do what they say."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_vit import DAAM, RISE, GradCAM, load_model
from captum_vit.errors import InputError, OptionError
from captum_vit.metrics.localization import energy_inside
from captum_vit.sample import draw_batch
from captum_vit.sample.train import average_precision, normalise
from captum_vit.training import MapLoss, disagreement, mass_outside
from tests.helpers import SIZE, images, timm_vit

STEPS, BATCH, HELD_OUT = 8, 16, 64


def test_the_mass_outside_is_what_the_metric_leaves():
    maps, masks = torch.randn(3, 1, 6, 5, dtype=torch.float64), torch.rand(3, 6, 5) > 0.5
    torch.testing.assert_close(mass_outside(maps, masks), 1 - energy_inside(maps[:, 0], masks))
    assert torch.equal(mass_outside(maps, torch.ones(3, 6, 5)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(mass_outside(7 * maps, masks), mass_outside(maps, masks))


def test_the_gradients_of_losses_are_exact():
    a, b = torch.randn(2, 2, 1, 4, 3, dtype=torch.float64).requires_grad_().unbind(0)
    inside = torch.rand(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: mass_outside(maps, inside), a)
    assert torch.autograd.gradcheck(disagreement, (a, b))


def test_disagreement_is_that_of_directions():
    a, b = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64).unbind(0)
    cosine = nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    torch.testing.assert_close(disagreement(a, b), 1 - cosine)
    torch.testing.assert_close(disagreement(a, 3 * a), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(disagreement(a, -a), torch.full((3,), 2.0, dtype=torch.float64))


def to_ones(maps: Tensor) -> Tensor:
    return disagreement(maps, torch.ones_like(maps))


def nothing_inside(maps: Tensor) -> Tensor:
    return mass_outside(maps, torch.zeros(2, 3, 3))


@pytest.mark.parametrize(("loss", "expected"), [(nothing_inside, 0), (to_ones, 1)])
def test_a_map_of_zeros_has_a_number_and_no_gradient(loss: Any, expected: int):
    maps = torch.zeros(2, 1, 3, 3, requires_grad=True)
    found = loss(maps)
    assert found.tolist() == [expected, expected]
    (gradient,) = torch.autograd.grad(found.sum(), maps)
    assert torch.equal(gradient, torch.zeros_like(maps))


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 3), "a mask for each"),
        (torch.ones(2, 3, 3), torch.ones(2, 3, 3), "expected maps"),
        (torch.ones(2, 1, 3, 3), torch.full((2, 3, 3), 255), "between 0"),
    ],
)
def test_what_is_no_mask_is_refused(maps: Tensor, masks: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        mass_outside(maps, masks)


def test_maps_of_two_shapes_and_of_methods_without_a_graph_are_refused():
    with pytest.raises(InputError, match="one shape"):
        disagreement(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 4))
    with pytest.raises(OptionError, match="changed images"):
        MapLoss(RISE(timm_vit())).outside(images(), torch.ones(2, SIZE, SIZE), 1)


def test_the_options_of_a_method_reach_it():
    model, x, masks = timm_vit(), images(), torch.rand(2, SIZE, SIZE) > 0.5
    found = MapLoss(DAAM(model), signed=True).outside(x, masks, 1)
    expected = mass_outside(DAAM(model).attribute(x, 1, output_shape="spatial", signed=True), masks)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(MapLoss(DAAM(model)).outside(x, masks, 1).detach(), expected, rtol=1e-3)


def test_views_are_brought_back():
    model, x = timm_vit(), images()
    loss = MapLoss(DAAM(model))
    flipped = loss.apart(x, x.flip(-1), back=lambda maps: maps.flip(-1), target=1)
    assert (flipped > 1e-4).all()
    same = loss.apart(x, x, back=lambda maps: maps, target=1)
    torch.testing.assert_close(same, torch.zeros(2), atol=1e-5, rtol=0)
    gradients = torch.autograd.grad(flipped.sum(), list(model.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


def test_of_a_crop_the_part_counts_that_both_views_show():
    def cropped(x: Tensor) -> Tensor:
        return nn.functional.interpolate(x[..., 8:-8, 8:-8], (SIZE, SIZE), mode="bilinear", antialias=True)

    model, x = timm_vit().double(), images().double()
    method = DAAM(model)
    found = MapLoss(method).apart(cropped(x), x, back=cropped, target=1)
    of_crop, whole = (method.attribute(views, 1, output_shape="spatial") for views in (cropped(x), x))
    cosine = nn.functional.cosine_similarity(of_crop.flatten(1), cropped(whole).flatten(1))
    torch.testing.assert_close(found.detach(), 1 - cosine)
    uncropped = MapLoss(method).apart(cropped(x), x, back=lambda maps: maps, target=1)
    assert not torch.allclose(found, uncropped, rtol=1e-2)


def scenes(draw: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels (N, 8), one class of each that is there, and where it is, (N, H, W)."""
    pixels, labels, masks = draw_batch(draw, count)
    truth = torch.from_numpy(np.asarray(labels)).float()
    chosen = truth.argmax(1)
    return normalise(pixels), truth, chosen, torch.from_numpy(np.asarray(masks))[torch.arange(count), chosen].bool()


def judged(model: nn.Module) -> tuple[float, float]:
    """The mean mass outside, and the mean average precision, on scenes that no step has seen."""
    x, truth, chosen, masks = scenes(np.random.default_rng(2**33), HELD_OUT)
    outside = mass_outside(GradCAM(model).attribute(x, chosen, output_shape="spatial"), masks)
    with torch.no_grad():
        precision = average_precision(model(x).numpy(), truth.numpy())
    return float(outside.mean()), float(precision.mean())


def trained(model: Any, weight: float, *, apart: bool = False) -> Any:
    """A copy of it after a few steps on labels, and on its maps with this weight."""
    model, draw = copy.deepcopy(model).requires_grad_(True), np.random.default_rng(0)
    optimiser, loss = torch.optim.AdamW(model.parameters(), 1e-4), MapLoss(GradCAM(model))
    for _ in range(STEPS):
        x, truth, chosen, masks = scenes(draw, BATCH)
        whole = nn.functional.binary_cross_entropy_with_logits(model(x), truth)
        if weight and apart:
            whole = whole + weight * loss.apart(x, x.flip(-1), back=lambda maps: maps.flip(-1), target=chosen).mean()
        elif weight:
            whole = whole + weight * loss.outside(x, masks, chosen).mean()
        optimiser.zero_grad()
        whole.backward()
        optimiser.step()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def untouched_maps() -> tuple[nn.Module, nn.Module]:
    """The sample's model, and a copy after as many steps on labels alone."""
    torch.manual_seed(0)
    model = load_model("sample").model
    return model, trained(model, 0.0)


def test_a_few_steps_move_the_maps_into_the_masks_and_keep_the_accuracy(untouched_maps):
    """Steps on labels alone do not, so that it is the loss that does."""
    (before, precision), (plainly, _) = map(judged, untouched_maps)
    after, kept = judged(trained(untouched_maps[0], 1.0))
    assert precision > 0.99
    assert kept > precision - 0.005
    assert after < before - 0.04
    assert abs(plainly - before) < 0.01


def test_a_few_steps_bring_the_maps_of_two_views_together(untouched_maps):
    x, _, chosen, _ = scenes(np.random.default_rng(2**33), 32)

    def disagree(model: nn.Module) -> float:
        first, second = (GradCAM(model).attribute(views, chosen) for views in (x, x.flip(-1)))
        return float(disagreement(first, second.flip(-1)).mean())

    model, plainly = untouched_maps
    together = trained(model, 1.0, apart=True)
    assert disagree(together) < 0.9 * disagree(plainly)
    assert judged(together)[1] > judged(model)[1] - 0.005
