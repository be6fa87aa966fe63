"""Masks of dense outputs and queries of detectors: every method's map is that of the score written out by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, RawAttention, adapt
from captum_vit.attr import METHODS, RISE, in_all
from captum_vit.attr.settling import settled
from captum_vit.capture import Inputs, Plain, measure_readout, placed_layout, readout, untouched
from captum_vit.errors import CaptumViTError, OptionError, TargetError, UnsupportedModelError
from captum_vit.geometry import View
from captum_vit.targets import Contrast, Mask, Output, Query, Sight
from captum_vit.targets.forms import as_target
from tests.families import stepwise
from tests.families.hf import SMALL, small, unfuse
from tests.families.test_dense import DPT, depth_anything
from tests.helpers import CLASSES, assert_close, images, randomise, relative_error, timm_vit

WIDE, SQUARE = (32, 48), (32, 32)  # DPT of transformers and BEiT take square images alone
QUERIES = 5
NAMES = {0: "car", 1: "person", 2: "dog"}


def yolos() -> Any:
    config = transformers.YolosConfig(**SMALL | {"image_size": list(WIDE)}, num_detection_tokens=QUERIES)
    config.id2label = NAMES
    model: Any = randomise(transformers.YolosForObjectDetection(config))  # tokens [class, patches, queries]
    with torch.no_grad():  # queries that say different classes, none of them "no object"
        last = model.class_labels_classifier.layers[-1]
        last.weight.mul_(3)
        last.bias[-1] = -99
    return model


def vitpose(size: tuple[int, int] = WIDE) -> nn.Module:
    sizes = {"image_size": list(size), "patch_size": [8, 8], "num_experts": 1, "out_indices": [2]}
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=SMALL["hidden_size"], num_hidden_layers=2, num_attention_heads=2, mlp_ratio=1, **sizes
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=4, use_simple_decoder=True)
    return randomise(transformers.VitPoseForPoseEstimation(config))


def beit() -> nn.Module:
    settings = {"num_hidden_layers": 6, "out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]}
    build = small("BeitForSemanticSegmentation", "BeitConfig", **settings, use_auxiliary_head=False, num_labels=3)
    return build()


class OfPatches(nn.Module):
    """A head of one's own: classes of each patch, made as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit(dynamic_img_size=True)
        self.head = randomise(nn.Linear(self.vit.embed_dim, 3))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // 8, x.shape[3] // 8
        tokens = self.vit.forward_features(x)[:, self.vit.num_prefix_tokens :]
        return F.interpolate(self.head(tokens).mT.unflatten(2, (rows, columns)), scale_factor=4, mode="bilinear")


@dataclass(frozen=True)
class Case:
    """A model, a target, and the score that it stands for; the score of something that it does not stand for."""

    build: Callable[[], Any]
    target: Any
    score: Callable[[Any], Tensor]
    twin: Callable[[Any], Tensor]
    size: tuple[int, int] = WIDE


def mean(plane: Tensor, where: Tensor) -> Tensor:
    return (plane * where).sum((1, 2)) / where.sum((-2, -1))


def corner(size: tuple[int, int], side: int = 16) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[:side, :side] = True
    return mask


def of_corner(plane: Tensor, size: tuple[int, int], side: int = 16) -> Tensor:
    down, across = side * plane.shape[1] // size[0], side * plane.shape[2] // size[1]
    return plane[:, :down, :across].mean((1, 2))


DPT_SEG = small("DPTForSemanticSegmentation", "DPTConfig", **DPT)
DPT_DEPTH = small("DPTForDepthEstimation", "DPTConfig", **DPT)
CASES = {
    "YOLOS, a class": Case(yolos, Query(3, "dog"), lambda o: o.logits[:, 3, 2], lambda o: o.logits[:, 2, 2]),
    "YOLOS, the class it says": Case(
        yolos, Query(2), lambda o: o.logits[:, 2, :3].amax(1), lambda o: o.logits[:, 2, :3].amin(1)
    ),
    "YOLOS, an edge": Case(
        yolos,
        Query(1, box="right"),
        lambda o: o.pred_boxes[:, 1, 0] + o.pred_boxes[:, 1, 2] / 2,
        lambda o: o.pred_boxes[:, 1, 0],
    ),
    "YOLOS, one rather than another": Case(
        yolos,
        Contrast(Query(3, 2), Query(1, 0)),
        lambda o: o.logits[:, 3, 2] - o.logits[:, 1, 0],
        lambda o: o.logits[:, 3, 2],
    ),
    "DPT, a corner": Case(
        DPT_SEG,
        Mask(CLASSES - 1, corner(SQUARE)),
        lambda o: of_corner(o.logits[:, -1], SQUARE),
        lambda o: of_corner(o.logits[:, -1].flip(1), SQUARE),
        SQUARE,
    ),
    "DPT, where it is found": Case(
        DPT_SEG,
        Mask(1),
        lambda o: mean(o.logits[:, 1], (o.logits.argmax(1) == 1).double()),
        lambda o: mean(o.logits[:, 1], (o.logits.argmax(1) != 1).double()),
        SQUARE,
    ),
    "DPT, depth": Case(
        DPT_DEPTH,
        Mask(None, corner(SQUARE)),
        lambda o: of_corner(o.predicted_depth, SQUARE),
        lambda o: of_corner(o.predicted_depth.flip(2), SQUARE),
        SQUARE,
    ),
    "Depth Anything": Case(
        depth_anything, Mask(), lambda o: o.predicted_depth.mean((1, 2)), lambda o: o.predicted_depth[:, 0, 0]
    ),
    "ViTPose, a keypoint": Case(
        vitpose,
        Mask(2, "peak"),
        lambda o: o.heatmaps[:, 2].flatten(1).amax(1),
        lambda o: o.heatmaps[:, 2].flatten(1).amin(1),
    ),
    "BEiT": Case(
        beit,
        Mask(2, corner(SQUARE)),
        lambda o: of_corner(o.logits[:, 2], SQUARE),
        lambda o: of_corner(o.logits[:, 1], SQUARE),
        SQUARE,
    ),
    "a head of one's own": Case(
        OfPatches,
        Mask(1, corner(WIDE)),
        lambda o: of_corner(o[:, 1], WIDE),
        lambda o: of_corner(o[:, 1].flip(2), WIDE),
    ),
}


def explicit(case: Case, score: Callable[[Any], Tensor], x: Tensor, theirs: Callable, *, constant: bool) -> Tensor:
    """A method's map from softmax written out, of whatever rows the score reads."""
    plain = case.build().double()
    layers = adapt(plain).attention_layers()
    unfuse(plain)
    value, found = stepwise.Notebook(layers, {}, constant).run(plain, x, lambda out: score(out)[:, None], 0)
    steps = list(found.values())
    tokens, patches = steps[0].a.shape[3], x.shape[2] // 8 * (x.shape[3] // 8)
    grads = stepwise.gradients(value, steps)
    value, found = stepwise.Notebook(layers, {}, True).run(plain, x, lambda out: score(out)[:, None], 0)
    leaves = stepwise.gradients(value, list(found.values()))
    rows = sorted({int(row) - tokens for _, g in leaves for row in g.abs().sum((0, 1, 3)).nonzero()})
    first = 0 if tokens == patches else 1
    whole = theirs(steps, grads, rows, tokens)[
        :, first : first + patches
    ]  # all keys, of which patches follow the first
    return whole.detach().view(len(x), 1, x.shape[2] // 8, x.shape[3] // 8)


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_that_of_the_score(name):
    case = CASES[name]
    x = images(1, case.size).double()
    for method, theirs, constant in ((AGCAM, stepwise.agcam, True), (DAAM, stepwise.daam, False)):
        expected = explicit(case, case.score, x, theirs, constant=constant)
        twin = explicit(case, case.twin, x, theirs, constant=constant)
        ours = method(case.build().double()).attribute(x, case.target)
        assert_close(ours, expected, 1e-6)
        assert relative_error(twin, expected) > 1e-2


BUILDS = {name.partition(",")[0]: case for name, case in CASES.items()}


def given_to_attention(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """The tokens that an attention layer is given, (N, tokens, D)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return seen[0]


def check_places(name: str, shift: int = 0) -> None:
    """The patch whose pixels change is the one whose token changes."""
    case = BUILDS[name]
    model, x = case.build(), images(1, case.size)
    adapter = adapt(model)
    AGCAM(model).attribute(x, case.target)  # what is found, is found by now
    layout, layer = placed_layout(adapter, Inputs(x)), next(iter(adapter.attention_layers().values()))
    before = given_to_attention(model, layer, x)
    rows, columns = layout.grid
    for row, column in ((0, columns - 1), (rows - 1, 1)):
        changed = x.clone()
        high, wide = case.size[0] // rows, case.size[1] // columns
        middle = row * high + high // 2, column * wide + wide // 2  # ViTPose pads, so that its patches lie 2 pixels off
        changed[..., middle[0], middle[1]] += 3
        moved = (given_to_attention(model, layer, changed) - before).abs().sum((0, 2))
        place = layout.prefix + row * columns + column + shift
        assert moved.nonzero().flatten().tolist() == [place if layout.order is None else int(layout.order[place])]


@pytest.mark.parametrize("name", BUILDS)
def test_a_token_stands_for_the_pixels_of_its_patch(name):
    check_places(name)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a token further has to be noticed")
def test_the_next_token_does_not(name):
    check_places(name, shift=1)


def test_relevance_of_a_batch_is_that_of_its_images():
    """Positions that are added between blocks, the same for all images, have the same part in one and in several."""
    method, x = METHODS["transformer_attribution"](yolos().double()), images(2, WIDE).double()
    assert method.adapter.model.config.use_mid_position_embeddings
    maps = method.attribute(x, Query(3, 2))
    for i in range(2):
        assert_close(method.attribute(x[i : i + 1], Query(3, 2)), maps[i : i + 1], 1e-6)
    assert relative_error(maps[0], maps[1]) > 1e-2


@pytest.mark.parametrize("query", range(QUERIES))
def test_rollouts_begin_at_the_row_of_the_query(query):
    x, patches = images(1, WIDE).double(), 24
    model = yolos().double()
    plain = yolos().double()
    layers = adapt(plain).attention_layers()
    unfuse(plain)
    notebook = stepwise.Notebook(layers, {}, False)
    _, found = notebook.run(plain, x, lambda out: out.logits[:, 0], 0)
    weights = [step.a.mean(1) for step in found.values()]
    row = 1 + patches + query

    def rolled(row: int) -> Tensor:
        unit = torch.eye(1 + patches + QUERIES, dtype=x.dtype)
        state = unit[row][None]
        for matrix in reversed(weights):
            state = state @ (matrix[0] + unit) / 2
        return state[:, 1 : 1 + patches].view(1, 1, 4, 6)

    for target in (Query(query), lambda output: output.logits[:, query, 1]):
        assert_close(AttentionRollout(model).attribute(x, target), rolled(row), 1e-6)
    raw = weights[-1][:, row, 1 : 1 + patches].view(1, 1, 4, 6)
    assert_close(RawAttention(model).attribute(x, Query(query)), raw, 1e-6)
    assert relative_error(rolled(0), rolled(row)) > 1e-2  # the class token's
    assert relative_error(weights[-1][:, 0, 1 : 1 + patches].view(1, 1, 4, 6), raw) > 1e-2
    with pytest.raises(UnsupportedModelError, match="some scores are read from other tokens than others"):
        AttentionRollout(model).attribute(x)


def test_rollout_of_patches_begins_at_those_under_the_mask():
    x, model = images(1, WIDE).double(), OfPatches().double()
    mask = np.zeros((16, 24), bool)  # on the output; two patches' own pixels, far from others
    mask[1, 1] = True
    ours = RawAttention(model).attribute(x, Mask(1, mask, on="output"))
    with pytest.raises(UnsupportedModelError, match="some scores are read from other tokens than others"):
        RawAttention(model).attribute(x)
    found: list[Tensor] = []
    last = model.vit.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda *args: found.append(args[-1]))
    model(x)
    weights = found[-1].mean(1)[:, 1:, 1:]  # (1, patches, patches)
    share = F.interpolate(torch.eye(24, dtype=x.dtype).view(24, 1, 4, 6), scale_factor=4, mode="bilinear")[:, 0, 1, 1]
    expected = (share / share.sum() @ weights[0]).view(1, 1, 4, 6)
    assert_close(ours, expected, 1e-3)  # weights of tokens are measured, and these are parted by a norm before the head
    assert relative_error(weights[0].mean(0).view(1, 1, 4, 6), expected) > 1e-2


@pytest.mark.parametrize("count", [1, 2, 4])  # four is also how many copies of an image are looked at
@pytest.mark.parametrize("name", ["YOLOS", "a head of one's own", "Depth Anything"])
def test_one_plain_call_serves_the_target_and_what_it_is_read_from(name, count):
    case = BUILDS[name]
    x, model = images(count, case.size).double(), case.build().double()
    adapter, inputs = adapt(model), Inputs(x)
    placed_layout(adapter, inputs)  # what is found, is found by now
    plain, ran = Plain(adapter, inputs), []
    (target,) = settled([as_target(case.target)], plain)
    with untouched(adapter):
        alone = measure_readout(adapter, inputs, target)
        plain.output  # noqa: B018 (where the target did not ask)
        last = list(adapter.attention_layers().values())[-1]
        handle = last.register_forward_pre_hook(
            lambda module, args, kwargs: ran.append(next(iter((*args, *kwargs.values())))), with_kwargs=True
        )
        given = measure_readout(adapter, inputs, target, plain=plain)
        handle.remove()
        other = Plain(adapter, Inputs(x.flip(3)))  # whose scores are others, so that it tells nothing
        unknown = measure_readout(adapter, inputs, target, plain=other)
    # blocks whose result is known run on tokens that are all alike
    assert ran
    assert all((tokens + 0 == (tokens + 0)[:, :1]).all() for tokens in ran)
    for found in (given, unknown):
        assert found == alone
        assert found.unclear == alone.unclear
        assert_close(torch.cat([*found.shares.values()]), torch.cat([*alone.shares.values()]), 1e-6)


def test_several_queries_of_one_image():
    x, model = images(1, WIDE).double(), yolos().double()
    asked = [Query(0), Query(3, "car", empty=True), Query(4, box="top")]
    together = AGCAM(model).attribute_classes(x, asked)
    for one, target in zip(together, asked, strict=True):
        assert_close(one[None], AGCAM(model).attribute(x, target), 1e-9)


def test_a_region_stays_the_same_for_changed_images():
    x, model = images(1, SQUARE), DPT_SEG()
    region = (model(x).logits.argmax(1) == 1)[0]
    fixed = Mask(1, region, on="output")

    def rise(target: Any, score: str = "logit") -> Tensor:
        return RISE(model).attribute(x, target, masks=20, score=score)

    assert_close(rise(Mask(1)), rise(fixed), 1e-6)
    anew = rise(lambda o: mean(o.logits[:, 1], (o.logits.argmax(1) == 1).float() + 1e-9))
    assert relative_error(anew, rise(fixed)) > 1e-2
    likely = rise(lambda o: o.logits.softmax(1)[:, 1][:, region].mean(1))
    assert_close(rise(Mask(1), "probability"), likely, 1e-5)
    assert relative_error(rise(fixed), likely) > 1e-2


def test_the_probability_of_a_query_is_among_its_own_classes():
    x, model = images(1, WIDE), yolos()
    model.class_labels_classifier.layers[-1].weight.data.mul_(0.1)
    likely = RISE(model).attribute(x, lambda o: o.logits.softmax(2)[:, 3, 2], masks=20, score="logit")
    assert_close(RISE(model).attribute(x, Query(3, 2), masks=20), likely, 1e-5)
    twin = RISE(model).attribute(x, lambda o: o.logits.softmax(1)[:, 3, 2], masks=20, score="logit")
    assert relative_error(twin, likely) > 1e-2
    with pytest.raises(OptionError, match="pass score='logit'"):
        RISE(model).attribute(x, Query(3, box="left"), masks=20)


def test_pixels_count_by_the_share_that_the_mask_covers():
    mask = np.zeros((10, 14), bool)
    mask[2:7, 3:11] = True
    scores = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    # the middle 8 x 12 of the image, of which every output pixel has 8/3 x 3
    view = View.of((14, 10)).cropped(1, 1, 12, 8)
    found = Mask(1, mask).settled(Output(None, scores), Sight(view, view)).score(Output(None, scores))
    fine = np.kron(mask[1:9, 1:13], np.ones((3, 1)))  # 24 x 12: whole pixels to each of the output's
    weights = torch.from_numpy(fine.reshape(3, 8, 4, 3).mean((1, 3)))
    assert_close(found, (scores[:, 1] * weights).sum((1, 2)) / weights.sum(), 1e-12)
    assert relative_error((scores[:, 1] * (weights > 0.5)).sum((1, 2)) / (weights > 0.5).sum(), found) > 1e-3


@pytest.mark.parametrize(
    ("build", "target", "text"),
    [
        (DPT_SEG, Mask(1, np.ones((5, 5), bool)), r"the mask has \(height, width\) \(5, 5\), and the image \(32, 32\)"),
        (DPT_SEG, Mask(1, np.ones((5, 5), bool), on="output"), r"the mask has \(5, 5\) pixels, and the output"),
        (DPT_SEG, Mask(CLASSES), "mask out of range"),
        (DPT_SEG, Mask(), "scores of .* classes a pixel: say of which"),
        (DPT_DEPTH, Mask(1), "one number a pixel.*no classes"),
        (yolos, Query(QUERIES, "dog"), "query out of range: the model has 0 to 4, got 5"),
        (yolos, Query(1, 3), "class out of range"),
        (yolos, Query(1, "horse"), "no class 'horse'"),
        (yolos, Mask(1), "no classes: pass Mask"),
        (timm_vit, Mask(1), "a mask asks for scores of pixels"),
        (DPT_SEG, Query(1, 0), "a query asks for scores"),
        (DPT_SEG, lambda output: output.logits[:, 0], "one number an image"),
    ],
)
def test_what_is_not_there_is_refused(build, target, text):
    x, model = images(1, WIDE if build is yolos else SQUARE), build()
    with pytest.raises(TargetError, match=text):
        AGCAM(model).attribute(x, target)


def test_a_query_that_finds_nothing_is_asked_on_purpose_alone():
    x, model = images(1, WIDE), yolos()
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[-1] = 200
    with pytest.raises(TargetError, match=r"query 2 finds no object in image 0 \(100.0%\)"):
        AGCAM(model).attribute(x, Query(2, "dog"))
    found = AGCAM(model).attribute(x, Query(2, "dog", empty=True))
    assert_close(found, AGCAM(model).attribute(x, lambda output: output.logits[:, 2, 2]), 1e-6)
    model.config.id2label = {**NAMES, 3: "cat"}
    with pytest.raises(TargetError, match="none says 'no object': pass background=None"):
        AGCAM(model).attribute(x, Query(2, "cat"))


def test_a_class_that_is_found_nowhere_is_told():
    x, model = images(1, SQUARE), DPT_SEG()
    with torch.no_grad():
        next(m for m in model.head.head if getattr(m, "out_channels", 0) == CLASSES).bias[0] = -1e4
    with pytest.raises(TargetError, match=r"finds class 0 at no pixel of image 0; it finds \d \(\d+%\)"):
        AGCAM(model).attribute(x, Mask(0))


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), bool), np.full((4, 4), 0.5), np.ones(4), "all", [1, 2]])
def test_what_is_no_mask(pixels):
    with pytest.raises(CaptumViTError, match=r"mask is empty|pixels are an array"):
        Mask(1, pixels)


def test_words_of_targets():
    assert repr(Query(17, "car")) == "Query(17, 'car')"
    assert Query(17, 0).text(NAMES) == "query:17/car"
    assert Query(17, 0, box="left").title(NAMES) == "left of the box of car, query 17"
    assert Mask(1).text(NAMES) == "mask:person"
    with pytest.raises(OptionError, match="got 'lift'; nearest: left"):
        Query(1, box="lift")


class Turned(OfPatches):
    """Scores whose classes come last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).movedim(1, -1)


def test_classes_that_come_last_are_refused():
    target = Mask(1, corner(WIDE))
    with pytest.raises(TargetError, match="as where classes come last"):
        AGCAM(Turned().eval()).attribute(images(2, WIDE), target)
    assert AGCAM(OfPatches().eval()).attribute(images(2, WIDE), target).any()


@pytest.mark.parametrize("name", ["a head of one's own", "YOLOS, one rather than another", "Depth Anything"])
def test_methods_that_need_no_weights_give_the_same_with_them(name, monkeypatch):
    case = CASES[name]
    without = {n: m for n, m in in_all().items() if not m.weighs and n != "finercam"}  # which asks for classes
    assert {"agcam", "daam", "grad_eclip", "gradcam", "attn_lrp"} <= without.keys()
    x, model = images(2, case.size).double(), case.build().double()
    fewer = {n: method(model).attribute(x, case.target) for n, method in without.items()}
    measured_as = []
    original = readout.measured
    monkeypatch.setattr(readout, "measured", lambda *a, **k: measured_as.append(k["weights"]) or original(*a, **k))
    for each, method in without.items():
        monkeypatch.setattr(method, "weighs", True)
        assert_close(method(model).attribute(x, case.target), fewer[each], 1e-9)
    assert measured_as
    assert all(measured_as)


def test_a_method_that_begins_with_weights_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(AttentionRollout, "weighs", False)
    with pytest.raises(UnsupportedModelError, match="nobody asked for the weights"):
        AttentionRollout(OfPatches()).attribute(images(1, WIDE), CASES["a head of one's own"].target)
