"""Transformer attribution against its authors' program, and against a walk back that is written out."""

from dataclasses import replace
from types import MappingProxyType
from unittest import mock

import pytest
import torch

from captum_vit.attr import TransformerAttribution, transformer_attribution
from captum_vit.capture.ruled import Call
from captum_vit.capture.sharing import sharing_rules
from captum_vit.errors import UnsupportedModelError
from tests.helpers import assert_close, images, relative_error, timm_vit
from tests.reference import relprop
from tests.reference.published import arrays, vit

TOLERANCE = 1e-4  # where a tensor is used twice, the program divides by each number, pushed off 0 by 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_authors_numbers(dtype):
    """In single precision too: what is divided by numbers near 0 is computed in double."""
    known = arrays("expected")
    maps = TransformerAttribution(vit(dtype)).attribute(known["images"].to(dtype), known["targets"])
    assert maps.dtype == dtype
    assert_close(maps[:, 0].double(), arrays("relevance")["transformer_attribution"], TOLERANCE)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_walk_back(seed):
    model, x = timm_vit(seed, img_size=(24, 40)).double(), images(2, (24, 40)).double()
    maps = TransformerAttribution(model).attribute(x, target=[2, 5])
    expected = torch.stack([relprop.transformer_attribution(model, *pair) for pair in zip(x, [2, 5], strict=True)])
    assert_close(maps.flatten(1), expected, TOLERANCE)


@pytest.mark.parametrize("name", ["add", "linear", "layer_norm", "gelu", "scaled_dot_product_attention"])
def test_each_rule_counts(name):
    """With the derivative in its place the map is another one."""
    rules = sharing_rules()
    changed = replace(rules, table=MappingProxyType({**rules.table, name: Call.run}))
    model, x = timm_vit().double(), images().double()
    maps = TransformerAttribution(model).attribute(x, target=1)
    with mock.patch.object(transformer_attribution, "sharing_rules", return_value=changed):
        assert relative_error(TransformerAttribution(model).attribute(x, target=1), maps) > 0.01


def test_the_written_out_walk_has_twins():
    model, x = timm_vit().double(), images(1).double()[0]
    right = relprop.transformer_attribution(model, x, 1)
    for name, wrong in {"add": lambda a, b, r: (r, r), "linear": lambda x, w, r: r @ w}.items():
        with mock.patch.object(relprop, name, wrong):
            assert relative_error(relprop.transformer_attribution(model, x, 1), right) > 0.01


def test_a_function_without_a_rule_is_refused():
    model = timm_vit()
    model.blocks[1].mlp.register_forward_hook(lambda module, args, out: out.cumsum(-1))
    with pytest.raises(UnsupportedModelError, match=r"the rules of relevance propagation have none for .* cumsum"):
        TransformerAttribution(model).attribute(images(), target=1)
