"""Models without a map over the patches of the whole image say why."""

from functools import partial

import pytest
import timm
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_vit import AGCAM, DAAM, AttentionRollout
from captum_vit.errors import InputError, LayerNotFoundError, TargetError, UnsupportedModelError
from captum_vit.targets import Embedding
from tests.families.hf import SMALL, TEXT
from tests.helpers import images, randomise, timm_vit

WINDOWS, POOLED = "supported: attention runs in windows of the image", "keys are pooled or projected patches"
SOME_WINDOWS, CONVOLUTIONS = "in a part of its layers attention runs in windows", "patches meet in convolutions"
REFUSED = {
    "swin_tiny_patch4_window7_224": WINDOWS,
    "swinv2_tiny_window8_256": WINDOWS,
    "swinv2_cr_tiny_224": WINDOWS,
    "nest_tiny": WINDOWS,
    "hiera_tiny_224": SOME_WINDOWS,
    "samvit_base_patch16": SOME_WINDOWS,
    "maxvit_tiny_tf_224": CONVOLUTIONS,
    "coatnet_0_rw_224": CONVOLUTIONS,
    "gcvit_xxtiny": WINDOWS,
    "davit_tiny": WINDOWS,
    "mvitv2_tiny": POOLED,
    "twins_svt_small": POOLED,
    "pvt_v2_b0": POOLED,
    "coat_tiny": POOLED,
    "levit_128s": CONVOLUTIONS,
    "edgenext_xx_small": "attention is among channels",
    "crossvit_9_240": "two branches cut the image into patches of different sizes",
}


def without_weights(name: str) -> nn.Module:
    """The model, quickly; older versions of timm cannot build all of them on no device."""
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except (NotImplementedError, RuntimeError):
        return timm.create_model(name)


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_said(name):
    model = without_weights(name)
    with pytest.raises(UnsupportedModelError, match=f"^{type(model).__name__} is not .*{REFUSED[name]}"):
        AGCAM(model)
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
        AGCAM(nn.Sequential(model, nn.Flatten()))


def test_attention_that_is_no_softmax_of_scores_is_named():
    block = getattr(timm.models.vision_transformer, "DiffParallelScalingBlock", None)
    if block is None:
        pytest.skip("came to timm later")
    model = timm_vit(block_fn=block)
    with pytest.raises(UnsupportedModelError, match=r"in DiffParallelScalingBlock, which is not one softmax"):
        AGCAM(model)


def test_layers_that_the_score_is_not_read_in():
    model = timm.create_model("cait_xxs24_224", depth=2, img_size=32).eval()
    own = "blocks_token_only.0.attn, blocks_token_only.1.attn"
    for layer in ("blocks.0.attn", 0, -4, model.blocks[0].attn):  # the same layer to every method
        with pytest.raises(LayerNotFoundError, match=rf"^blocks.0.attn: no query .* is read from.* one of {own}$"):
            DAAM(model, layer)
    with pytest.raises(LayerNotFoundError, match=rf"^blocks.0.attn, blocks.1.attn: no query .* one of {own}$"):
        AttentionRollout(model, ["blocks.0.attn", "blocks.1.attn"])
    assert DAAM(model, [0, 2]).layer_names == AttentionRollout(model, [0, 2]).layer_names
    measured = DAAM(nn.Sequential(model, nn.Identity()), 0)
    with pytest.raises(LayerNotFoundError, match=r"^0.blocks.0.attn: no query .* one of 0.blocks_token_only.0.attn"):
        measured.attribute(images())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("xcit_nano_12_p16_224", {"depth": 1, "num_classes": 3}),
        ("volo_d1_224", {"img_size": 64, "num_classes": 3}),
        ("volo_d1_224", {"img_size": 64, "num_classes": 3, "use_aux_head": False}),
    ],
)
@pytest.mark.parametrize("wrap", [nn.Identity, nn.Sequential])
def test_patches_that_are_read_past_all_attention(name, settings, wrap):
    x = images(2, (64, 64))
    model = randomise(timm.create_model(name, global_pool="avg", **settings))
    ours = AGCAM(model if wrap is nn.Identity else wrap(model))
    with pytest.raises(UnsupportedModelError, match=r"is read from the patches, and patches are queries in none"):
        ours.attribute(x, 1)
    by_class = randomise(timm.create_model(name, **settings))
    expected = AGCAM(by_class).attribute(x, 1)
    assert torch.equal(AGCAM(nn.Sequential(by_class)).attribute(x, 1), expected)


def test_an_embedding_is_as_wide_as_the_output():
    for shape in ((5,), (3, 24), (24, 2)):
        with pytest.raises(TargetError, match=r"must be \(24,\) or one an image, \(2, 24\): got \(\d"):
            AGCAM(timm_vit(num_classes=0)).attribute(images(), Embedding(torch.randn(shape)))
    for shape in ((2, 1, 24), ()):
        with pytest.raises(TargetError, match=r"^an embedding is a floating-point tensor \(D,\) or \(N, D\), got"):
            Embedding(torch.randn(shape))
    for shape in ((1,), (2, 1)):
        with pytest.raises(TargetError, match=r"must be for an output of more numbers: got"):
            AGCAM(timm_vit(num_classes=1)).attribute(images(), Embedding(torch.randn(shape)))
    with pytest.raises(TargetError, match=r"may be one-hot labels or an embedding, .*targets\.Embedding\(vector\)"):
        AGCAM(timm_vit(num_classes=0)).attribute(images(), torch.randn(24))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Swin", WINDOWS),
        ("Swinv2", WINDOWS),
        ("Hiera", SOME_WINDOWS),
        ("Pvt", POOLED),
        ("Segformer", POOLED),
        ("Cvt", POOLED),
        ("ViTMAE", "patches are shuffled and dropped at random"),
        ("MobileViT", CONVOLUTIONS),
    ],
)
def test_the_reason_is_said_of_hugging_face_models(name, reason):
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
    with pytest.raises(UnsupportedModelError, match=f"^{name} is not .*{reason}"):
        AGCAM(model)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("blocks", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("train", [False, True])
def test_reentrant_checkpointing_is_refused(blocks, train):
    model = timm_vit().train(train)
    for index in blocks:
        model.blocks[index].forward = partial(checkpoint, model.blocks[index].forward, use_reentrant=True)
    with pytest.raises(UnsupportedModelError, match=r"cut off from .*checkpointing with use_reentrant=True"):
        DAAM(model).attribute(images(), 1)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_checkpointing_of_ones_own_is_refused(method, trained):
    model = timm_vit().requires_grad_(trained)
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    with pytest.raises(UnsupportedModelError, match=r"torch.utils.checkpoint, which computes it again .* without"):
        method(model).attribute(images(), 1)
    if method is AGCAM:
        with pytest.raises(UnsupportedModelError, match=r"torch\.utils\.checkpoint"):
            AGCAM(model).attribute_classes(images(1))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "Siglip2"])
def test_a_text_beside_an_image_is_asked_for(kind):
    settings = {"vision_config": SMALL, "text_config": TEXT | {"num_hidden_layers": 1}}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    with pytest.raises(
        InputError, match=f"^{kind}Model takes input_ids beside images, .*forward_kwargs={{'input_ids': ...}}, or expla"
    ):
        AGCAM(model).attribute(images(), 1)
    assert AGCAM(model.vision_model).attribute(images(), 1).abs().max() > 0
