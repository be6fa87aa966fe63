"""Conserving gradients of kinds of models that are rare: linear stems, volumes, sampled images, found attention."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from captum_vit import AGCAM, CPLRP, AttnLRP, GradCAM, LibraGrad
from captum_vit.access.any_model import AnyModel
from captum_vit.access.cells import Cells, cells_in
from captum_vit.capture import Found
from captum_vit.errors import InputError, UnsupportedModelError
from tests.helpers import assert_close, relative_error
from tests.reference.test_any_model import RULED, photo


class Unfolded(nn.Module):
    """Patches by `nn.Unfold` and a linear layer, which meet in a linear layer too."""

    def __init__(self, *, cut: str = "unfold") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.unfold = cut, nn.Unfold(8, stride=8)
        self.stem, self.mix, self.head = nn.Linear(192, 16), nn.Linear(48, 48), nn.Linear(16, 5)

    def patches(self, x: Tensor) -> Tensor:
        if self.cut == "unfold":
            return self.unfold(x).mT  # (N, rows * cols, 3 * 8 * 8)
        n, c, height, width = x.shape
        cells = x.view(n, c, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return (
            cells if self.cut == "grid" else cells.transpose(1, 2).flatten(1, 2)
        )  # (N, rows, cols, ...), or by columns

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.patches(x))
        x = x.flatten(1, 2) if x.dim() == 4 else x
        return self.head((x + F.relu(self.mix(x.mT)).mT).mean(1))


def explicit(model: Unfolded, x: Tensor, target: int) -> Tensor:
    """Cells times gradients, which conserve where a ReLU is all that bends, (N, 1, rows, cols)."""
    cells = model.stem(model.patches(x)).detach().requires_grad_()
    tokens = cells.flatten(1, 2) if cells.dim() == 4 else cells
    scores = model.head((tokens + F.relu(model.mix(tokens.mT)).mT).mean(1))
    (gradient,) = torch.autograd.grad(scores[:, target].sum(), cells)
    return (cells * gradient).sum(-1).detach().reshape(len(x), 1, 6, 8)


@pytest.mark.parametrize("cut", ["unfold", "grid"])
@pytest.mark.parametrize("method", RULED)
def test_linear_stems_give_cells(method, cut):
    model, x = Unfolded(cut=cut).double(), photo(48, 64, count=2)
    ours = method(model)
    expected = explicit(model, x, 1)
    assert_close(ours.attribute(x, 1), expected, 1e-9)
    assert relative_error(expected.flip(-1), expected) > 0.1  # a twin that is mirrored
    told = ours.completeness(x, 1)
    assert all(abs(each.error) < 1e-9 * abs(each.score) for each in told)
    assert [each.map for each in told] == pytest.approx(expected.sum((1, 2, 3)).tolist())
    assert GradCAM(model).attribute(x, 1).shape == (2, 1, 6, 8)


def test_patches_that_stand_column_by_column_are_refused():
    with pytest.raises(UnsupportedModelError, match="do not lie over the pixels"):
        CPLRP(Unfolded(cut="columns").double()).attribute(photo(48, 64), 1)


def test_a_table_is_no_image():
    table = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    with pytest.raises(UnsupportedModelError, match="gives a grid of cells over the image"):
        CPLRP(table).attribute(photo(8, 8), 1)
    with pytest.raises(UnsupportedModelError, match=r"neither attention nor patches(?!.*AttnLRP)"):
        AGCAM(table)


def test_grids_are_told_from_shapes():
    images = torch.zeros(2, 3, 64, 96)
    assert cells_in(torch.zeros(2, 32, 8, 12), images, "m") == Cells((8, 12), (2, 3))
    assert cells_in(torch.zeros(2, 8, 12, 32), images, "m") == Cells((8, 12), (1, 2))
    assert cells_in(torch.zeros(2, 96, 7), images, "m") == Cells((8, 12), (1,))
    for shape in [(2, 97, 7), (2, 7), (4, 32, 8, 12), (2, 32, 12, 6)]:
        with pytest.raises(UnsupportedModelError, match="there are no rows and columns"):
            cells_in(torch.zeros(shape), images, "m")
    with pytest.raises(UnsupportedModelError, match="two pairs of axes"):
        cells_in(torch.zeros(2, 8, 8, 8), torch.zeros(2, 3, 64, 64), "m")
    volumes = torch.zeros(1, 1, 16, 32, 48)
    assert cells_in(torch.zeros(1, 5, 4, 8, 12), volumes, "m", channels_first=True) == Cells((4, 8, 12), (2, 3, 4))


@pytest.mark.parametrize("method", RULED)
def test_volumes_have_cells(method):
    torch.manual_seed(0)
    layers = [
        nn.Conv3d(1, 4, 4, 4, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv3d(4, 6, 3, bias=False),
        nn.LeakyReLU(0.1),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3, bias=False)).double()
    x = torch.randn(2, 1, 16, 20, 24, dtype=torch.float64)
    cells = net[0](x).detach().requires_grad_()
    scores = net[1:](cells.clone())[:, 2]
    (gradient,) = torch.autograd.grad(scores.sum(), cells)
    ours = method(net).attribute(x, 2)
    assert ours.shape == (2, 1, 4, 5, 6)
    assert_close(ours, (cells * gradient).sum(1, keepdim=True).detach(), 1e-12)
    assert_close(ours.sum((1, 2, 3, 4)), scores.detach(), 1e-12)
    assert method(net).attribute(x, 2, output_shape="spatial").shape == (2, 1, 16, 20, 24)
    with pytest.raises(InputError, match="5 dimensions"):
        method(net).attribute(x[0], 2)


class Through(nn.Module):
    """A function between a stem and a head, without biases."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.stem, self.head = nn.Conv2d(3, 6, 4, 4, bias=False), nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)).mean((2, 3)))


POINTS = torch.rand(1, 8, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
SHIFT, SCALE = 0.3, torch.linspace(0.5, 1.5, 6, dtype=torch.float64).view(1, 6, 1, 1)
FUNCTIONS = {
    "sampled at constant points": lambda x: F.grid_sample(x, POINTS.expand(len(x), -1, -1, -1), align_corners=False),
    "sampled at points of its own": lambda x: F.grid_sample(x, x[:, :2].movedim(1, -1).tanh(), align_corners=False),
    "a frozen batch norm": lambda x: x * (SCALE * (SCALE + 1e-5).rsqrt()) + (SHIFT - SHIFT * SCALE),
    "a response norm": lambda x: F.local_response_norm(x, 3),
    "a leaky ReLU in place": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "an absolute value in place": lambda x: x.abs_(),
    "a gate in place": lambda x: x.mul_(torch.sigmoid(x.mean((2, 3), keepdim=True))),
    "a product in place": lambda x: x.mul_(x.flip(1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", RULED)
def test_functions_that_models_write(method, name):
    model, x = Through(FUNCTIONS[name]).double(), photo()
    score = model(x)[0, 1].item()
    (told,) = method(model).completeness(x, 1)
    assert told.score == pytest.approx(score, rel=1e-12)
    assert abs(told.error) < 1e-9 * abs(score)
    assert abs(told.map) > 1e-3 * abs(score)


def test_points_that_move_with_the_image_are_constants():
    model, x = Through(FUNCTIONS["sampled at points of its own"]).double(), photo()
    cells = model.stem(x).detach().requires_grad_()
    points = cells[:, :2].movedim(1, -1).tanh()
    scores = [
        model.head(F.grid_sample(cells, each, align_corners=False).mean((2, 3)))[:, 1].sum()
        for each in (points.detach(), points)
    ]
    right, wrong = (
        (cells * torch.autograd.grad(score, cells, retain_graph=True)[0]).sum(1, keepdim=True).detach()
        for score in scores
    )
    ours = CPLRP(model).attribute(x, 1)
    assert_close(ours, right, 1e-9)
    assert relative_error(wrong, ours) > 1e-2  # a twin in which they have a derivative


def test_a_segmenting_volume_that_writes_in_place():
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 2, "img_size": (32, 32, 32), "feature_size": 2}
    monai = pytest.importorskip("monai")  # the oldest and the newest Python are tried without it
    model = monai.networks.nets.UNETR(**sizes, hidden_size=12, mlp_dim=16, num_heads=2).eval().double()
    x = torch.randn(1, 1, 32, 32, 32, dtype=torch.float64)
    (told,) = AttnLRP(model).completeness(x, (1, 4, 5, 6))
    assert told.score == pytest.approx(model(x)[0, 1, 4, 5, 6].item(), rel=1e-9)
    assert abs(told.error) < 1e-9 * abs(told.score)


class Between(nn.Module):
    """A ViT of nobody's library, with positions between its blocks, so that no block is given what another gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 16, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(TimmBlock(16, 2) for _ in range(2))
        self.positions, self.image_size = nn.Parameter(torch.randn(2, 16, 16)), (64, 64)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT
        for block, positions in zip(self.blocks, self.positions, strict=True):
            tokens = block(tokens + positions)
        return self.head(tokens.mean(1))


def test_found_attention_without_a_token_stream_has_maps_at_the_stem():
    torch.manual_seed(0)
    model, x = Between().eval().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    ours = AttnLRP(model)
    assert isinstance(ours.adapter, AnyModel)
    assert isinstance(AGCAM(model).adapter, Found)
    maps = ours.attribute(x, 2)
    (told,) = ours.completeness(x, 2)
    assert maps.shape == (1, 1, 4, 4)
    assert told.score == pytest.approx(model(x)[0, 2].item(), rel=1e-9)
    assert abs(told.error) < 1e-9 * abs(told.score)
    assert maps.sum().item() == pytest.approx(told.map, rel=1e-9)


class Block(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Masked(nn.Module):
    """A ViT whose scores have a bias, which is a mask of one type whatever it computes in."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dtype, self.stem, self.head = dtype, nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.blocks = nn.ModuleList([Block(), Block()])
        for weight in self.parameters():
            nn.init.normal_(weight, 0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        places = torch.arange(x.shape[1])
        mask = -0.3 * (places[:, None] - places).abs().to(self.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x.mean(1))


@pytest.mark.parametrize("method", [AGCAM, CPLRP, LibraGrad, GradCAM])
def test_masks_that_torch_reads_wrongly_are_refused(method):
    """In float64, with a mask in float32, scaled_dot_product_attention gives wrong numbers from 16 keys on."""
    wrong, right = (Masked(dtype).double().eval() for dtype in (torch.float32, torch.float64))
    right.load_state_dict(wrong.state_dict())
    x = photo(32, 48)
    if relative_error(wrong(x).detach(), right(x).detach()) < 1e-3:
        pytest.skip("this torch reads the mask rightly")
    with pytest.raises(UnsupportedModelError, match="queries in float64 and a mask in float32"):
        method(wrong).attribute(x, 1)
    assert method(right).attribute(x, 1).isfinite().all()
    assert method(wrong.float()).attribute(x.float(), 1).isfinite().all()
