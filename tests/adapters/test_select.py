"""Which attention layers are meant by a name, a number, a module or a block."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_vit.access import adapt, select_layers
from captum_vit.errors import LayerNotFoundError
from tests.families.timm_models import small
from tests.helpers import hf_vit, images, timm_vit

parallel = small("vit_small_patch16_18x2_224", patch_size=8)
siglip = small("vit_base_patch16_siglip_224", patch_size=8)


def test_a_block_stands_for_its_attention_layer():
    for model, layer in ((timm_vit(), "blocks.1.attn"), (hf_vit(), "vit.layers.1.attention")):
        adapter, block = adapt(model), layer.rpartition(".")[0]
        for chosen in (block, model.get_submodule(block), [layer, block], layer, 1, -2):
            assert select_layers(adapter, chosen) == [layer]


def test_a_block_with_several_attentions_side_by_side_stands_for_all():
    adapter = adapt(parallel())
    first = ["blocks.0.attns.0.attn", "blocks.0.attns.1.attn"]
    assert select_layers(adapter, "blocks.0") == select_layers(adapter, adapter.model.blocks[0]) == first
    assert select_layers(adapter, ["blocks.1", "blocks.0.attns.1.attn"]) == list(adapter.attention_layers())[1:]
    assert select_layers(adapter, 0) == first[:1]  # a number counts attention layers
    assert select_layers(adapter, ["blocks.1", "blocks.0"]) == select_layers(adapter, None)


def test_names_are_those_of_the_outer_module():
    adapter = adapt(nn.Sequential(timm_vit(num_classes=0), nn.Linear(24, 2)))
    assert select_layers(adapter, "0.blocks.2") == ["0.blocks.2.attn"]
    with pytest.raises(LayerNotFoundError, match=r"no attention layer 'blocks.2'; .*, as 0.blocks.0, for the layers"):
        select_layers(adapter, "blocks.2")


def test_a_compiled_block_is_a_block():
    model = timm_vit()
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    for block in ("blocks.1", model.blocks[1]):
        assert select_layers(adapt(model), block) == ["blocks.1.attn"]


@pytest.mark.parametrize("wrong", ["blocks", "", "blocks.0.mlp", "attn_pool.kv2", "norm", None, 0.0, torch.zeros(2)])
def test_what_is_neither_layer_nor_block_is_refused(wrong):
    listed = r"this model has 3, counted from 0 or named: blocks.0.attn, blocks.1.attn, attn_pool"
    with pytest.raises(LayerNotFoundError, match=rf"^no attention layer .*; {listed}; a block may be named too, as bl"):
        select_layers(adapt(siglip()), [wrong])
    if isinstance(wrong, str) and wrong != "attn_pool.kv2":
        with pytest.raises(LayerNotFoundError, match="like the given"):
            select_layers(adapt(siglip()), siglip().get_submodule(wrong))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("blocks.1.attn.qkv", "blocks.1.attn"),
        ("blocks.1.norm1", "blocks.1.attn"),
        ("blocks.0.norm2", "blocks.0.attn"),
        ("attn_pool.q", "attn_pool"),
    ],
)
def test_a_part_of_a_layer_stands_for_it_and_a_norm_for_its_block(part: str, name: str):
    adapter = adapt(siglip())
    assert select_layers(adapter, part) == select_layers(adapter, adapter.model.get_submodule(part)) == [name]


def test_numbers_of_layers_in_other_forms():
    adapter = adapt(timm_vit())
    last = ["blocks.1.attn", "blocks.2.attn"]
    assert select_layers(adapter, range(1, 3)) == select_layers(adapter, [np.int64(1), np.int32(-1)]) == last


def test_of_many_layers_the_ends_are_named():
    listed = r"has 9, counted from 0 or named: blocks.0.attn, blocks.1.attn, ..., blocks.8.attn;"
    with pytest.raises(LayerNotFoundError, match=listed):
        select_layers(adapt(timm_vit(depth=9)), "blocks.9")


def test_images_instead_of_layers_are_told_where_they_go():
    told = r"float32 tensor \(2, 3, 32, 32\), .*; images go into the call: .attribute\(images, target\)$"
    with pytest.raises(LayerNotFoundError, match=told):
        select_layers(adapt(timm_vit()), images())


def test_a_pool_has_no_block_but_is_a_layer():
    assert select_layers(adapt(siglip()), ["attn_pool", "blocks.0"]) == ["blocks.0.attn", "attn_pool"]


def test_blocks_are_not_spoken_of_where_there_are_none():
    adapter = adapt(timm_vit())
    bare = type("Bare", (type(adapter),), {"blocks": lambda self: {}})(adapter.model)
    with pytest.raises(LayerNotFoundError, match=r"blocks.2.attn$"):
        select_layers(bare, "blocks.0")
