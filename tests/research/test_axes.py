"""Encoders that hold the stream as (tokens, images, width), as nn.MultiheadAttention wants it by default."""

from functools import partial

import pytest
import torch
from torch import nn

from captum_vit import TransformerAttribution, attr
from captum_vit.errors import UnsupportedModelError
from tests.helpers import assert_close
from tests.research.layout import randomise
from tests.research.torchs import Tutorial, blocks, encoder

METHODS = dict(attr.METHODS.items())


def twins(make) -> list[nn.Module]:
    models = [Tutorial(make(batch_first=first), batch_first=first) for first in (True, False)]
    randomise(models[0])
    models[1].load_state_dict(models[0].state_dict())
    return [model.double().eval() for model in models]


def check(make, name: str, count: int) -> None:
    x = torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (METHODS[name](model).attribute(x, target=1) for model in twins(make))
    assert_close(theirs, ours, 1e-9)


@pytest.mark.parametrize("make", [blocks, partial(encoder, norm_first=True)], ids=["blocks", "encoder"])
@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_axes_changes_nothing(make, name):
    check(make, name, 3)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name] is not TransformerAttribution])
def test_as_many_images_as_tokens(name):
    check(blocks, name, 17)


def test_relevance_of_as_many_images_as_tokens():
    _, model = twins(blocks)
    with pytest.raises(UnsupportedModelError, match=r"which axis of .* is that of the 17 images is not known: explain"):
        TransformerAttribution(model).attribute(torch.randn(17, 3, 32, 32, dtype=torch.float64), target=1)
