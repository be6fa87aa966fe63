"""How maps follow the score: a multiple of it, its other sign, its sum; each beside a broken method that it catches."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import AGCAM, CDAM, CPLRP, DAAM, AttnLRP, LibraGrad, RawAttention
from captum_vit.attr import METHODS, in_all
from captum_vit.attr.captum_methods import CaptumMethod
from captum_vit.targets import Contrast
from tests.contract import checks
from tests.contract.checks import Method, variants
from tests.helpers import relative_error
from tests.properties.broken import caught, unshrunk
from tests.properties.test_models import Centred, close, worlds

# those that ask about changed images explain a probability, unless they are told otherwise: tests of their own hold it
OURS = [method for method in in_all().values() if not issubclass(method, CaptumMethod)]
# Maps that depend on the class are linear in the score, up to the sign of its parts; but where gradients stand beside
# an identity, or powers of them beside each other, the scale of the score has a say in the shape of the map.
SHAPED_BY_SCALE = ("generic_relevance", "gradient_rollout", "transformer_attribution", "gradcam_plus_plus")
LINEAR = [method for method in OURS if method.class_specific and method.name not in SHAPED_BY_SCALE]
GENERAL = [method for method in OURS if not method.class_specific]
WAYS = [(method, options) for method in OURS for options in variants(method)]
SIGNED = [way for way in WAYS if way[0].class_specific and way[0].facts(**way[1]).signed]
UNSIGNED = [way for way in WAYS if way[0].class_specific and not way[0].facts(**way[1]).signed]
CONSERVING = [CPLRP, AttnLRP, LibraGrad]
classes, factors = st.integers(0, 3), st.floats(0.1, 9)
few = settings(max_examples=max(2, settings().max_examples // 12))  # for each method


def of(ways: list[tuple[Method, dict[str, Any]]]) -> pytest.MarkDecorator:
    """Each way by its name."""
    names = ["-".join([method.__name__, *map(str, options.values())]) for method, options in ways]
    return pytest.mark.parametrize("way", ways, ids=names)


def scale_head(model: VisionTransformer, factor: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("head"):  # a distilled model has two
                weight *= factor


def at_two_scales(method: Method, model: nn.Module, x: Tensor, target: Any, factor: float) -> tuple[Tensor, Tensor]:
    before = method(model).attribute(x, target)
    scale_head(model, factor)
    return before, method(model).attribute(x, target)


class OfItsLargest(AGCAM):
    """Divides by its own largest value."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found / found.amax((1, 2), keepdim=True)


class Confident(RawAttention):
    """Says that it does not depend on the class, and is the larger the surer the model."""

    def _maps(self, run, *args, **kwargs):
        return super()._maps(run, *args, **kwargs) * run.scores.amax(1)[:, None, None]


def check_scale(method, world, factor):
    before, after = at_two_scales(method, world.model, world.images, world.targets, factor)
    close(after, factor * before if method.class_specific else before)


@few
@pytest.mark.parametrize("method", LINEAR)
@given(world=worlds(), factor=factors)
def test_of_a_multiple_of_the_score_maps_are_that_multiple(world, method, factor):
    check_scale(method, world, factor)


@few
@pytest.mark.parametrize("method", GENERAL)
@given(world=worlds(), factor=factors)
def test_maps_of_no_class_do_not_know_the_score(world, method, factor):
    check_scale(method, world, factor)


@caught
@unshrunk
@pytest.mark.parametrize("method", [OfItsLargest, Confident])
@given(world=worlds(), factor=factors)
def test_maps_that_follow_the_score_in_another_way(world, method, factor):
    check_scale(method, world, factor)


@pytest.mark.parametrize("name", [*SHAPED_BY_SCALE, pytest.param("agcam", marks=caught)])
def test_maps_whose_shape_the_scale_of_the_score_has_a_say_in(name):
    before, after = at_two_scales(METHODS[name], checks.model(), checks.pictures(), 1, 3.0)
    for multiple in (before, 3 * before):
        assert relative_error(after, multiple) > 1e-3


class Rectified(CDAM):
    """Says that it is signed, and cuts off what is below 0."""

    def _maps(self, *args, **kwargs):
        return super()._maps(*args, **kwargs).relu()


class Curved(CDAM):
    """Turns its sign with the score, and is not linear in it."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found * found.abs()


def check_contrast(way, world, a, b):
    method, options = way
    forth, back, one, other = (
        method(world.model).attribute(world.images, target, **options)
        for target in (Contrast(a, b), Contrast(b, a), a, b)
    )
    scale = torch.maximum(one.abs().max(), other.abs().max())
    assert (forth + back).abs().max() <= 1e-9 * scale
    assert (forth - (one - other)).abs().max() <= 1e-8 * scale


@few
@of(SIGNED)
@given(world=worlds(), a=classes, b=classes)
def test_why_a_rather_than_b_is_less_b_rather_than_a(world, way, a, b):
    check_contrast(way, world, a, b)


@caught
@unshrunk
@of([(Rectified, {}), (Curved, {}), (DAAM, {})])
@given(world=worlds())
def test_why_a_rather_than_b_without_signs(world, way):
    check_contrast(way, world, 0, 1)


def check_never_negative(way, world, a, b):
    method, options = way
    assert (method(world.model).attribute(world.images, Contrast(a, b), **options) >= 0).all()


@few
@of(UNSIGNED)
@given(world=worlds(), a=classes, b=classes)
def test_why_a_rather_than_b_is_never_negative_without_signs(world, way, a, b):
    check_never_negative(way, world, a, b)


@caught
@unshrunk
@of([(Centred, {}), (CDAM, {})])
@given(world=worlds())
def test_why_a_rather_than_b_below_zero(world, way):
    check_never_negative(way, world, 0, 1)


class Lossy(CPLRP):
    """Loses a hundredth on the way."""

    def _maps(self, *args, **kwargs):
        return 0.99 * super()._maps(*args, **kwargs)


class OfOtherRules(CPLRP):
    """Makes the map by other rules than the account."""

    def _maps(self, run, target, *, flow, gamma=None):
        return self._handed_on(run, target, AttnLRP.ruled(gamma), flow=flow)


def check_account(method, world, unbiased):
    """The map, prefix tokens, biases and softmaxes hold the score; without biases these hold nothing."""
    if unbiased:
        with torch.no_grad():
            for name, weight in world.model.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
    ours, scores = method(world.model), world.model(world.images).detach()
    found = ours.attribute(world.images, world.targets).sum((1, 2, 3))
    for i, told in enumerate(ours.completeness(world.images, world.targets)):
        size = sum(abs(part) for part in (told.score, told.map, told.prefix, told.biases, told.softmax))
        assert told.score == pytest.approx(float(scores[i, world.targets[i]]), abs=1e-9 * size)
        assert float(found[i]) == pytest.approx(told.map, abs=1e-9 * size)
        assert abs(told.error) <= 1e-9 * size
        if unbiased:
            assert told.biases == 0
        if method is not AttnLRP:
            assert told.softmax == 0


@few
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("method", CONSERVING)
@given(world=worlds())
def test_conserving_maps_and_what_else_holds_the_score(method, unbiased, world):
    check_account(method, world, unbiased)


@caught
@unshrunk
@pytest.mark.parametrize("method", [Lossy, OfOtherRules])
@given(world=worlds())
def test_maps_that_lose_some_of_the_score(world, method):
    check_account(method, world, True)
