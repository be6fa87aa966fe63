"""Class activation maps on tokens against the published programs, and against their equations channel by channel."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit import (
    CDAM,
    Contrast,
    EigenCAM,
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from captum_vit.errors import CaptumViTError, LayerNotFoundError, OptionError, TargetError, UnsupportedModelError
from tests.helpers import assert_close, images, relative_error, timm_vit
from tests.reference import explicit
from tests.reference.published import arrays, vit
from tests.reference.test_formulas import DIFFERENT, EXACT, GRID, TARGET, World, plain, world  # noqa: F401

STABLE = 1e-5
PUBLISHED = {  # array -> method, options, tolerance in float32: denominators near 0 make single channels large
    "gradcam": (GradCAM, {}, STABLE),
    "gradcam_elementwise": (GradCAM, {"weights": "elementwise"}, STABLE),
    "gradcampp": (GradCAMPlusPlus, {}, 1e-3),
    "hirescam": (HiResCAM, {}, STABLE),
    "layercam": (LayerCAM, {}, STABLE),
    "xgradcam": (XGradCAM, {}, 1e-3),
}
EIGEN = {"eigencam": EigenCAM, "eigengradcam": EigenGradCAM}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_program(name):
    method, options, tolerance = PUBLISHED[name]
    found, expected = arrays("expected"), arrays("cams")[f"{name}_raw"].relu()
    double = method(vit(torch.float64)).attribute(found["images"].double(), found["targets"], **options)
    assert_close(double[:, 0], expected, 1e-9)
    single = method(vit()).attribute(found["images"], found["targets"], **options)
    assert_close(single[:, 0].double(), expected, tolerance)


@pytest.mark.parametrize("name", [*PUBLISHED, "eigengradcam"])
def test_what_the_published_program_shows(name):
    """The relu comes first, and then each image by itself between 0 and 1, small and once more enlarged."""
    method, options, _ = PUBLISHED.get(name, (EigenGradCAM, {}, 0))
    found = arrays("expected")
    small = method(vit(torch.float64)).attribute(found["images"].double(), found["targets"], **options)
    large = F.interpolate(between_0_and_1(small), found["images"].shape[2:], mode="bilinear", align_corners=False)
    assert_close(between_0_and_1(large)[:, 0], arrays("cams")[f"{name}_final"].double(), 2.1e-4)


def between_0_and_1(z: Tensor) -> Tensor:
    z = z - z.amin((2, 3), keepdim=True)
    return z / (1e-7 + z.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("name", EIGEN)
def test_the_published_program_up_to_its_sign(name):
    found, raw = arrays("expected"), arrays("cams")[f"{name}_raw"]
    method = EIGEN[name](vit(torch.float64))
    maps = method.attribute(found["images"].double(), found["targets"] if method.class_specific else None)[:, 0]
    for ours, theirs in zip(maps, raw, strict=True):
        sides = [relative_error(ours, (sign * theirs).relu()) for sign in (1, -1)]
        assert min(sides) < 1e-7 < 1e-3 < max(sides)  # the program gives float32


def test_cdam():
    found, net = arrays("expected"), vit(torch.float64)
    x = found["images"].double()
    assert_close(CDAM(net).attribute(x, found["targets"])[:, 0], arrays("cams")["cdam"], 1e-12)
    net.reset_classifier(0)
    with torch.no_grad():
        concept = net(x[:2]).mean(0)
    maps = CDAM(net).attribute(x, lambda features: features @ concept)
    assert_close(maps[:, 0], arrays("cams")["cdam_concept"], 1e-12)


# the equations, image by image, with a and G (D, rows, cols)


def gradcam(a: Tensor, g: Tensor) -> Tensor:
    return sum(g[k].mean() * a[k] for k in range(len(a)))


def gradcam_elementwise(a: Tensor, g: Tensor) -> Tensor:
    return sum((g[k] * a[k]).clamp(min=0) for k in range(len(a)))


def gradcampp(a: Tensor, g: Tensor) -> Tensor:
    total = torch.zeros_like(a[0])
    for k in range(len(a)):
        alpha = g[k] ** 2 / (2 * g[k] ** 2 + a[k].sum() * g[k] ** 3 + 1e-6)
        total += torch.where(g[k] > 0, alpha * g[k], 0).sum() * a[k]
    return total


def hirescam(a: Tensor, g: Tensor) -> Tensor:
    return torch.einsum("kxy,kxy->xy", a, g)


def layercam(a: Tensor, g: Tensor) -> Tensor:
    return torch.einsum("kxy,kxy->xy", a, g.clamp(min=0))


def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    return sum((g[k] * a[k]).sum() / (a[k].sum() + 1e-7) * a[k] for k in range(len(a)))


def along_first_axis(x: Tensor) -> Tensor:
    rows = x.flatten(1).T - x.flatten(1).T.mean(0)
    return (rows @ torch.linalg.svd(rows, full_matrices=False).Vh[0]).view(x.shape[1:])


def eigencam(a: Tensor, g: Tensor) -> Tensor:
    found = along_first_axis(a)
    return found if found.max() > -found.min() else -found


def eigengradcam(a: Tensor, g: Tensor) -> Tensor:
    found = along_first_axis(a * g)
    return found if torch.corrcoef(torch.stack([found.flatten(), hirescam(a, g).flatten()]))[0, 1] > 0 else -found


EQUATIONS = {
    gradcam: (GradCAM, {}),
    gradcam_elementwise: (GradCAM, {"weights": "elementwise"}),
    gradcampp: (GradCAMPlusPlus, {}),
    hirescam: (HiResCAM, {}),
    layercam: (LayerCAM, {}),
    xgradcam: (XGradCAM, {}),
    eigencam: (EigenCAM, {}),
    eigengradcam: (EigenGradCAM, {}),
}


def by_equation(w: World, equation, block: int = -1, y: Tensor | None = None) -> Tensor:
    n = w.blocks[block].n
    (gradient,) = explicit.gradients(w.y if y is None else y, [n])

    def channels(x: Tensor) -> Tensor:
        return x[w.prefix :].T.unflatten(1, GRID)

    maps = [equation(channels(a), channels(g)) for a, g in zip(n.detach(), gradient, strict=True)]
    return torch.stack(maps).unsqueeze(1)


def ours(w: World, method, target=TARGET, layer=None, **options) -> Tensor:
    return method(w.model, layer).attribute(w.images, target if method.class_specific else None, **options)


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.__name__)
def test_the_equation(world, equation):  # noqa: F811
    method, options = EQUATIONS[equation]
    assert_close(ours(world, method, **options), by_equation(world, equation).relu(), 1e-8)
    flow = method(world.model).attribute_flow(world.images, TARGET if method.class_specific else None, **options)
    for i in range(len(world.blocks)):
        assert (flow[:, i : i + 1] - by_equation(world, equation, i).relu()).abs().max() <= 1e-8 * flow.abs().max()


def test_without_relu_it_has_both_signs(world):  # noqa: F811
    found = ours(world, CDAM)
    assert_close(found, by_equation(world, hirescam), EXACT)
    assert found.min() < 0 < found.max()
    there, back = (ours(world, CDAM, Contrast(*pair)) for pair in ((2, 5), (5, 2)))
    assert_close(there, -back, EXACT)


def finer(w: World, gamma: float, similar: int, *, of=lambda away: away.abs()) -> Tensor:
    """y_c - gamma * mean of those nearest to it, by sorting."""
    total = []
    for scores, c in zip(w.scores, TARGET.tolist(), strict=True):
        others = sorted(
            (d for d in range(len(scores)) if d != c), key=lambda d: float(of(scores.detach()[d] - scores.detach()[c]))
        )
        total.append(scores[c] - gamma * sum(scores[d] for d in others[:similar]) / len(others[:similar]))
    return torch.stack(total)


@pytest.mark.parametrize(("gamma", "similar"), [(0.6, 3), (1.0, 1), (0.3, 99)])
def test_finer_cam(plain, gamma, similar):  # noqa: F811
    found = ours(plain, FinerCAM, gamma=gamma, similar=similar)
    assert_close(found, by_equation(plain, gradcam, y=finer(plain, gamma, similar)).relu(), EXACT)
    assert_close(ours(plain, FinerCAM, gamma=0.0), ours(plain, GradCAM), EXACT)
    if similar < 9:
        highest = finer(plain, gamma, similar, of=lambda away: -away)
        assert relative_error(found, by_equation(plain, gradcam, y=highest).relu()) > DIFFERENT
    there = ours(plain, FinerCAM, Contrast(2, 2), gamma=gamma, similar=similar)
    assert there.abs().max() == 0


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"gamma": "much"}, {"similar": 0}, {"similar": 1.5}])
def test_finer_cam_of_nonsense(plain, options):  # noqa: F811
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
        ours(plain, FinerCAM, **options)


def test_finer_cam_needs_classes(plain):  # noqa: F811
    with pytest.raises(TargetError, match="compares a class with those that are like it"):
        ours(plain, FinerCAM, lambda scores: scores[:, 1])
    with pytest.raises(UnsupportedModelError, match=r"FinerCAM does not apply .* features, and no classes"):
        FinerCAM(timm_vit(num_classes=0))


# near misses


NEAR = {
    "another block": (HiResCAM, lambda w: by_equation(w, hirescam, -2)),
    "the attention's own output": (HiResCAM, lambda w: by_equation(w, lambda a, g: hirescam(a, g.abs()))),
    "the sum of gradients": (GradCAM, lambda w: by_equation(w, lambda a, g: gradcam(a, g * g[0].numel()))),
    "weights rectified": (GradCAM, lambda w: by_equation(w, lambda a, g: gradcam(a, g.clamp(min=0)))),
    "sum after the relu": (GradCAM, lambda w: by_equation(w, gradcam_elementwise)),
    "alpha without its sum": (
        GradCAMPlusPlus,
        lambda w: by_equation(w, lambda a, g: sum(g[k].clamp(min=0).sum() / 2 * a[k] for k in range(len(a)))),
    ),
    "not by the sum": (
        XGradCAM,
        lambda w: by_equation(w, lambda a, g: sum((g[k] * a[k]).sum() * a[k] for k in range(len(a)))),
    ),
    "the other sign": (EigenCAM, lambda w: -by_equation(w, eigencam)),
    "the mean left in": (
        EigenCAM,
        lambda w: by_equation(
            w, lambda a, g: (torch.linalg.svd(a.flatten(1).T).Vh[0] @ a.flatten(1)).view(a.shape[1:])
        ),
    ),
    "values alone": (EigenGradCAM, lambda w: by_equation(w, eigencam)),
}


@pytest.mark.parametrize("near", NEAR)
def test_near_misses_differ(plain, near):  # noqa: F811
    method, wrong = NEAR[near]
    assert relative_error(ours(plain, method), wrong(plain).relu()) > DIFFERENT


# another way back


def by_conserving_gradient(w: World) -> Tensor:
    """Grad-CAM of the last block by CP-LRP: attention, deviations of norms and gates of the MLP are constants."""
    model, block = w.model, w.model.blocks[-1]

    def norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt().detach() * layer.weight + layer.bias
        )

    with torch.no_grad():
        x = model.blocks[:-1](model.norm_pre(model._pos_embed(model.patch_embed(w.images))))
    n = norm(x, block.norm1).detach().requires_grad_()
    q, k, v = block.attn.qkv(n).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    a = (q @ k.mT * block.attn.scale).softmax(-1).detach()
    x = x + block.attn.proj((a @ v).transpose(1, 2).flatten(2))
    hidden = block.mlp.fc1(norm(x, block.norm2))
    x = x + block.mlp.fc2(hidden * (0.5 * (1 + torch.erf(hidden / 2**0.5))).detach())
    y = model.head(norm(x[:, 0], model.norm)).gather(1, TARGET[:, None])
    (g,) = explicit.gradients(y, [n])
    maps = (n.detach() * g[:, w.prefix :].mean(1, keepdim=True)).sum(-1)[:, w.prefix :]
    return maps.relu().reshape(-1, 1, *GRID)


def test_conserving_gradients(plain):  # noqa: F811
    expected = by_conserving_gradient(plain)
    assert_close(ours(plain, GradCAM, rules="cp"), expected, 1e-8)
    ways = [ours(plain, GradCAM, rules=rules) for rules in ("none", "cp", "attn")]
    assert all(relative_error(ways[i], ways[j]) > DIFFERENT for i in range(3) for j in range(i))
    with pytest.raises(OptionError, match="rules are one of none, cp, attn, libra, got 'lrp'"):
        ours(plain, GradCAM, rules="lrp")


# where


def test_a_layer_by_all_its_names(plain):  # noqa: F811
    """An attention layer, its block, and the norm before it are the same place; other modules are what they give."""
    block, found = plain.model.blocks[1], by_equation(plain, hirescam, 1).relu()
    for layer in (
        1,
        -2,
        "blocks.1.attn",
        "blocks.1",
        block,
        block.attn,
        block.norm1,
        "blocks.1.norm1",
        [0, block.norm1],
    ):
        assert_close(ours(plain, HiResCAM, layer=layer), found, EXACT)
    stream = plain.model.blocks[0].mlp  # what it gives is in the stream of the next block, but not all of it
    assert relative_error(ours(plain, HiResCAM, layer=stream), found) > DIFFERENT
    flow = HiResCAM(plain.model, ["blocks.1.norm2", 0]).attribute_flow(plain.images, TARGET)
    assert_close(flow[:, :1], by_equation(plain, hirescam, 0).relu(), EXACT)


@pytest.mark.parametrize("layer", ["norm", "blocks.2.norm2", "blocks.2.mlp", "blocks.2.attn.proj"])
def test_behind_the_last_attention_a_class_token_is_alone(plain, layer):  # noqa: F811
    with pytest.raises(UnsupportedModelError, match=f"does not depend on the patches at {layer}.*Choose an attention"):
        ours(plain, GradCAM, layer=layer)
    mean = World("mean")
    assert ours(mean, CDAM, layer=layer).abs().max() > 0  # where they are read, there is a map


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("head", r"the module head \(Linear\) does not give the tokens as \(B, N, D\)"),
        ("blocks.7", "no attention layer 'blocks.7'"),
        (9, "no attention layer 9"),
    ],
)
def test_a_layer_without_tokens(plain, layer, message):  # noqa: F811
    with pytest.raises(CaptumViTError, match=message):
        ours(plain, GradCAM, layer=layer)


def test_half_precision_is_summed_in_float32():
    model, x = timm_vit().bfloat16(), images().bfloat16()
    found = HiResCAM(model).attribute(x, 1)
    assert found.dtype == torch.float32
    assert relative_error(found, HiResCAM(timm_vit()).attribute(images(), 1)) < 0.1


class Early(torch.nn.Module):
    """Reads the class token after the second block."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit()

    def forward(self, x: Tensor) -> Tensor:
        stream = self.vit.forward_intermediates(x, indices=[1], output_fmt="NLC", return_prefix_tokens=True)[1][0]
        return self.vit.head(stream[1][:, 0])


def test_layers_that_the_score_does_not_reach():
    model, x = Early(), images()
    assert_close(GradCAM(model).attribute(x, 1), GradCAM(model, 1).attribute(x, 1), EXACT)
    assert GradCAM(model).attribute_flow(x, 1).shape[1] == 2
    with pytest.raises(
        LayerNotFoundError, match=r"read neither there nor in a later .* it is read is vit.blocks.1.attn"
    ):
        GradCAM(model, -1).attribute(x, 1)


def test_weights_are_named(plain):  # noqa: F811
    with pytest.raises(OptionError, match="weights must be one of mean, elementwise, got 'max'"):
        ours(plain, GradCAM, weights="max")
