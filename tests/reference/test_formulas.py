"""Each method against its paper's equation in float64, and the equation against near misses that must differ."""

from dataclasses import replace

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor

from captum_vit import AGCAM, DAAM, AttentionRollout, Contrast, FeatureImportance, GradientRollout, RawAttention
from tests.helpers import assert_close, general_path, images, relative_error, timm_vit
from tests.reference import explicit
from tests.reference.explicit import Attention

GRID = (3, 5)  # uneven, and 1/15 is no exact fraction in binary
SIZE = (24, 40)
EXACT = 1e-10
DIFFERENT = 1e-3
TARGET = torch.tensor([2, 5])
READOUTS = {
    "class": ({}, explicit.class_head, [0], 1),
    "distilled": ({"kind": VisionTransformerDistilled}, explicit.distilled_head, [0, 1], 2),
    "mean": ({"global_pool": "avg", "fc_norm": True}, explicit.mean_head, list(range(1, 16)), 1),
}


class World:
    """A float64 model, its images, and what the explicit forward sees of them."""

    def __init__(self, readout: str) -> None:
        changes, self.read, self.rows, self.prefix = READOUTS[readout]
        self.model = timm_vit(img_size=SIZE, **changes).double()
        self.images = images(2, SIZE).double()
        self.scores, self.blocks = explicit.explicit_vit(self.model, self.images, read=self.read)
        self.y = self.scores.gather(1, TARGET[:, None])
        self.start = torch.zeros(15 + self.prefix, dtype=torch.float64)
        self.start[self.rows] = 1 / len(self.rows)

    def detached(self) -> tuple[list[Attention], Tensor]:
        scores, blocks = explicit.explicit_vit(self.model, self.images, detach=True, read=self.read)
        return blocks, scores.gather(1, TARGET[:, None])

    def grid(self, row: Tensor) -> Tensor:
        return row[:, self.prefix :].reshape(2, 1, *GRID).detach()

    def fused(self, fusion: str, ratio: float) -> list[Tensor]:
        return [explicit.discard(explicit.FUSE[fusion](b.a.detach()), ratio, keep_first=True) for b in self.blocks]

    def weighted(self, ratio: float) -> list[Tensor]:
        grads = explicit.gradients(self.y, [b.a for b in self.blocks])
        pairs = zip(self.blocks, grads, strict=True)
        return [explicit.discard((b.a.detach() * g).mean(1).clamp(min=0), ratio, keep_first=False) for b, g in pairs]


@pytest.fixture(params=READOUTS)
def world(request) -> World:
    return World(request.param)


@pytest.fixture
def plain() -> World:
    return World("class")


def test_the_explicit_forward_is_the_model(world):
    assert_close(world.model(world.images).detach(), world.scores.detach(), EXACT)


@pytest.mark.parametrize("way", [AGCAM.attribute, general_path])
def test_agcam(world, way):
    blocks, y = world.detached()
    expected = explicit.agcam(blocks, explicit.gradients(y, [b.a for b in blocks]), world.rows)
    assert_close(way(AGCAM(world.model), world.images, TARGET), world.grid(expected), EXACT)


def test_daam(world):
    expected = explicit.daam(world.blocks, explicit.gradients(world.y, [b.o for b in world.blocks]), world.rows)
    assert_close(DAAM(world.model).attribute(world.images, TARGET), world.grid(expected), EXACT)


def test_signed_daam(world):
    expected = explicit.signed_daam(world.blocks, explicit.gradients(world.y, [b.a for b in world.blocks]), world.rows)
    ours = DAAM(world.model)
    found = ours.attribute(world.images, TARGET, signed=True)
    assert_close(found, world.grid(expected), EXACT)
    rectified = explicit.daam(world.blocks, explicit.gradients(world.y, [b.o for b in world.blocks]), world.rows)
    assert relative_error(found, world.grid(rectified)) > DIFFERENT
    forth, back = (ours.attribute(world.images, Contrast(a, b), signed=True) for a, b in ((2, 5), (5, 2)))
    assert_close(forth, -back, EXACT)
    both = [ours.attribute(world.images, target, signed=True) for target in (2, 5)]
    assert_close(forth, both[0] - both[1], EXACT)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rollout(world, fusion, ratio):
    expected = explicit.rollout(world.fused(fusion, ratio), world.start)
    ours = AttentionRollout(world.model).attribute(world.images, fusion=fusion, discard_ratio=ratio)
    assert_close(ours, world.grid(expected), EXACT)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_gradient_rollout(world, ratio):
    expected = explicit.rollout(world.weighted(ratio), world.start)
    ours = GradientRollout(world.model).attribute(world.images, TARGET, discard_ratio=ratio)
    assert_close(ours, world.grid(expected), EXACT)


def test_raw_attention(world):
    flow = RawAttention(world.model).attribute_flow(world.images)
    peaks = RawAttention(world.model).attribute_flow(world.images, kind="peak")
    for i, block in enumerate(world.blocks):
        attention = block.a.detach()
        read = attention[:, :, world.rows].mean(2).mean(1)
        strongest = attention[:, :, world.prefix :].amax(2).mean(1)
        assert_close(flow[:, i : i + 1], world.grid(read), EXACT)
        assert_close(peaks[:, i : i + 1], world.grid(strongest), EXACT)


@pytest.mark.parametrize("bank", [True, False])
def test_self_supervised_daam(bank):
    model, x = timm_vit(img_size=SIZE, num_classes=0).double(), images(2, SIZE).double()
    features, blocks = explicit.explicit_vit(model, x, read=explicit.feature)
    memory, labels = torch.randn(40, 24, dtype=torch.float64), torch.randint(0, 4, (40,))
    given = FeatureImportance(memory, labels, k=9, temperature=0.2) if bank else FeatureImportance()
    f = features.detach()
    unit = f / f.norm(dim=1, keepdim=True)
    w = explicit.importance(f, memory, labels, 9, 0.2) if bank else unit * unit
    assert_close(given.weights(f), w, EXACT)
    grads = explicit.gradients((features * w).sum(), [b.o for b in blocks])
    expected = explicit.daam(blocks, grads, [0], rectify=False)[:, 1:].reshape(2, 1, *GRID).detach()
    assert_close(DAAM(model).attribute(x, given), expected, EXACT)
    rectified = explicit.daam(blocks, grads, [0])[:, 1:].reshape(2, 1, *GRID).detach()
    assert relative_error(expected, rectified) > DIFFERENT


# Near misses: programs that look right. Each must differ from the equation by more than any rounding.


def agcam_with_full_gradients(w: World) -> Tensor:
    return explicit.agcam(w.blocks, explicit.gradients(w.y, [b.a for b in w.blocks]), w.rows)


def agcam_of_weights_not_scores(w: World) -> Tensor:
    blocks, y = w.detached()
    gated = [replace(b, s=b.a) for b in blocks]
    return explicit.agcam(gated, explicit.gradients(y, [b.a for b in blocks]), w.rows)


def agcam_without_relu(w: World) -> Tensor:
    blocks, y = w.detached()
    grads = explicit.gradients(y, [b.a for b in blocks])
    return sum((g[:, :, 0] * b.s[:, :, 0].sigmoid()).sum(1) for b, g in zip(blocks, grads, strict=True))


def agcam_of_the_keys(w: World) -> Tensor:
    blocks, y = w.detached()
    grads = explicit.gradients(y, [b.a for b in blocks])
    return sum((g[..., 0].relu() * b.s[..., 0].sigmoid()).sum(1) for b, g in zip(blocks, grads, strict=True))


def daam_without_relu_of_the_gradient(w: World) -> Tensor:
    return explicit.daam(w.blocks, explicit.gradients(w.y, [b.o for b in w.blocks]), w.rows, rectify=False)


def daam_with_gradients_backwards(w: World) -> Tensor:
    return explicit.daam(w.blocks, explicit.gradients(w.y, [b.o for b in w.blocks])[::-1], w.rows)


def daam_of_the_first_head(w: World) -> Tensor:
    grads = explicit.gradients(w.y, [b.o for b in w.blocks])
    blocks = [replace(b, s=b.s[:, :1], a=b.a[:, :1], v=b.v[:, :1]) for b in w.blocks]
    return explicit.daam(blocks, [g[:, :1] for g in grads], w.rows)


def rollout_from_the_input_up(w: World) -> Tensor:
    return explicit.rollout(w.fused("mean", 0.3)[::-1], w.start)


def rollout_by_column_sums(w: World) -> Tensor:
    joint = torch.eye(16, dtype=torch.float64)
    for matrix in w.fused("mean", 0.3):
        step = (matrix + torch.eye(16)) / 2
        joint = step / step.sum(-1).unsqueeze(1) @ joint
    return w.start @ joint


def rollout_without_identity(w: World) -> Tensor:
    joint = torch.eye(16, dtype=torch.float64)
    for matrix in w.fused("mean", 0.3):
        joint = matrix / matrix.sum(-1, keepdim=True) @ joint
    return w.start @ joint


def rollout_that_discards_of_image_0(w: World) -> Tensor:
    fused = []
    for block in w.blocks:
        mean = block.a.detach().mean(1)
        mask = explicit.discard(mean, 0.3, keep_first=True)[:1] > 0
        fused.append(mean * mask)
    return explicit.rollout(fused, w.start)


def gradient_rollout_backwards(w: World) -> Tensor:
    grads = explicit.gradients(w.y, [b.a for b in w.blocks])[::-1]
    return explicit.rollout([(b.a.detach() * g).mean(1).relu() for b, g in zip(w.blocks, grads, strict=True)], w.start)


def gradient_rollout_of_scores(w: World) -> Tensor:
    grads = explicit.gradients(w.y, [b.s for b in w.blocks])
    return explicit.rollout([(b.a.detach() * g).mean(1).relu() for b, g in zip(w.blocks, grads, strict=True)], w.start)


def gradient_rollout_relu_a_head(w: World) -> Tensor:
    grads = explicit.gradients(w.y, [b.a for b in w.blocks])
    return explicit.rollout([(b.a.detach() * g).relu().mean(1) for b, g in zip(w.blocks, grads, strict=True)], w.start)


def peak_with_the_class_token(w: World) -> Tensor:
    return w.blocks[-1].a.detach().amax(2).mean(1)


def peak_after_the_mean(w: World) -> Tensor:
    return w.blocks[-1].a.detach()[:, :, 1:].mean(1).amax(1)


def attention_to_the_class_token(w: World) -> Tensor:
    return w.blocks[-1].a.detach()[..., 0].mean(1)


WRONG = {
    AGCAM: [agcam_with_full_gradients, agcam_of_weights_not_scores, agcam_without_relu, agcam_of_the_keys],
    DAAM: [daam_without_relu_of_the_gradient, daam_with_gradients_backwards, daam_of_the_first_head],
    AttentionRollout: [
        rollout_from_the_input_up,
        rollout_by_column_sums,
        rollout_without_identity,
        rollout_that_discards_of_image_0,
    ],
    GradientRollout: [gradient_rollout_backwards, gradient_rollout_of_scores, gradient_rollout_relu_a_head],
    RawAttention: [peak_with_the_class_token, peak_after_the_mean, attention_to_the_class_token],
}
OPTIONS = {
    AttentionRollout: {"discard_ratio": 0.3},
    GradientRollout: {"discard_ratio": 0.0},
    RawAttention: {"kind": "peak"},
}


@pytest.mark.parametrize(("method", "wrong"), [(method, wrong) for method in WRONG for wrong in WRONG[method]])
def test_near_misses_differ(plain, method, wrong):
    options = dict(OPTIONS.get(method, {}))
    if wrong is attention_to_the_class_token:
        options = {}
    ours = method(plain.model).attribute(plain.images, TARGET if method.class_specific else None, **options)
    assert relative_error(ours, plain.grid(wrong(plain))) > DIFFERENT
