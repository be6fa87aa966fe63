"""The head on single tokens, many at once: each as the head by itself has it, in as few forwards as it takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit.capture import TOKENS, Inputs, Run
from tests.helpers import WIDTH, adapt, hf_vit, images, timm_vit

COUNT = 300
PATCHES = 16


def timm_head(model: Any, token: Tensor) -> Tensor:
    return model.head(model.fc_norm(model.norm(token)))


def hf_head(model: Any, token: Tensor) -> Tensor:
    return model.classifier(model.vit.layernorm(token))


class Summing(VisionTransformer):
    """A head that adds up its patches, so that a shorter stream is another score."""

    def pool(self, x: Tensor, pool_type: Any = None) -> Tensor:
        return x[:, self.num_prefix_tokens :].sum(1)


class Fixed(VisionTransformer):
    """A head that takes as many tokens as there are patches."""

    def pool(self, x: Tensor, pool_type: Any = None) -> Tensor:
        return x[:, self.num_prefix_tokens :].reshape(len(x), PATCHES, WIDTH).mean(1)


def summing() -> nn.Module:
    return timm_vit(kind=Summing, global_pool="avg", fc_norm=False)


def fixed() -> nn.Module:
    return timm_vit(kind=Fixed, global_pool="avg", fc_norm=False)


def added(model: Any, token: Tensor) -> Tensor:
    return model.head(PATCHES * model.norm(token))


@pytest.mark.parametrize(
    ("build", "head", "forwards"),
    [
        (timm_vit, timm_head, 3),  # as today has it, as it does with few places, and all others
        (lambda: timm_vit(global_pool="avg", fc_norm=True), timm_head, 3),
        (hf_vit, hf_head, 3),
        (summing, added, 6),
        (fixed, timm_head, 6),
    ],
    ids=["class token", "mean", "hf", "sum", "fixed"],
)
def test_each_token_has_the_scores_of_the_head(build: Callable, head: Callable, forwards: int, monkeypatch: Any):
    model, ran, run = build().double(), [], Inputs.run
    tokens = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with Run(adapt(model), Inputs(images().double()), {TOKENS}) as asked:
        asked.tokens()
        monkeypatch.setattr(Inputs, "run", lambda self, model: ran.append(1) or run(self, model))
        found = asked.head_scores(tokens)
    with torch.no_grad():
        expected = torch.stack([head(model, token) for token in tokens])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max().item())
    assert len(ran) == forwards


def test_a_head_that_is_asked_too_short_a_stream_would_be_seen():
    model, token = summing(), torch.randn(WIDTH)
    assert not torch.allclose(timm_head(model, token), added(model, token))
