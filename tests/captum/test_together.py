"""Our methods inside captum's tools: NoiseTunnel, the metrics, the visualization, and targets in all their forms."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max

from captum_vit import AGCAM
from tests.fingerprint import changes, fingerprint
from tests.helpers import CLASSES, METHODS, assert_close, explain, hf_vit, images, relative_error, timm_vit

mpl.use("Agg")


def arguments(method) -> dict:
    return {"target": 1} if method.class_specific else {}


@pytest.mark.parametrize("method", METHODS)
def test_kind_of_attribution(method):
    ours = method(timm_vit())
    assert isinstance(ours, LayerAttribution)
    assert method.get_name() == method.__name__
    assert not ours.multiplies_by_inputs
    assert not ours.has_convergence_delta()
    assert callable(method.attribute.__wrapped__)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("method", METHODS)
def test_noise_tunnel_is_the_statistic_over_noisy_inputs(method, kind):
    model, x = timm_vit(), images(2)
    before = fingerprint(model, x)
    torch.manual_seed(3)
    ours = NoiseTunnel(method(model)).attribute(
        x, nt_type=kind, nt_samples=6, nt_samples_batch_size=2, stdevs=0.3, **arguments(method)
    )
    torch.manual_seed(3)
    noise = torch.cat([torch.normal(0, torch.full((4, *x.shape[1:]), 0.3)).unflatten(0, (2, 2)) for _ in range(3)], 1)
    noisy = (x[:, None] + noise).flatten(0, 1)
    maps = explain(method(model), noisy).unflatten(0, (2, 6))
    squares = maps.square().mean(1)
    expected = {"smoothgrad": maps.mean(1), "smoothgrad_sq": squares, "vargrad": squares - maps.mean(1).square()}
    assert ours.shape == (2, 1, 4, 4)
    assert_close(ours, expected[kind], 1e-4)
    assert relative_error(ours, explain(method(model), x)) > 1e-3
    after = fingerprint(model, x)
    assert changes(before, after) == ["random state"]


@pytest.mark.parametrize("method", METHODS)
def test_noise_tunnel_without_noise_is_the_map(method):
    for model in (timm_vit(), hf_vit()):
        options = {"nt_type": "smoothgrad", "nt_samples": 3, "stdevs": 0.0}
        smooth = NoiseTunnel(method(model)).attribute((images(),), **options, **arguments(method))
        assert_close(smooth[0], explain(method(model), images()))


def perturbed(x):
    noise = 0.1 * torch.randn_like(x)
    return noise, x - noise


@pytest.mark.parametrize("method", METHODS)
def test_infidelity(method):
    model, x = timm_vit(), images()
    by_input = explain(method(model), x, output_shape="input")
    found = infidelity(model, perturbed, x, by_input, target=1, n_perturb_samples=5, normalize=True)
    assert found.shape == (2,)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    twice = torch.stack([infidelity_with_seed(model, x, factor * by_input) for factor in (1, 2)])
    assert_close(twice[0], twice[1], 1e-3)


def infidelity_with_seed(model, x, attribution):
    torch.manual_seed(5)
    return infidelity(model, perturbed, x, attribution, target=1, n_perturb_samples=5, normalize=True)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["tensor", "tuple"])
@pytest.mark.parametrize("method", METHODS)
def test_sensitivity(method, form, count):
    ours, x = method(timm_vit()), images(count)
    torch.manual_seed(2)
    given = (x,) if form == "tuple" else x
    found = sensitivity_max(ours.attribute, given, perturb_radius=0.1, n_perturb_samples=4, **arguments(method))
    assert found.shape == (count,)
    torch.manual_seed(2)
    clean = explain(ours, x)
    shifted = explain(ours, x + torch.empty_like(x).uniform_(-0.1, 0.1))
    change = (shifted - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)
    assert (found > 0.05 * change).all()
    assert (found < 20 * change).all()


@pytest.mark.parametrize("method", METHODS)
def test_visualization(method):
    x = images(1)
    for output_shape in ("spatial", "input"):
        maps = explain(method(timm_vit()), x, output_shape=output_shape)[0].permute(1, 2, 0).numpy()
        photo = ((x[0] - x.min()) / (x.max() - x.min())).permute(1, 2, 0).numpy()
        for style in ("heat_map", "blended_heat_map", "masked_image", "alpha_scaling"):
            figure, _ = viz.visualize_image_attr(maps, photo, style, "absolute_value", use_pyplot=False)
            plt.close(figure)
        kinds, signs = ["original_image", "heat_map"], ["all", "positive"]
        figure, _ = viz.visualize_image_attr_multiple(maps, photo, kinds, signs, use_pyplot=False)
        plt.close(figure)


FORMS = {
    "int": 3,
    "negative": 3 - CLASSES,
    "tuple": (3,),
    "0-d": torch.tensor(3),
    "1-element": torch.tensor([3]),
    "tensor": torch.tensor([3, 3]),
    "int32": torch.tensor([3, 3], dtype=torch.int32),
    "list": [3, 3],
    "tuples": [(3,), (3,)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", [method for method in METHODS if method.class_specific])
def test_targets_in_every_form(method, form):
    for model in (timm_vit(), hf_vit()):
        ours = method(model)
        expected = ours.attribute(images(), 3)
        assert torch.equal(ours.attribute(images(), FORMS[form]), expected)
        assert relative_error(ours.attribute(images(), 2), expected) > 1e-3
        each = ours.attribute(images(), [3, 2])
        assert_close(each[:1], expected[:1])
        assert_close(each[1:], ours.attribute(images(), 2)[1:])


@pytest.mark.parametrize("form", FORMS)
def test_targets_through_the_noise_tunnel(form):
    options = {"nt_type": "smoothgrad", "nt_samples": 2, "stdevs": 0.0}
    tunnel = NoiseTunnel(AGCAM(timm_vit()))
    assert_close(tunnel.attribute(images(), target=FORMS[form], **options), AGCAM(timm_vit()).attribute(images(), 3))


def test_a_scalar_model_needs_no_target():
    model = timm_vit(num_classes=1)
    for method in METHODS:
        assert torch.equal(method(model).attribute(images()), explain(method(model), images(), 0))
