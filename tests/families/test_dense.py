"""Dense heads on a plain ViT, as of depth and segmentation: they convolve, and their ViT is explained all the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, adapt
from captum_vit.errors import UnsupportedModelError
from tests.families import stepwise
from tests.families.hf import SMALL, small, unfuse
from tests.helpers import CLASSES, assert_close, images, randomise, relative_error

DPT = {
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "is_hybrid": False,
}


def depth_anything() -> nn.Module:
    backbone = transformers.Dinov2Config(
        **SMALL | {"num_hidden_layers": 4}, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    sizes = {"reassemble_hidden_size": 24, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
    config = transformers.DepthAnythingConfig(backbone_config=backbone, patch_size=8, head_hidden_size=8, **sizes)
    return randomise(transformers.DepthAnythingForDepthEstimation(config))


def depth(output: Any) -> Tensor:
    """Of one pixel, near the upper left corner."""
    return output.predicted_depth[:, 3, 5]


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "DPT, depth": (small("DPTForDepthEstimation", "DPTConfig", **DPT), depth),
    "DPT, classes of pixels": (
        small("DPTForSemanticSegmentation", "DPTConfig", **DPT),
        lambda output: output.logits[:, CLASSES - 1, 3, 5],
    ),
    "Depth Anything": (depth_anything, depth),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_pixel_is_explained(name):
    build, score = MODELS[name]
    x = images().double()
    plain = build().double()
    layers = adapt(plain).attention_layers()
    unfuse(plain)
    tokens: list[int] = []  # from the end, of which any is read past all attention
    for method, theirs, constant in ((AGCAM, stepwise.agcam, True), (DAAM, stepwise.daam, False)):
        value, found = stepwise.Notebook(layers, {}, constant).run(plain, x, lambda out: score(out)[:, None], 0)
        assert list(found) == list(layers)
        steps = list(found.values())
        grads = stepwise.gradients(value, steps)
        tokens = tokens or sorted({int(row) - 17 for _, g in grads for row in g.abs().sum((0, 1, 3)).nonzero()})
        expected, twin = (theirs(steps, grads, rows, 16).detach().view(2, 1, 4, 4) for rows in (tokens, tokens[:1]))
        ours = method(build().double()).attribute(x, score)
        assert_close(ours, expected, 1e-6)
        assert relative_error(twin, expected) > 1e-2


def test_rollout_begins_at_weights_that_such_a_head_does_not_have():
    build, score = MODELS["Depth Anything"]
    with pytest.raises(UnsupportedModelError, match="what each token contributes to the score is not known"):
        AttentionRollout(build()).attribute(images(), output="predicted_depth")
    assert torch.isfinite(score(build()(images()))).all()
