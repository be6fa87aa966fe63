"""What a user is told who asks for the wrong thing, or in other words: every keyword, and the mistakes people make."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from torch import nn
from transformers import ViTImageProcessor, pipeline

import captum_vit
from captum_vit import (
    AGCAM,
    DAAM,
    AttentionRollout,
    CaptumViTError,
    Contrast,
    Embedding,
    Explainer,
    FeatureImportance,
    Look,
    RawAttention,
    adapt,
    attr,
    errors,
    explain,
    load_model,
    register,
)
from captum_vit.attr import find_method
from captum_vit.errors import InputError, OptionError, PreprocessingError, TargetError, UnsupportedModelError, brief
from captum_vit.evaluation import Plan, evaluate
from captum_vit.evaluation.quantus import quantus_explain
from captum_vit.pipelines import ImageAttributionPipeline
from captum_vit.preprocessing import read_preprocessing
from tests.helpers import CLASSES, assert_close, hf_vit, images, timm_vit

MODEL, X, PHOTO = timm_vit(), images(1), Image.new("RGB", (40, 40))
LONG = 600  # letters of a message


class Loud:
    """An object whose words nobody wants to read."""

    def __repr__(self) -> str:
        return "tensor(" * 10_000


VALUES = {
    "a tensor": torch.randn(3, 40, 40),
    "a module": nn.Sequential(nn.Linear(3, 3)),
    "an array": np.random.default_rng(0).random((40, 40)),
    "integers": np.arange(1000),
    "a long list": [1.5] * 10_000,
    "a list of tensors": [torch.randn(30, 30)] * 50,
    "a long text": "x" * 100_000,
    "a class": Loud,
    "an object": Loud(),
    "a dictionary": {"a": torch.randn(99, 99), 3: Loud()},
    "bytes": b"y" * 1000,
    "an endless number": 10**40,
    "no number": float("nan"),
}


def made_pipeline() -> ImageAttributionPipeline:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return pipeline("image-attribution", model=hf_vit(), image_processor=processor)


PIPE = made_pipeline()
EXPLANATION = explain(X[0], MODEL, target=1)


def planned(**settings: Any) -> Any:
    return Plan(**{"data": "sample:1", "methods": ["random"], "limit": 1, **settings}).make()


def evaluated(**settings: Any) -> Any:
    return evaluate(**{"what": Plan(data="sample:1", methods=["random"]), "out": Path("run"), **settings})


def signed(function: Callable[..., Any], *more: str) -> list[str]:
    named = inspect.signature(function).parameters.values()
    return [p.name for p in named if p.kind is not p.VAR_KEYWORD and p.name != "self"] + list(more)


# entry -> (how it is asked with some of its keywords changed, its keywords)
ENTRIES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "AGCAM": (lambda **k: AGCAM(**{"model": MODEL, **k}), ["model", "layer", "target"]),
    "attribute": (
        lambda **k: AGCAM(MODEL).attribute(**{"inputs": X, "target": 1, **k}),
        [
            name for name in signed(AGCAM.attribute, "head_fusion") if name != "additional_forward_args"
        ],  # the model's own
    ),
    "attribute_flow": (lambda **k: AGCAM(MODEL).attribute_flow(**{"inputs": X, "target": 1, **k}), ["output_shape"]),
    "attribute_classes": (
        lambda **k: AGCAM(MODEL).attribute_classes(**{"inputs": X, **k}),
        ["targets", "output_shape"],
    ),
    "rollout": (lambda **k: AttentionRollout(MODEL).attribute(**{"inputs": X, **k}), list(AttentionRollout.options())),
    "raw attention": (lambda **k: RawAttention(MODEL).attribute(**{"inputs": X, **k}), list(RawAttention.options())),
    "explain": (lambda **k: explain(**{"images": X[0], "model": MODEL, **k}), signed(explain, "colour")),
    "Explainer": (lambda **k: Explainer(**{"model": MODEL, **k}), signed(Explainer)),
    "inspect": (lambda **k: captum_vit.inspect(**{"model": MODEL, **k}), signed(captum_vit.inspect)),
    "load_model": (lambda **k: load_model(**{"spec": "sample", **k}), ["spec", "checkpoint", "colour"]),
    "register": (lambda **k: register(**k), ["adapter"]),
    "adapt": (lambda **k: adapt(**k), ["model"]),
    "pipeline": (
        lambda **k: PIPE(k.pop("image", PHOTO), **k),
        ["image", "method", "target", "top_k", "layer", "look", "max_side", "colour"],
    ),
    "Contrast": (lambda **k: AGCAM(MODEL).attribute(X, Contrast(**{"a": 1, "b": 2, **k})), ["a", "b"]),
    "Embedding": (lambda **k: AGCAM(MODEL).attribute(X, Embedding(**k)), ["vector"]),
    "FeatureImportance": (
        lambda **k: DAAM(timm_vit(num_classes=0)).attribute(X, FeatureImportance(**k)),
        ["bank", "labels", "k", "temperature"],
    ),
    "Plan": (planned, list(Plan.__dataclass_fields__)),
    "evaluate": (evaluated, ["what", "out", "engine", "limit", "shard"]),
    "only": (lambda **k: EXPLANATION.only(**k), ["method", "target"]),
    "overlay": (lambda **k: EXPLANATION.overlay(**k), ["look"]),
    "Look": (lambda **k: Look(**k), list(Look.__dataclass_fields__)),
}
KEYWORDS = [(entry, keyword) for entry, (_, keywords) in ENTRIES.items() for keyword in keywords]


def faults(ask: Callable[..., Any], keyword: str, values: Mapping[str, Any] = VALUES) -> list[str]:
    """What is wrong with what is said of values that a keyword does not take; those that it takes say nothing."""
    found = []
    for name, value in values.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ask(**{keyword: value})
        except CaptumViTError as error:
            text = str(error)
            if len(text) > LONG or "tensor(" in text or "array(" in text:
                found.append(f"{keyword}={name}: {len(text)} letters, {text[:100]!r}")
        except Exception as error:
            found.append(f"{keyword}={name}: {type(error).__name__}: {str(error)[:100]!r}")
    return found


@pytest.mark.parametrize(("entry", "keyword"), KEYWORDS, ids=lambda part: part)
def test_whatever_a_keyword_is_given_is_told_in_a_few_words(entry, keyword, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captum_vit.access.registry, "_registered", {})
    assert faults(ENTRIES[entry][0], keyword) == []


def wrong_twin(layer: Any) -> None:
    """Tells a value as Python does."""
    raise OptionError(f"no layer {layer!r}")


def test_a_message_that_prints_a_tensor_would_be_seen():
    found = " ".join(faults(wrong_twin, "layer"))
    assert {"a tensor", "an object", "a long list", "a long text"} <= {n for n in VALUES if f"layer={n}:" in found}
    assert "TypeError" in faults(len, "x", {"one": 1})[0]


@pytest.mark.parametrize("name", VALUES)
def test_brief_is_brief(name):
    for value in (VALUES[name], [VALUES[name]] * 3, {"a": (VALUES[name],)}):
        assert len(brief(value)) < 200
        assert "tensor(" not in brief(value)


BRIEF = {
    "float32 tensor (2, 3), 0 to 0": torch.zeros(2, 3),
    "float32 tensor (2, 3)": torch.zeros(2, 3, device="meta"),
    "int64 array (3,), 0 to 2": np.arange(3),
    "the module Linear": nn.Linear(2, 2),
    "the class Linear": nn.Linear,
    "the function len": len,
    "an object Loud": Loud(),
    "['a', 'b']": ["a", "b"],
    "[0, 0, 0, ...] of 999": [0] * 999,
    "(the module Linear,)": (nn.Linear(1, 1),),
    "{'a': float32 tensor (1,), 1 to 1}": {"a": torch.ones(1)},
    "None": None,
}


@pytest.mark.parametrize("text", BRIEF)
def test_brief(text):
    assert brief(BRIEF[text]) == text


def ask(**asked: Any) -> Any:
    return explain(X[0], MODEL, **asked)


ONE_OF = "there are agcam, .*daam, .*all, and module:Class"
MISTAKES: dict[str, tuple[Callable[[], Any], type[CaptumViTError], str]] = {
    "images in the constructor": (
        lambda: AGCAM(MODEL, X),
        errors.LayerNotFoundError,
        r"^no attention layer float32 tensor \(1, 3, 32, 32\), .*; images go into the call: .attribute\(images, target",
    ),
    "calling a method": (
        lambda: AGCAM(MODEL)(X),
        OptionError,
        r"asked by its methods: AGCAM\(model\).attribute\(images",
    ),
    "options in the constructor": (
        lambda: AttentionRollout(MODEL, discard_ratio=0.9),
        OptionError,
        r"options go into its call: .attribute\(images, discard_ratio=0.9\)",
    ),
    "a name instead of a model": (
        lambda: AGCAM("timm/vit"),
        UnsupportedModelError,
        "expected the model itself, .*got str",
    ),
    "a model without weights": (
        lambda: AGCAM(timm_vit().to("meta")).attribute(X, 1),
        InputError,
        r"^VisionTransformer has no weights \(it is on the meta device\): load them first",
    ),
    "images elsewhere": (
        lambda: AGCAM(MODEL).attribute(X.to("meta"), 1),
        InputError,
        r"^the model is on cpu, the images are on meta: pass images.to\('cpu'\)",
    ),
    "a name where there are none": (
        lambda: AGCAM(MODEL).attribute(X, "tabby"),
        TargetError,
        r"no class 'tabby' in 'VisionTransformer'; its classes have no names: .* explain\(..., class_names=\[...\]\)",
    ),
    "a misspelt name": (
        lambda: AGCAM(hf_vit(id2label={n: f"kind {n}" for n in range(CLASSES)})).attribute(X, "knid 3"),
        TargetError,
        "it has kind 0, kind 1, .*; nearest: kind 3",
    ),
    "a number as text, too large": (
        lambda: AGCAM(MODEL).attribute(X, str(CLASSES)),
        TargetError,
        f"target out of range: the model gives {CLASSES} scores, 0 to {CLASSES - 1}, got {CLASSES}",
    ),
    "a contrast as text": (
        lambda: AGCAM(MODEL).attribute(X, "tabby/tiger"),
        TargetError,
        "its classes have no names",
    ),
    "no target": (lambda: AGCAM(MODEL).attribute(X), TargetError, "target is needed: .*argmax"),
    "no method": (lambda: ask(method=[]), OptionError, "at least one method is needed, got none of agcam, "),
    "a checkpoint": (
        lambda: ask(checkpoint="w.pth"),
        OptionError,
        "checkpoint is for models by name: load the weights into a model itself before",
    ),
    "a normalisation": (lambda: ask(mean=0.5), OptionError, "a normalisation is part of preprocess="),
    "a misspelt preprocessing": (
        lambda: read_preprocessing("sqush"),
        PreprocessingError,
        "no preprocessing is called 'sqush': the one that has a name is 'squash'",
    ),
    "methods": (
        lambda: ask(methods="agcam"),
        OptionError,
        "no option 'methods'; there is: none; explain takes method=",
    ),
    "targets": (lambda: ask(targets=3), OptionError, "no option 'targets'; there is: none; explain takes target="),
    "layers": (lambda: ask(layers=3), OptionError, "no option 'layers'; there is: none; explain takes layer="),
    "a misspelt method": (lambda: ask(method="agcm"), OptionError, f"^no method 'agcm'; {ONE_OF}.*; nearest: agcam"),
    "a method made already": (
        lambda: ask(method=AGCAM(MODEL)),
        OptionError,
        "^a method made of a model already, an AGCAM: pass the class AGCAM, or its name",
    ),
    "Ablation-CAM": (
        lambda: ask(method="Ablation-CAM"),
        OptionError,
        f"no method 'Ablation-CAM' here: nearest are gradcam, layercam .* agcam, .*; {ONE_OF}",
    ),
    "smoothgradcam++": (lambda: PIPE(PHOTO, method="SmoothGradCAM++"), OptionError, "here: nearest are gradcam"),
    "Chefer": (lambda: ask(method="Chefer et al."), OptionError, "here: transformer_attribution is that, and generic"),
    "LRP": (lambda: ask(method="LRP"), OptionError, "cp_lrp and attn_lrp are of that kind"),
    "attention flow": (lambda: ask(method="Attention Flow"), OptionError, "here: nearest is rollout"),
    "LayerGradCam": (lambda: ask(method="LayerGradCam"), OptionError, "it gives values of a layer"),
    "the model first": (
        lambda: explain(MODEL, PHOTO),
        InputError,
        r"the image comes first, .*got the module VisionTran",
    ),
    "too many names": (lambda: ask(class_names=["a"] * 9), OptionError, "9 class names, and the model has 7 scores"),
    "a plan of a model at hand": (
        lambda: Plan(model=MODEL).make(),
        OptionError,
        r"a plan is plain settings.*: name it, as .*One at hand is evaluated by Evaluator\(Explainer\(model\)",
    ),
    "a name for all classes": (
        lambda: ask(class_names="cat"),
        OptionError,
        "class_names must be a list of names, .*: cannot read 'cat': No such file",
    ),
    "numbers as names": (
        lambda: ask(class_names=[1, 2]),
        OptionError,
        "class_names must hold a text for each number, got 0: 1",
    ),
    "top_k of none": (lambda: ask(top_k=0), OptionError, "top_k must be at least 1, got 0"),
    "one number as size": (
        lambda: captum_vit.inspect(MODEL, image_size=224),
        OptionError,
        r"image_size must be \(height, width\), got 224",
    ),
    "opacity in percent": (lambda: Look(alpha=60), OptionError, "alpha must be between 0 and 1, got 60"),
    "metrics misspelt": (
        lambda: planned(metrics="localisation"),
        OptionError,
        "no metric 'localisation'.*localization",
    ),
    "percent to discard": (
        lambda: AttentionRollout(MODEL).attribute(X, discard_ratio=90),
        OptionError,
        r"discard_ratio must lie in \[0, 1\), got 90",
    ),
    "fusion misspelt": (
        lambda: AttentionRollout(MODEL).attribute(X, fusion="maximum"),
        OptionError,
        "fusion must be one of mean, max, min, got 'maximum'",
    ),
    "head_fusion": (
        lambda: AttentionRollout(MODEL).attribute(X, head_fusion="max"),
        OptionError,
        "AttentionRollout has no option 'head_fusion'; it has: .*; nearest: .*fusion",
    ),
    "an instance of no adapter": (
        lambda: register(MODEL),
        OptionError,
        "a subclass of captum_vit.Adapter, got the module Vi",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_with_what_to_do(mistake):
    act, kind, text = MISTAKES[mistake]
    with pytest.raises(kind, match=text) as error:
        act()
    assert len(str(error.value)) < LONG


NAMED = ("AGCAM", "Agcam", "agcam", "ag-cam", AGCAM)
ROLLOUTS = (
    "rollout",
    "attention rollout",
    "Attention-Rollout",
    "attention_rollout",
    "AttentionRollout",
    AttentionRollout,
)


@pytest.mark.parametrize("name", [*NAMED, *ROLLOUTS], ids=str)
def test_a_method_is_found_however_it_is_called(name):
    found = ("agcam", AGCAM) if name in NAMED else ("rollout", AttentionRollout)
    assert find_method(name) == found
    assert ask(method=name, target=1).methods == (found[0],)
    assert Explainer(MODEL).choose([name]) == {found[0]: found[1]}
    if isinstance(name, str):
        assert list(planned(methods=name).entries) == list(planned(methods=[name]).entries) == [found[0]]
        assert_close(torch.tensor(PIPE(PHOTO, method=name, top_k=1)[0]["grid"]), grid_of(found[0]))
        assert quantus_explain(MODEL, X, [1], method=name).shape == (1, 1, 32, 32)


def grid_of(name: str) -> torch.Tensor:
    return torch.tensor(PIPE(PHOTO, method=name, top_k=1)[0]["grid"])


def test_every_method_is_found_by_its_title_and_its_class():
    for name, kind in attr.METHODS.items():
        assert find_method(kind.title)[1] is find_method(kind.__name__)[1] is find_method(name)[1]


@pytest.mark.parametrize("name", ["IntegratedGradients", "integrated gradients", "Input X Gradient"])
def test_captums_own_are_found_by_name(name):
    label, kind = find_method(name)
    assert label == kind.title
    assert planned(methods=[name]).entries.keys() == {label}


def test_maps_of_several_units_stay_together():
    found = PIPE(PHOTO, target=[0, Contrast(1, 2), 3, Contrast(2, 1)])
    assert [" rather than " in result["label"] for result in found] == [False, False, True, True]
    classes, contrasts = found[:2], found[2:]
    for group in (classes, contrasts):
        assert group[0]["score"] >= group[1]["score"]


def test_a_view_of_a_model_ends_a_cell_as_a_table():
    view = captum_vit.inspect(timm_vit())
    assert repr(view) == str(view)
    assert repr(view).startswith("VisionTransformer by TimmViT\nimage    32 x 32 pixels, 4 x 4 patches\n")
    page = view._repr_html_()
    assert "tensor(" not in repr(view) + page
    for text in ("<b>VisionTransformer</b>", "4 x 4 patches", "class token", "blocks.2.attn", "agcam", "3 layers"):
        assert text in page
    assert len(re.findall("<tr>", page)) == 4 + 3 + len(attr.METHODS)


def test_an_explanation_is_shown_in_the_viewer_that_there_is(monkeypatch):
    seen: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: Any) -> int:
            image.load()
            seen.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    EXPLANATION.show()
    assert len(seen) == 1
    assert min(seen[0].size) > 100


def test_a_number_as_text_is_a_class_of_a_model_without_names():
    assert_close(AGCAM(MODEL).attribute(X, "1"), AGCAM(MODEL).attribute(X, 1))
