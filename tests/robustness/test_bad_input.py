"""Bad input gives an error of ours that says what holds, what came and what to do."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_vit import (
    AGCAM,
    DAAM,
    AttentionRollout,
    CaptumViTError,
    Contrast,
    FeatureImportance,
    GradientRollout,
    RawAttention,
)
from captum_vit.errors import InputError, LayerNotFoundError, OptionError, TargetError, TokenLayoutError
from tests.fingerprint import changes, fingerprint
from tests.helpers import CLASSES, METHODS, WIDTH, assert_close, hf_vit, images, timm_vit

NAN = images()
NAN = NAN.index_fill(0, torch.tensor([1]), float("nan"))
ENDLESS = images().clone()
ENDLESS[0, 0, 0, 0] = float("inf")

TARGETS = {
    "too large": (CLASSES, r"target out of range: the model gives 7 scores, 0 to 6, got 7"),
    "too negative": (-CLASSES - 1, r"target out of range: .* got \[?-8"),
    "one too large": ([1, 99], r"target out of range: .* got \[1, 99\]"),
    "tensor too large": (torch.tensor([0, 7]), "target out of range"),
    "too many": ([1, 2, 3], r"one class or one an image: 2 images, got shape \(3,\)"),
    "too few": ([1], r"one class or one an image: 2 images, got shape \(1,\)"),
    "too many in a tensor": (torch.tensor([1, 2, 3]), r"2 images, got shape \(3,\)"),
    "none at all": ([], "target must "),
    "a column": (torch.tensor([[1], [2]]), r"2 images, got shape \(2, 1\)"),
    "float": (1.0, "target must be an int, a list of ints or an integer tensor, got float"),
    "floats": ([0.5, 1.5], r"a floating-point target \(2,\) may be one-hot labels or an embedding, and the two"),
    "an array of floats": (
        np.eye(CLASSES)[:2],
        r"\(2, 7\) may be one-hot labels or an embedding, .*Embedding\(vector\)",
    ),
    "a number of numpy": (np.float64(1), "got float 1.0"),
    "float tensor": (
        torch.tensor([1.0, 2.0]),
        r"a floating-point target \(2,\) may be one-hot labels or an embedding, and the two",
    ),
    "bool": (True, "got bool"),
    "bools": (
        torch.tensor([True, False]),
        r"got torch.bool \(2,\), which may be one-hot labels or the classes 0 and 1: pa",
    ),
    "an array of bools": (
        np.array([True, False]),
        r"got torch.bool \(2,\), .* labels.int\(\).argmax\(-1\), or labels.lo",
    ),
    "a bool of numpy": (np.bool_(True), "got bool True"),
    "one-hot labels in integers": (
        torch.eye(CLASSES)[:2].long(),
        r"\(2, 7\); of one-hot labels pass labels.argmax\(-1\)",
    ),
    "a class of targets": (Contrast, r"an object or a function, got the class Contrast: pass Contrast\(\.\.\.\)"),
    "a function that fails": (
        lambda output: output.lodgits,
        r"function <lambda> fails on the model's own .*AttributeErr",
    ),
    "one-hot labels": (
        torch.eye(CLASSES)[:2],
        r"\(2, 7\) may be one-hot labels or an embedding, .*as labels.argmax\(-1\)",
    ),
    "text": ("cat", "no class 'cat' in"),
    "texts": (["cat", "dog"], r"no class 'cat' in"),
    "ragged": ([[1], [2, 3]], "a target is one class an image"),
    "pair": ((1, 2, 3), "a target is one class an image"),
    "none": (None, "target is needed: the model gives 7 scores an image"),
}
INPUTS = {
    "empty": (images()[:0], InputError, "the batch holds no image: N must be at least 1"),
    "integers": ((images() * 50).to(torch.uint8), InputError, r"in floating point, got torch.uint8: convert and norm"),
    "nan": (NAN, InputError, "NaN or infinite values in image 1 of the batch"),
    "infinite": (ENDLESS, InputError, "NaN or infinite values in image 0 of the batch"),
    "one image": (images()[0], InputError, r"\(N, 3, H, W\), got shape \(3, 32, 32\)"),
    "two tensors": ((images(), images()), InputError, "expected one torch tensor of images, .* got tuple: preprocess"),
    "list": ([images()], InputError, "got list"),
    "array": (images().numpy(), InputError, "got ndarray"),
    "one channel": (images()[:, :1], InputError, r"the model takes 3 channels, got images of shape \(2, 1, 32, 32\)"),
    "channels last": (images().permute(0, 2, 3, 1), InputError, r"takes 3 channels, got .* \(2, 32, 32, 3\)"),
    "too large": (images(2, (40, 32)), TokenLayoutError, r"takes images of 32x32, got 40x32: resize them, or"),
    "tiny": (images(2, (3, 3)), TokenLayoutError, "takes images of 32x32, got 3x3"),
    "none": (None, InputError, "got NoneType"),
}


@pytest.fixture(params=[timm_vit, hf_vit], ids=["timm", "hf"])
def model(request) -> nn.Module:
    return request.param()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_targets(model, method, name):
    target, text = TARGETS[name]
    before = fingerprint(model)
    with pytest.raises(TargetError, match=text) as caught:
        method(model).attribute(images(), target)
    assert isinstance(caught.value, CaptumViTError)
    assert isinstance(caught.value, AssertionError)  # which is what captum's methods raise
    assert not changes(before, fingerprint(model))


NUMBERS = {
    "int64": np.int64(3),
    "uint8": np.uint8(3),
    "an array without dimensions": np.array(3),
    "a tensor without dimensions": torch.tensor(3),
    "an array": np.array([3, 3]),
    "an array of bytes": np.array([3, 3], np.uint8),
    "an array of one": np.array([3]),
    "a list of numpy's": [np.int64(3), np.int32(3)],
    "a list of tensors": [torch.tensor(3), torch.tensor(3)],
    "a tuple": (np.int64(3),),
    "from the end": np.int64(3 - CLASSES),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_integers_of_numpy_are_integers(model, name):
    expected = AGCAM(model).attribute(images(), 3)
    assert_close(AGCAM(model).attribute(images(), NUMBERS[name]), expected)
    assert_close(AGCAM(model).attribute_classes(images()[:1], [np.int64(3), 0])[:1], expected[:1])


@pytest.mark.parametrize("name", ["too large", "too negative", "float", "texts"])
def test_targets_of_many_classes(model, name):
    target, text = TARGETS[name]
    targets = target if isinstance(target, list) else [target]
    with pytest.raises(TargetError, match=text.split(", got")[0]):
        AGCAM(model).attribute_classes(images(1), targets)


def test_many_classes_of_many_images(model):
    with pytest.raises(InputError, match="attribute_classes takes one image, got a batch of 2"):
        AGCAM(model).attribute_classes(images(2))
    with pytest.raises(OptionError, match="targets must be classes or 'all', got 'every'"):
        AGCAM(model).attribute_classes(images(1), "every")
    with pytest.raises(TargetError, match="targets must hold at least one class"):
        AGCAM(model).attribute_classes(images(1), [])


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("method", METHODS)
def test_inputs(model, method, name):
    x, kind, text = INPUTS[name]
    before = fingerprint(model)
    for run in (method(model).attribute, method(model).attribute_flow):
        with pytest.raises(kind, match=text):
            run(x, 1)
    assert not changes(before, fingerprint(model))


def test_a_headless_model_wants_an_importance():
    with pytest.raises(TargetError, match=r"no classification head, its 24 scores are features: pass FeatureImp"):
        DAAM(timm_vit(num_classes=0)).attribute(images())
    with pytest.raises(OptionError, match="DAAM has no option 'importance'"):
        DAAM(timm_vit(num_classes=0)).attribute(images(), importance=FeatureImportance())


@pytest.mark.parametrize("method", METHODS)
def test_options(model, method):
    for run in (method(model).attribute, method(model).attribute_flow):
        with pytest.raises(OptionError, match=rf"{method.__name__} has no option 'discard_ration'; it has: \w+"):
            run(images(), 1, discard_ration=0.5)
        with pytest.raises(OptionError, match="output_shape must be one of grid, spatial, input, got 'gird'"):
            run(images(), 1, output_shape="gird")
    with pytest.raises(OptionError, match="output_shape must be 'grid' or 'spatial', got 'input'"):
        method(model).attribute_flow(images(), 1, output_shape="input")


def test_values_of_options(model):
    with pytest.raises(OptionError, match="fusion must be one of mean, max, min, got 'median'"):
        AttentionRollout(model).attribute(images(), fusion="median")
    for method in (AttentionRollout, GradientRollout):
        with pytest.raises(OptionError, match=r"discard_ratio must lie in \[0, 1\), got 1.0"):
            method(model).attribute(images(), 1, discard_ratio=1.0)
    with pytest.raises(OptionError, match="kind must be one of class, peak, got 'pique'"):
        RawAttention(model).attribute_heads(images(), kind="pique")


BANKS = {
    "half a bank": ({"bank": torch.ones(3, WIDTH)}, r"needs both its features \(M, D\) and its labels"),
    "lengths": ({"bank": torch.ones(3, 2), "labels": torch.ones(4).long()}, r"got \(3, 2\) and \(4,\)"),
    "empty": ({"bank": torch.ones(0, 2), "labels": torch.ones(0).long()}, "with M >= 1"),
    "floats": ({"bank": torch.ones(3, 2), "labels": torch.ones(3)}, "labels of the memory bank must be integers >= 0"),
    "negative": ({"bank": torch.ones(3, 2), "labels": -torch.ones(3).long()}, "must be integers >= 0"),
    "k": ({"k": 0}, "expected k >= 1 and temperature > 0, got 0 and 0.07"),
    "temperature": ({"temperature": 0.0}, "got 20 and 0.0"),
}


@pytest.mark.parametrize("name", BANKS)
def test_memory_banks(name):
    options, text = BANKS[name]
    with pytest.raises(OptionError, match=text):
        FeatureImportance(**options)


def test_a_memory_bank_of_another_width():
    importance = FeatureImportance(torch.ones(3, 5), torch.zeros(3).long())
    with pytest.raises(OptionError, match="the memory bank has 5 dimensions, the features 24"):
        DAAM(timm_vit(num_classes=0)).attribute(images(), target=importance)
    with pytest.raises(OptionError, match="without a memory bank there is no label to predict"):
        FeatureImportance().predict(torch.ones(1, WIDTH))


@pytest.mark.parametrize("layer", ["blocks.7.attn", "", 3, -4, True, 1.5, np.int64(9), [0, "nope"], nn.Linear(1, 1)])
def test_layers_that_do_not_exist(layer):
    listed = "3, counted from 0 or named: blocks.0.attn, blocks.1.attn, blocks.2.attn"
    with pytest.raises(LayerNotFoundError, match=f"no attention layer .*; this model has {listed}"):
        AGCAM(timm_vit(), layer)


def test_no_layers():
    with pytest.raises(
        LayerNotFoundError, match=r"at least one layer is needed; this model has blocks\.0\.attn, blocks"
    ):
        AGCAM(timm_vit(), [])


def test_numbers_of_numpy_are_numbers(model):
    assert torch.equal(AGCAM(model).attribute(images(), np.int64(1)), AGCAM(model).attribute(images(), 1))
