"""Generic relevance against the authors' programs, and against its equation as a product of whole matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit import GenericRelevance
from captum_vit.errors import OptionError
from tests.helpers import assert_close, relative_error
from tests.reference import explicit
from tests.reference.explicit import relevance
from tests.reference.published import arrays, clip_tower, vit
from tests.reference.test_formulas import DIFFERENT, EXACT, TARGET, World, plain, world  # noqa: F401


def test_the_published_program():
    found, of = arrays("expected"), arrays("relevance")["generic_relevance"]
    single = GenericRelevance(vit()).attribute(found["images"], found["targets"])
    assert_close(single[:, 0].double(), of)
    double = GenericRelevance(vit(torch.float64)).attribute(found["images"].double(), found["targets"])
    assert_close(double[:, 0], of, 1e-12)


@pytest.mark.parametrize(("name", "start_layer"), [("last", -1), ("all", 0)])
def test_the_published_program_for_clip(name, start_layer):
    found, tower = arrays("clip/expected"), clip_tower(torch.float64)
    for i, text in enumerate(found["text_embeddings"]):

        def scaled(output: Tensor, text: Tensor = text) -> Tensor:
            return found["logit_scale"] * F.cosine_similarity(output, text[None])

        ours = GenericRelevance(tower).attribute(found["images"].double(), scaled, start_layer=start_layer)
        assert_close(ours[:, 0], found[f"generic_relevance_{name}"][:, i], 1e-12)


def rectified(w: World) -> list[Tensor]:
    """F_l = mean_h relu(dy/dA_h * A_h) of every block."""
    grads = explicit.gradients(w.y, [b.a for b in w.blocks])
    return [(b.a.detach() * g).clamp(min=0).mean(1) for b, g in zip(w.blocks, grads, strict=True)]


@pytest.mark.parametrize("start_layer", [0, 1, -1])
def test_the_equation(world, start_layer):  # noqa: F811
    fused = rectified(world)
    ours = GenericRelevance(world.model)
    found = ours.attribute(world.images, TARGET, start_layer=start_layer)
    assert_close(found, world.grid(relevance(fused[start_layer:], world.start)), EXACT)
    flow = ours.attribute_flow(world.images, TARGET, start_layer=start_layer)
    first = range(len(fused))[start_layer]
    nothing = torch.zeros_like(fused[0])  # before the first that adds R is the identity
    for i in range(len(fused)):
        expected = world.grid(relevance([nothing, *fused[first : i + 1]], world.start))
        assert (flow[:, i : i + 1] - expected).abs().max() <= EXACT * found.abs().max()


def backwards(w: World) -> Tensor:
    return relevance(rectified(w)[::-1], w.start)


def with_normalised_rows(w: World) -> Tensor:
    return explicit.rollout(rectified(w), w.start)


def rectified_after_the_mean(w: World) -> Tensor:
    grads = explicit.gradients(w.y, [b.a for b in w.blocks])
    return relevance([(b.a.detach() * g).mean(1).relu() for b, g in zip(w.blocks, grads, strict=True)], w.start)


def without_the_last(w: World) -> Tensor:
    return relevance(rectified(w)[:-1], w.start)


@pytest.mark.parametrize("wrong", [backwards, with_normalised_rows, rectified_after_the_mean, without_the_last])
def test_near_misses_differ(plain, wrong):  # noqa: F811
    ours = GenericRelevance(plain.model).attribute(plain.images, TARGET)
    assert relative_error(ours, plain.grid(wrong(plain))) > DIFFERENT


@pytest.mark.parametrize("start_layer", [3, -4, 1.0, True, "last"])
def test_a_layer_that_is_not_there(plain, start_layer):  # noqa: F811
    with pytest.raises(OptionError, match="start_layer is the index of one of the 3 attention layers"):
        GenericRelevance(plain.model).attribute(plain.images, TARGET, start_layer=start_layer)
