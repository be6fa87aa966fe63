"""One of the views that an owner makes of each image: its map is that of the ViT on this view, by the owner's score."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, OneView, RawAttention
from captum_vit.errors import OptionError, TokenLayoutError, UnsupportedModelError
from tests.adapters.own import WIDTH, Block
from tests.helpers import assert_close, explain, images, relative_error, timm_vit

Views = Callable[[Tensor], list[Tensor]]


class Owner(nn.Module):
    """The mean of what a ViT gives for each view, bent."""

    def __init__(self, views: Views, how: str, vit: nn.Module | None = None) -> None:
        super().__init__()
        self.vit, self.views, self.how = vit or timm_vit(), views, how

    def forward(self, x: Tensor) -> Tensor:
        views = self.views(x)
        if self.how == "one after another":
            return torch.stack([self.vit(view).sin() for view in views]).mean(0)
        if self.how == "side by side":
            return self.vit(torch.stack(views, 1).flatten(0, 1)).sin().unflatten(0, (-1, len(views))).mean(1)
        return self.vit(torch.cat(views)).sin().unflatten(0, (len(views), -1)).mean(0)


def flips(x: Tensor) -> list[Tensor]:
    return [x, x.flip(3), x.flip(2)]


def crops(x: Tensor) -> list[Tensor]:
    return [x[..., :32, :32], x[..., 8:40, 8:40], F.interpolate(x, (32, 32), mode="bilinear", antialias=True)]


HOW = ["in one batch", "side by side", "one after another"]
SIZES = {flips: (32, 32), crops: (48, 48)}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("views", SIZES, ids=["flips", "crops"])
@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_the_map_is_that_of_the_view_by_the_owners_score(method, views, how):
    x = images(2, SIZES[views]).double()
    model = Owner(views, how).double()
    found = []
    for view, seen in enumerate(views(x)):
        expected = method(model.vit).attribute(seen, lambda output: output.sin()[:, 1] / 3)
        ours = method(OneView(model, view)).attribute(x, 1)
        if views is flips:  # maps are the right way round
            expected = [expected, expected.flip(3), expected.flip(2)][view]
        assert_close(ours, expected, 1e-6)
        found.append(ours)
    assert relative_error(found[0], found[1]) > 1e-2, "another view has another map"
    assert relative_error(found[0].flip(0), found[0]) > 1e-2, "another image has another map"


@pytest.mark.parametrize("method", [AttentionRollout, RawAttention])
def test_methods_without_gradients(method):
    x = images(2)
    model = Owner(flips, "in one batch")
    for view, seen in enumerate(flips(x)):
        expected = explain(method(model.vit), seen)
        expected = [expected, expected.flip(3), expected.flip(2)][view]
        assert_close(explain(method(OneView(model, view)), x), expected, 1e-4)


def test_a_crop_lies_where_it_was_cut():
    x = images(1, (48, 48))
    map_ = AGCAM(OneView(Owner(crops, "in one batch"), 1)).attribute(x, 1, output_shape="spatial")
    assert map_.shape == (1, 1, 48, 48)
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[8:40, 8:40] = True
    assert (map_[0, 0][inside] > 0).any()
    assert (map_[0, 0][~inside] == 0).all()


def test_the_owners_scores_are_given():
    x, model = images(2), Owner(flips, "side by side")
    torch.testing.assert_close(OneView(model, 2)(x), model(x))
    before = dict(model.vit.__dict__)
    AGCAM(OneView(model, 2)).attribute(x, 1)
    assert model.vit.__dict__.keys() == before.keys()
    with pytest.raises(UnsupportedModelError, match="several views"):
        AGCAM(model).attribute(x, 1)


class Own(nn.Module):
    """A ViT that no adapter knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 7)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(1))


def test_code_of_ones_own_is_named():
    x = images(2)
    model = Owner(flips, "in one batch", Own().eval())
    ours = AGCAM(OneView(model, 1, vit=model.vit)).attribute(x, 1)
    expected = AGCAM(model.vit).attribute(x.flip(3), lambda output: output.sin()[:, 1] / 3).flip(3)
    assert_close(ours, expected, 1e-4)


class Pair(nn.Module):
    """Two images through one ViT, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = self.vit(torch.cat([a, b])).chunk(2)
        return F.cosine_similarity(one, other)


def test_the_first_of_a_pair_is_explained_beside_the_other():
    a, b = images(2).double(), images(2, seed=5).double()
    model = Pair().double()
    other = model.vit(b).detach()
    expected = AGCAM(model.vit).attribute(a, lambda output: F.cosine_similarity(output, other))
    assert_close(AGCAM(OneView(model, 0)).attribute(a, 0, b), expected, 1e-6)
    with pytest.raises(TokenLayoutError, match=r"no token .* changes with the images that are given"):
        AGCAM(OneView(model, 1)).attribute(a, 0, b)


def test_what_is_no_view_is_said():
    x, model = images(2), Owner(flips, "in one batch")
    with pytest.raises(UnsupportedModelError, match="Owner makes 3 views of an image: there is no view 3"):
        AGCAM(OneView(model, 3)).attribute(x, 1)
    with pytest.raises(OptionError, match=r"expected an owner around a ViT, .* got VisionTransformer itself"):
        OneView(model.vit, 0)
    with pytest.raises(OptionError, match="does not hold this VisionTransformer"):
        OneView(model, 0, vit=timm_vit())
    for view in (-1, True, "apart"):
        with pytest.raises(OptionError, match="counts the views of an image from 0"):
            OneView(model, view)
    turned = Owner(lambda x: [x, x.flip(0)], "in one batch")
    with pytest.raises(UnsupportedModelError, match=r"of which image cannot be told|depend on the others"):
        AGCAM(OneView(turned, 1)).attribute(x, 1)


def test_taking_the_next_image_for_the_next_view_would_be_seen():
    """What these tests are for: views side by side, taken as if they stood one batch apart."""
    x, model = images(2), Owner(flips, "side by side")
    expected = AGCAM(OneView(model, 1)).attribute(x, 1)
    twin = AGCAM(model.vit).attribute(torch.stack([x[1], x[1].flip(1)]), lambda out: out.sin()[:, 1] / 3)
    assert relative_error(twin, expected) > 1e-2
