"""Class activation maps of models that no adapter knows, against their formulas and Captum's own."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from captum_vit import attr
from captum_vit.errors import LayerNotFoundError, OptionError, UnsupportedModelError
from tests.fingerprint import changes, fingerprint
from tests.helpers import assert_close, relative_error
from tests.reference.test_any_model import First, made, photo, plain_net


def at(module: nn.Module, model: nn.Module, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """What a module gives, and the score's gradient there, in autograd's own way."""
    kept = []

    def leaf(m: nn.Module, args: tuple, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = module.register_forward_hook(leaf)
    scores = model(x)
    handle.remove()
    scores = getattr(scores, "logits", scores)
    (gradient,) = torch.autograd.grad(scores[:, target].sum(), kept[0])
    return kept[0].detach(), gradient


# from the papers, on channels first: a and g (N, C, rows, cols)
FORMULAS = {
    attr.GradCAM: lambda a, g: (g.mean((2, 3), keepdim=True) * a).sum(1).relu(),
    attr.HiResCAM: lambda a, g: (g * a).sum(1).relu(),
    attr.CDAM: lambda a, g: (g * a).sum(1),
    attr.LayerCAM: lambda a, g: (g.relu() * a).sum(1).relu(),
    attr.XGradCAM: lambda a, g: (
        ((g * a).sum((2, 3), keepdim=True) / (a.sum((2, 3), keepdim=True) + 1e-7) * a).sum(1).relu()
    ),
    attr.GradCAMPlusPlus: lambda a, g: (
        ((g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6) * g.relu()).sum((2, 3), keepdim=True) * a)
        .sum(1)
        .relu()
    ),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_formulas_at_a_stage_and_at_the_last_grid(method):
    model, _ = made("convnext")
    x = photo(128, 192, count=2)
    assert_close(method(model).attribute(x, 3), FORMULAS[method](*at(model.stages[3], model, x, 3)).unsqueeze(1), 1e-9)
    a, g = at(model.stages[1], model, x, 3)
    ours = method(model, "stages.1").attribute(x, 3)
    assert ours.shape == (2, 1, 16, 24)
    assert_close(ours, FORMULAS[method](a, g).unsqueeze(1), 1e-9)
    others = [FORMULAS[other](a, g).unsqueeze(1) for other in FORMULAS if other is not method]
    assert all(relative_error(other, ours) > 1e-3 for other in others), "the formula of another method"


@pytest.mark.parametrize("method", [attr.GradCAM, attr.HiResCAM])
def test_channels_may_come_last_and_cells_in_a_row(method):
    for name, module, axes in (("torchvision swin", "norm", None), ("transformers swin", "swin.layernorm", (8, 8))):
        model, x = made(name)
        a, g = at(model.get_submodule(module), model, x, 1)
        if axes is not None:
            a, g = (part.unflatten(1, axes) for part in (a, g))
        expected = FORMULAS[method](a.movedim(-1, 1), g.movedim(-1, 1)).unsqueeze(1)
        ours = method(model, module).attribute(x, 1)
        assert_close(ours, expected, 1e-9)
        assert_close(method(model).attribute(x, 1), expected, 1e-9)  # by default the same place
        if a.shape[1] == a.shape[2]:  # a twin that takes rows for columns
            assert relative_error(expected.mT, ours) > 1e-2


@pytest.mark.parametrize(("layer", "target"), [("layer4", 1), ("layer2", 2), ("layer3.0.conv1", 2)])
def test_grad_cam_is_that_of_captum(layer, target):
    model, x = made("resnet")
    theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(x, target, relu_attributions=True)
    assert_close(attr.GradCAM(model, layer).attribute(x, target), theirs, 1e-9)
    if layer == "layer4":
        ours = attr.GradCAM(model)
        assert_close(ours.attribute(x, target), theirs, 1e-9)
        spatial = ours.attribute(x, target, output_shape="spatial")
        assert_close(spatial, LayerGradCam.interpolate(theirs, (64, 96), interpolate_mode="bilinear"), 1e-9)


def test_others_of_the_family():
    model, x = made("convnext")
    x = photo(128, 192)
    a, g = at(model.stages[-1], model, x, 3)
    cells = a.flatten(2).mT[0]
    centred = cells - cells.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = u[:, 0] * s[0]
    expected = (expected * expected[expected.abs().argmax()].sign()).relu().view(1, 1, 4, 6)
    assert_close(attr.EigenCAM(model).attribute(x), expected, 1e-6)
    scores = model(x)[0].detach()
    near = [i for i in (scores - scores[3]).abs().argsort().tolist() if i != 3][:3]
    _, others = at(model.stages[-1], model, x, near[0])
    others = others + sum(at(model.stages[-1], model, x, i)[1] for i in near[1:])
    finer = FORMULAS[attr.GradCAM](a, g - 0.6 * others / 3).unsqueeze(1)
    assert_close(attr.FinerCAM(model).attribute(x, 3), finer, 1e-9)
    assert relative_error(attr.GradCAM(model).attribute(x, 3), finer) > 1e-2
    assert attr.EigenGradCAM(model).attribute(x, 3).shape == (1, 1, 4, 6)
    under = attr.GradCAM(model).attribute(x, 3, rules="cp")
    assert relative_error(under, attr.GradCAM(model).attribute(x, 3)) > 1e-2


def test_batches_classes_and_flows():
    model, _ = made("convnext")
    x = photo(64, 96, count=3)
    ours = attr.GradCAM(model)
    together = ours.attribute(x, [0, 1, 2])
    each = torch.cat([ours.attribute(x[i : i + 1], i) for i in range(3)])
    assert_close(together, each, 1e-9)
    assert_close(ours.attribute_classes(x[:1], [0, 4])[:1], each[:1], 1e-9)
    assert_close(ours.attribute_flow(x, [0, 1, 2]), together, 0)


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x[..., 24:72, 24:72]])
def test_cells_that_lie_elsewhere_are_refused(change):
    assert attr.GradCAM(First(lambda x: 2 * x)).attribute(photo(96, 96), 1).shape[:2] == (1, 1)
    with pytest.raises(UnsupportedModelError, match="do not lie over the pixels"):
        attr.GradCAM(First(change)).attribute(photo(96, 96), 1)


class Turned(nn.Module):
    """A grid that is mirrored on its way, where pixels still lie as they were."""

    def __init__(self) -> None:
        super().__init__()
        net = plain_net()
        self.stem, self.rest, self.head = net[:2], net[2:4], net[4:]
        self.mirror = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rest(self.mirror(self.stem(x).flip(-1))))


def test_a_grid_that_is_mirrored_on_its_way_is_refused():
    with pytest.raises(UnsupportedModelError, match="do not lie over the pixels"):
        attr.GradCAM(Turned().double()).attribute(photo(96, 96), 1)


def test_what_does_not_apply_is_refused():
    model, x = made("convnext")
    with pytest.raises(LayerNotFoundError, match=r"no module 'stages\.9'.* Grad-CAM and its kin the last grid"):
        attr.GradCAM(model, "stages.9")
    with pytest.raises(UnsupportedModelError, match="no rows and columns"):
        attr.GradCAM(model, "head.fc").attribute(x, 1)
    with pytest.raises(UnsupportedModelError, match="no module of Sequential gives a grid"):
        attr.GradCAM(nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten()).double()).attribute(photo(32, 32), 1)
    with pytest.raises(OptionError, match="create_graph is for models that have an adapter"):
        attr.GradCAM(model).attribute(x, 1, create_graph=True)
    with pytest.raises(UnsupportedModelError, match=r"ScoreCAM|no adapter|convolutional network"):
        attr.ScoreCAM(model)


def test_nothing_is_left_behind():
    model, x = made("resnet")
    before = fingerprint(model, x)
    attr.GradCAM(model).attribute(x, 1)
    attr.EigenCAM(model).attribute(x)
    assert changes(before, fingerprint(model, x)) == []
