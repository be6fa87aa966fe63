"""What must hold of conserving gradients on models of any architecture, which no adapter knows."""

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from captum_vit import AGCAM, CPLRP, AttnLRP, LibraGrad, RawAttention
from captum_vit.access.any_model import AnyModel
from captum_vit.capture import norms
from captum_vit.capture.ruled import State
from captum_vit.errors import InputError, LayerNotFoundError, OptionError, UnsupportedModelError
from tests.fingerprint import changes, fingerprint
from tests.helpers import assert_close, relative_error, timm_vit

RULED = [CPLRP, AttnLRP, LibraGrad]
SWIN = {"img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 16, "num_heads": (2, 4)}
PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4)}
SMALL_SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2], "window_size": [4, 4]}


def of_timm(name: str, **options):
    return lambda: timm.create_model(name, num_classes=12, **options)


def of_hf(kind: str, **options):
    config = getattr(transformers, f"{kind}Config")(num_labels=12, **options)
    return lambda: getattr(transformers, f"{kind}ForImageClassification")(config)


# model, and height and width of its images
MODELS = {
    "swin": (of_timm("swin_tiny_patch4_window7_224", **SWIN), (64, 64)),
    "swinv2": (of_timm("swinv2_tiny_window8_256", **SWIN), (64, 64)),
    "swinv2_cr": (of_timm("swinv2_cr_tiny_224", **SWIN), (64, 64)),
    "pvt": (of_timm("pvt_v2_b0", **PYRAMID), (64, 96)),
    "maxvit": (of_timm("maxvit_rmlp_pico_rw_256", img_size=64, depths=(1, 1), embed_dim=(32, 32)), (64, 64)),
    "coatnet": (of_timm("coatnet_nano_rw_224", img_size=64, depths=(1, 1, 1, 1), embed_dim=(32, 32, 32, 32)), (64, 64)),
    "hiera": (of_timm("hiera_tiny_224", img_size=64, embed_dim=16, stages=(1, 1, 1, 1)), (64, 64)),
    "efficientvit": (of_timm("efficientvit_b0", widths=(8, 8, 16, 16, 32)), (64, 96)),
    "convnext": (of_timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), (64, 96)),
    "convnextv2": (of_timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), (64, 96)),
    "resnet": (of_timm("resnet10t"), (64, 96)),
    "regnet": (of_timm("regnety_002"), (64, 96)),
    "mobilenet": (of_timm("mobilenetv3_small_050"), (64, 96)),
    "mobilevit": (of_timm("mobilevit_xxs"), (64, 96)),
    "mvit": (of_timm("mvitv2_tiny", img_size=64), (64, 64)),
    "gcvit": (of_timm("gcvit_xxtiny", img_size=64), (64, 64)),
    "mixer": (of_timm("mixer_s32_224", img_size=64), (64, 64)),
    "torchvision resnet": (lambda: torchvision.models.resnet18(num_classes=12), (64, 96)),
    "torchvision swin": (lambda: torchvision.models.SwinTransformer(**SMALL_SWIN, num_classes=12), (64, 96)),
    "transformers swin": (
        of_hf("Swin", image_size=64, embed_dim=16, depths=[2, 1], num_heads=[2, 2], window_size=4),
        (64, 64),
    ),
    "transformers convnext": (of_hf("ConvNext", depths=[1, 1], hidden_sizes=[8, 16], num_stages=2), (64, 96)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A model with weights and biases of a size that all of it has a part in its scores, and one image."""
    build, size = MODELS[name]
    torch.manual_seed(0)
    model = build().eval().double()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight[0].numel():
                weight.normal_(0, 1.5 / weight[0].numel() ** 0.5)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return model, torch.randn(1, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_a_score_is_accounted_for(name):
    model, x = made(name)
    scores = model(x)
    score = getattr(scores, "logits", scores)[0, 1].item()
    for method in RULED:
        ours = method(model)
        (told,) = ours.completeness(x, 1)
        assert told.score == pytest.approx(score, rel=1e-9)
        assert abs(told.error) < 1e-6 * abs(score)
        assert abs(told.map) > 1e-5 * abs(score), "the cells have a part"
        map_ = ours.attribute(x, 1)
        assert map_.sum().item() == pytest.approx(told.map, rel=1e-6)
        rows, cols = map_.shape[2:]
        assert rows * x.shape[3] == cols * x.shape[2]


def plain_net(stride: int = 4) -> nn.Module:
    """Convolutions and ReLUs without biases: gradient times input is exact there."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 4, stride, bias=False), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12, bias=False)).double()


def photo(rows: int = 32, cols: int = 48, count: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, rows, cols, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", RULED)
def test_where_gradient_times_input_is_exact_it_is_that(method):
    net, x = plain_net(), photo(count=2)
    cells = net[0](x).detach().requires_grad_()
    scores = net[1:](cells.clone())[:, 3]
    (gradient,) = torch.autograd.grad(scores.sum(), cells)
    maps = method(net).attribute(x, 3)
    assert maps.shape == (2, 1, 8, 12)
    assert_close(maps, (cells * gradient).sum(1, keepdim=True).detach(), 1e-12)
    assert_close(maps.sum((1, 2, 3)), scores.detach(), 1e-12)
    assert_close(method(net).attribute_flow(x, 3), maps, 0)  # one slice
    pixels = method(net).attribute(x, 3, output_shape="input")
    assert pixels.shape == x.shape
    assert_close(pixels.sum((1, 2, 3)), scores.detach(), 1e-12)


@pytest.mark.parametrize("name", ["swin", "convnext", "resnet"])
def test_a_plain_gradient_and_an_account_without_biases_do_not_close(name, monkeypatch):
    """The twins that are wrong: a norm with its own derivative, and constants that nobody counts."""
    model, x = made(name)
    with monkeypatch.context() as patch:
        patch.setattr(State, "added", lambda self, x, name: x)
        (told,) = CPLRP(model).completeness(x, 1)
        assert abs(told.error) > 1e-3 * abs(told.score)
    if name != "resnet":
        model, x = made(name)
        with monkeypatch.context() as patch:
            patch.setattr(norms.rule_functions, "layer_norm", torch.nn.functional.layer_norm)
            (told,) = CPLRP(model).completeness(x, 1)
        assert abs(told.error) > 1e-3 * abs(told.score)


def test_cells_move_that_see_the_pixels_which_change():
    """Where nothing but the cells' own pixels changes a map, as in a net that is linear behind its stem."""
    torch.manual_seed(2)
    head = nn.Linear(6 * 8 * 12, 12, bias=False)
    net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Flatten(), head).double()
    x = photo()
    other = x.clone()
    other[:, :, 8:12, 20:24] += 1  # the cell in row 2, column 5
    moved = AttnLRP(net).attribute(x, 1) != AttnLRP(net).attribute(other, 1)
    assert moved.nonzero().tolist() == [[0, 0, 2, 5]]
    spatial = AttnLRP(net).attribute(other, 1, output_shape="spatial") - AttnLRP(net).attribute(
        x, 1, output_shape="spatial"
    )
    assert spatial.shape == (1, 1, 32, 48)
    assert divmod(int(spatial.abs().flatten().argmax()), 48) in {(r, c) for r in range(8, 12) for c in range(20, 24)}


def test_margins_that_no_cell_sees_have_no_evidence():
    spatial = CPLRP(plain_net()).attribute(photo(34, 48), 1, output_shape="spatial")
    assert spatial.shape == (1, 1, 34, 48)
    assert not spatial[:, :, 32:].any()
    assert spatial[:, :, 31].any()


def test_a_batch_is_its_singles_and_classes_are_their_maps():
    model, _ = made("convnext")
    x = photo(64, 96, count=3)
    ours = LibraGrad(model)
    together = ours.attribute(x, [0, 1, 2])
    each = torch.cat([ours.attribute(x[i : i + 1], i) for i in range(3)])
    assert_close(together, each, 1e-9)
    several = ours.attribute_classes(x[:1], [0, 4])
    assert_close(several[:1], each[:1], 1e-9)
    assert relative_error(several[1:], several[:1]) > 1e-2


def test_layer_names_the_cells():
    model, x = made("convnext")
    deeper = AttnLRP(model, "stages.1").attribute(x, 1)
    assert deeper.shape == (1, 1, 8, 12)
    assert_close(AttnLRP(model, model.stages[1]).attribute(x, 1), deeper, 1e-12)
    swin, wide = made("torchvision swin")
    assert CPLRP(swin, layer="features.1").attribute(wide, 1).shape == (1, 1, 16, 24)  # with its channels last
    with pytest.raises(UnsupportedModelError, match="two pairs of axes may be rows"):
        CPLRP(made("swin")[0], layer="layers.0").attribute(photo(64, 64), 1)
    with pytest.raises(LayerNotFoundError, match=r"no module 'stages\.9'.* conserving gradients the first convolution"):
        AttnLRP(model, "stages.9")
    with pytest.raises(UnsupportedModelError, match="no rows and columns"):
        AttnLRP(model, "head.fc").attribute(x, 1)
    with pytest.raises(UnsupportedModelError, match=r"in other ways than through layer2\.0\.conv1"):
        AttnLRP(made("resnet")[0], "layer2.0.conv1").attribute(photo(64, 96), 1)


class First(nn.Module):
    """Something that is done to images first."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change, self.net = change, plain_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x[..., 24:72, 24:72]])
def test_cells_that_lie_elsewhere_are_refused(change):
    assert CPLRP(First(lambda x: 2 * x)).attribute(photo(96, 96), 1).shape == (1, 1, 24, 24)
    with pytest.raises(UnsupportedModelError, match="do not lie over the pixels"):
        CPLRP(First(change)).attribute(photo(96, 96), 1)


class Odd(nn.Module):
    """A function that no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.cos(x)


class Two(nn.Module):
    """Two branches that look at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = plain_net(), plain_net(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


@pytest.mark.parametrize("method", RULED)
def test_what_cannot_be_accounted_for_is_refused(method):
    net = plain_net()
    net[3] = Odd()
    with pytest.raises(UnsupportedModelError, match=f"{method.title} have none for the function cos"):
        method(net).attribute(photo(), 1)
    with pytest.raises(UnsupportedModelError, match=r"in other ways than through one\.0"):
        method(Two().double()).attribute(photo(), 1)
    assert method(Two().double()).attribute(photo(), 1, output_shape="input").shape == (1, 3, 32, 48)
    with pytest.raises(OptionError, match="cannot be differentiated by the model"):
        method(plain_net()).attribute(photo(), 1, create_graph=True)
    with pytest.raises(InputError, match="expected one torch tensor of images"):
        method(plain_net()).attribute(photo()[0], 1)


def test_attention_methods_tell_what_applies():
    swin, _ = made("swin")
    for method in (AGCAM, RawAttention):
        with pytest.raises(UnsupportedModelError, match=r"in windows.* CPLRP, AttnLRP and LibraGrad apply"):
            method(swin)
    text = nn.Sequential(nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, 2))
    for method in (AGCAM, AttnLRP):
        with pytest.raises(UnsupportedModelError, match=r"text model(?!.*AttnLRP)"):
            method(text)
    assert not isinstance(AttnLRP(timm_vit()).adapter, AnyModel)


@pytest.mark.parametrize("output_shape", ["grid", "input"])
def test_nothing_is_left_behind(output_shape):
    model = timm.create_model("convnext_atto", num_classes=12, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)).eval()
    x = photo(64, 96).float()
    before = fingerprint(model, x)
    ours = AttnLRP(model)
    ours.attribute(x, 1, output_shape=output_shape)
    ours.completeness(x, 1)
    assert changes(before, fingerprint(model, x)) == []
