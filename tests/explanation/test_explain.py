"""`explain`: from any picture and any model to maps on the original."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from captum_vit import AGCAM, DAAM, Explainer, Explanation, Look, Preprocessing, explain, sample
from captum_vit.access import CLASS
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.attr import METHODS, in_all
from captum_vit.errors import CaptumViTError, InputError, OptionError, PreprocessingError, TargetError
from captum_vit.geometry import View
from captum_vit.images import to_image
from captum_vit.targets import Contrast, Embedding, FeatureImportance
from tests.fingerprint import fingerprint
from tests.helpers import assert_close, relative_error

CLASSES = {name: index for index, name in enumerate(sample.CLASSES)}


def scene(size: tuple[int, int] = (300, 300)) -> Image.Image:
    """A triangle and a cross."""
    return Image.fromarray(sample.draw_scene(15, objects=2, size=300).image).resize(size)


def as_file(image: Image.Image, path: Path, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def test_one_line():
    found = explain(scene((280, 200)))
    assert isinstance(found, Explanation)
    assert [label.name for label in found.targets] == ["triangle", "cross"]
    assert found.methods == ("agcam",)
    assert found.maps.shape == (2, 1, 8, 8)
    assert found.image.size == found.view.original == (280, 200)
    assert found.scores["triangle"] > 0.9
    assert len(found.labels) == 5
    assert found.model == "sample"
    assert {"captum-vit", "torch", "captum", "python"} <= set(found.versions)


@pytest.mark.parametrize("method", in_all())
def test_maps_and_flows_are_those_of_the_method(method: str):
    model = build()
    found = explain(scene(), model, method, [CLASSES["cross"]], preprocess=PREPROCESSING)
    inputs = PREPROCESSING(scene())[None]
    for attribution in found:
        target = attribution.target and attribution.target.index
        assert target in (None, CLASSES["cross"])
        assert (target is None) != METHODS[method].class_specific
        expected = METHODS[method](model).attribute_flow(inputs, target=CLASSES["cross"])[0]
        torch.testing.assert_close(attribution.flow, expected)
        assert attribution.layers == tuple(METHODS[method](model).flow_layers(CLASS))
    torch.testing.assert_close(found.maps[:, 0], torch.stack([a.flow[-1] for a in found]))


def test_several_methods_and_classes():
    found = explain(scene(), method="all", target=["cross", 0], discard_ratio=0.5, kind="peak")
    specific = [kind.title for kind in in_all().values() if kind.class_specific]
    others = [kind.title for kind in METHODS.values() if not kind.class_specific]
    assert {"AGCAM", "gradient rollout"} <= set(specific)
    assert {"attention rollout"} <= set(others)
    expected = [f"{title}: {name}" for name in ("cross", "disc") for title in specific]
    assert [a.title for a in found] == [*expected, *others]
    assert found.options["rollout"] == {"discard_ratio": 0.5}
    assert found.options["raw_attention"] == {"kind": "peak"}
    assert found.options["agcam"] == {}
    only = found.only("daam", "disc")
    assert [a.title for a in only] == ["DAAM: disc"]
    assert len(found.only(target="cross")) == len(in_all())
    assert len(found.only(target=0)) == len(in_all())


def test_an_option_may_give_a_map_of_two_signs():
    plain, signed = (
        explain(scene(), method="daam", target="cross", signed=option).attributions[0] for option in (False, True)
    )
    assert (plain.method_title, plain.facts.signed, signed.method_title) == ("DAAM", False, "DAAM, signed")
    assert signed.facts == replace(plain.facts, title="DAAM, signed", signed=True)
    assert signed.flow.min() < 0 <= plain.flow.min()


CAPTUM: dict[str, tuple[bool, dict[str, Any]]] = {  # whether the map has two signs
    "IntegratedGradients": (True, {"n_steps": 3}),
    "GradientShap": (True, {"baselines": torch.zeros(2, 3, 64, 64)}),
    "InputXGradient": (True, {}),
    "Saliency": (False, {}),
    "Occlusion": (True, {"sliding_window_shapes": (3, 32, 32), "strides": (3, 32, 32)}),
}


@pytest.mark.parametrize("name", CAPTUM)
def test_captums_own_by_name(name):
    signed, options = CAPTUM[name]
    torch.manual_seed(0)
    found = explain(scene(), method=name, target="cross", **options).attributions[0]
    assert (found.method_title, found.facts.signed, found.signed) == (name, signed, signed)
    assert (found.map.min() < 0) == signed
    if name == "Saliency":
        both = explain(scene(), method=name, target="cross", abs=False).attributions[0]
        assert both.facts.signed
        assert both.map.min() < 0


def test_captums_grad_cam_is_of_convolutions():
    with pytest.raises(OptionError, match="would take the tokens of a ViT for channels: gradcam is that on tokens"):
        explain(scene(), method="LayerGradCam")


PICTURES: dict[str, Any] = {
    "PIL": lambda image, folder: image,
    "path": lambda image, folder: as_file(image, folder / "a.png"),
    "text": lambda image, folder: str(as_file(image, folder / "a.png")),
    "array": lambda image, folder: np.asarray(image),
    "tensor of bytes": lambda image, folder: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "with alpha": lambda image, folder: image.convert("RGBA"),
}


@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_pictures_in_any_form(make: Any, tmp_path: Path):
    image = scene((90, 60))
    found = explain(make(image, tmp_path), target="cross")
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(image))
    torch.testing.assert_close(found.maps, explain(image, target="cross").maps)


def test_a_preprocessed_tensor_is_shown_as_it_was():
    inputs = PREPROCESSING(scene())
    for tensor in (inputs, inputs[None]):
        found = explain(tensor, target="cross")
        torch.testing.assert_close(found.maps, explain(scene(), target="cross").maps)
        shown = scene().resize((64, 64), Image.Resampling.BOX)
        assert np.abs(np.asarray(found.image).astype(int) - np.asarray(shown)).max() <= 1
    bare = explain(inputs, build("transformers"), target="cross")  # whose normalisation nobody knows
    assert np.ptp(np.asarray(bare.image)) == 255


def test_a_list_gives_a_list():
    several = explain([scene(), scene((60, 90))], target="cross")
    assert [e.image.size for e in several] == [(300, 300), (60, 90)]
    torch.testing.assert_close(several[1].maps, explain(scene((60, 90)), target="cross").maps)
    assert explain([]) == []


def corner(mark: tuple[int, int]) -> Image.Image:
    """Noise with a bright quarter, so that what is where can be told."""
    pixels = np.random.default_rng(0).integers(0, 60, (120, 180, 3), np.uint8)
    rows, cols = np.indices((120, 180))
    pixels[(rows // 60 == mark[0]) & (cols // 90 == mark[1])] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_noted(orientation: int, tmp_path: Path):
    """A photograph stored on its side or mirrored is explained, and shown, as a person sees it."""
    upright = corner((0, 1))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright if orientation == 1 else upright.transpose(inverse[orientation])
    path = as_file(stored, tmp_path / "photo.png", orientation)
    for picture in (path, Image.open(path)):
        found = explain(picture, target="cross")
        np.testing.assert_array_equal(np.asarray(found.image), np.asarray(upright))
        torch.testing.assert_close(found.maps, explain(upright, target="cross").maps)


def small(**options: Any) -> nn.Module:
    return timm.create_model("test_vit", **options).eval()


def test_a_timm_model_brings_its_preprocessing_and_imagenets_names():
    model = small(num_classes=1000)
    found = explain(scene((200, 90)), model, target="tabby cat")
    assert found.targets[0].title == "tabby"
    left, _, right, _ = found.view.window
    assert right - left == pytest.approx(86, abs=1)  # the middle square, but for the crop
    assert found.model == "VisionTransformer"


def test_names_near_the_one_that_was_asked_for():
    with pytest.raises(TargetError, match=r"no class 'tabyb cat' in .*; nearest: .*tabby cat"):
        explain(scene(), small(num_classes=1000), target="tabyb cat")


def test_class_names_of_ones_own():
    names = [f"kind {i}" for i in range(10)]
    found = explain(scene(), small(num_classes=10), target="kind 3", class_names=names)
    assert found.targets[0].index == 3
    same = explain(scene(), small(num_classes=10), target="KIND 3", class_names=dict(enumerate(names)))
    assert same.targets == found.targets or same.targets[0].name == "kind 3"


def test_class_names_in_a_file(tmp_path: Path):
    (tmp_path / "names.txt").write_text("\n".join(f"kind {i}" for i in range(10)) + "\n")
    for file in (tmp_path / "names.txt", str(tmp_path / "names.txt")):
        assert explain(scene(), small(num_classes=10), target="kind 3", class_names=file).targets[0].index == 3


def test_a_checkpoint_for_a_model_by_name(tmp_path: Path):
    torch.save({name: 0 * value for name, value in build().state_dict().items()}, tmp_path / "nothing.pt")
    found, own = explain(scene(), checkpoint=tmp_path / "nothing.pt", target=0), explain(scene(), target=0)
    assert found.targets[0].score == 0.5 != own.targets[0].score


def test_a_hugging_face_model_needs_its_processor():
    config = ViTConfig(**{**sample.hf_config(), "problem_type": None})
    model = ViTForImageClassification(config).eval()
    with pytest.raises(
        PreprocessingError, match="no preprocessing is known for ViTForImageClassification: pass prepro"
    ):
        explain(scene(), model)
    processor = ViTImageProcessor(size={"height": 64, "width": 64})
    found = explain(scene(), model, preprocess=processor)
    assert len(found.targets) == 1  # one class against the others
    assert sum(label.score for label in explain(scene(), model, preprocess=processor, top_k=8).labels) == pytest.approx(
        1
    )


TARGETS = [5, "5", "cross", "CROSS ", np.int64(5), torch.tensor(5), torch.tensor([5]), np.array([5]), ["cross"], (5,)]


@pytest.mark.parametrize("target", TARGETS)
def test_targets_in_any_form(target: Any):
    assert [label.index for label in explain(scene(), target=target).targets] == [5]


@pytest.mark.parametrize("target", [0.5, torch.tensor(0.5), object(), [0.5]], ids=["float", "tensor", "object", "list"])
def test_what_is_no_target(target: Any):
    text = (
        "one-hot labels or an embedding" if isinstance(target, Tensor) else "class by number or name, or several, got"
    )
    with pytest.raises(TargetError, match=text):
        explain(scene(), target=target)


def test_what_is_left_beside_the_last_patch_was_not_seen():
    processor = ViTImageProcessor(size={"height": 70, "width": 100})
    model = ViTModel(ViTConfig(**{**sample.hf_config(), "image_size": [70, 100], "patch_size": 16})).eval()
    found = explain(scene((200, 140)), model, preprocess=processor)
    assert found.view.window == pytest.approx((0, 0, 192, 128))
    assert found.grid == (4, 6)


BACKBONES = {"timm": lambda: small(num_classes=0), "transformers": lambda: ViTModel(ViTConfig(**sample.hf_config()))}


def found_by(model: nn.Module) -> Any:
    return None if hasattr(model, "pretrained_cfg") else PREPROCESSING


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_model_of_features(make: Any):
    model = make().eval()
    found = explain(
        scene(), model, method="all", preprocess=None if hasattr(model, "pretrained_cfg") else PREPROCESSING
    )
    # those of a class explain the feature by its importance, but for the one that compares classes
    assert set(found.methods) == set(in_all()) - {"finercam"}
    assert found.labels == found.targets == ()
    by_hand = explain(scene(), model, method="agcam", target=FeatureImportance(), preprocess=found_by(model))
    assert_close(by_hand.maps[0], found.only("agcam").maps[0], 1e-5)
    assert by_hand.targets[0].unit == "weighted feature"
    with pytest.raises(TargetError, match="a target needs a classifier"):
        explain(scene(), small(num_classes=0), target=3)


def test_attention_is_kept_on_request():
    found = explain(scene(), target="cross", attention=True)
    assert found.attention is not None
    heads, patches = found.attention.heads, found.attention.patches
    assert list(heads) == list(patches) == [f"blocks.{i}.attn" for i in range(6)]
    raw = METHODS["raw_attention"](build())
    every = raw.attribute_heads(PREPROCESSING(scene())[None])[0]
    torch.testing.assert_close(torch.stack(list(heads.values())), every)
    assert all(p.shape == (64, 64) for p in patches.values())
    peak = raw.attribute(PREPROCESSING(scene())[None], kind="peak")[0, 0]
    assert (patches["blocks.5.attn"].amax(0).view(8, 8) <= peak + 1e-6).all()  # the mean of heads, of the largest row
    rows = patches["blocks.0.attn"].sum(1)
    assert ((rows > 0.5) & (rows <= 1)).all()  # the rest goes to the class token
    assert explain(scene(), target="cross").attention is None


def by_hand(model: nn.Module, inputs: Tensor) -> Tensor:
    """Attention between patches in the first block, from the weights."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(inputs)))
    block = model.blocks[0]
    q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 4, 24)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT * 24**-0.5).softmax(-1).mean(1)[0, 1:, 1:]


def test_attention_between_patches_is_the_softmax():
    with torch.no_grad():
        expected = by_hand(build(), PREPROCESSING(scene())[None])
    found = explain(scene(), target="cross", attention=True)
    torch.testing.assert_close(found.attention.patches["blocks.0.attn"], expected, rtol=1e-5, atol=1e-7)


def test_class_attention_has_none_between_patches():
    model = timm.create_model("cait_xxs24_224", depth=2, img_size=32, num_classes=10).eval()
    found = explain(torch.randn(3, 32, 32), model, target=1, attention=True)
    assert list(found.attention.heads) == ["blocks_token_only.0.attn", "blocks_token_only.1.attn"]
    assert not found.attention.patches


def test_the_model_is_left_as_it_was():
    model = build()
    before = fingerprint(model)
    explain(scene(), model, "all", preprocess=PREPROCESSING, attention=True)
    assert fingerprint(model) == before


def test_an_explainer_keeps_its_model():
    explainer = Explainer(small(num_classes=10), layer=[-1])
    found = [explainer(scene(size), method="daam", target=1) for size in ((90, 60), (60, 90))]
    assert [e.attributions[0].layers for e in found] == [("blocks.5.attn",)] * 2
    assert explainer.method(DAAM) is explainer.method(DAAM)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        ({"method": "agcm"}, OptionError, "no method 'agcm'; there are agcam.*nearest: agcam"),
        (
            {"method": "rollout", "fussion": "max"},
            OptionError,
            r"rollout has no option 'fussion'; .*fusion \(rollout\)",
        ),
        ({"target": "crss"}, TargetError, "no class 'crss' in 'sample'.*nearest: cross"),
        ({"target": 8}, TargetError, "target 8 is out of range: 'sample' has 0 to 7"),
        ({"images": np.zeros((4, 4))}, InputError, r"an image is a path.*got float64 of shape \(4, 4\)"),
        ({"images": torch.zeros(2, 3, 64, 64)}, InputError, r"expected one image .*pass a list"),
        ({"images": 7}, InputError, "an image is a path.*got int"),
        ({"model": nn.Linear(2, 2)}, CaptumViTError, "Linear is not supported"),
        ({"device": "cuda:9"}, OptionError, "no device 'cuda:9' here"),
        ({"model": build(), "device": "cpu"}, OptionError, "a model itself stays where it is"),
        ({"method": "rollout", "target": "no such class"}, TargetError, "no class 'no such class' in 'sample'"),
        ({"top_k": 0}, OptionError, "top_k must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_cannot_be_had(ask: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        explain(**{"images": scene(), **ask})


def test_a_preprocessing_that_says_otherwise_than_it_does():
    lying = Preprocessing(PREPROCESSING.prepare, lambda size: View.of(size).resized(32, 32))
    with pytest.raises(InputError, match="made 64x64 pixels where its description gives 32x32"):
        explain(scene(), build(), preprocess=lying)


def test_what_is_not_in_an_explanation():
    found = explain(scene(), target="cross")
    with pytest.raises(OptionError, match="no method 'daam' in this explanation; it has agcam"):
        found.only("daam")
    with pytest.raises(TargetError, match="class 'crss' was not explained; explained: cross; nearest: cross"):
        found.only(target="crss")


def test_overlays_are_as_large_as_the_original():
    steps = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()])
    found = explain(scene((200, 100)), build(), target=CLASSES["cross"], preprocess=steps)
    drawn = np.asarray(found.overlay(Look(fade=False))).astype(int)
    assert drawn.shape == (100, 200, 3)
    grey = (drawn.max(-1) == drawn.min(-1)).all(0)
    assert grey[:48].all()
    assert not grey[52:148].any()
    assert grey[152:].all()


def hf_model(classes: int, problem: str | None, names: dict[int, str] | None = None) -> nn.Module:
    options = {**sample.hf_config(), "problem_type": problem, "num_labels": classes}
    options["id2label"] = names or {i: f"kind {i}" for i in range(classes)}
    options["label2id"] = {name: i for i, name in options["id2label"].items()}
    return ViTForImageClassification(ViTConfig(**options)).eval()


def test_a_single_class_is_scored_by_itself():
    model = hf_model(1, None)
    found = explain(scene(), model, preprocess=PREPROCESSING)
    logit = model(PREPROCESSING(scene())[None]).logits[0]
    assert found.labels[0].score == pytest.approx(logit.sigmoid().item())
    assert 0 < found.labels[0].score < 1


def test_a_regression_has_no_classes():
    found = explain(scene(), hf_model(1, "regression"), "daam", preprocess=PREPROCESSING)
    assert found.labels == found.targets == ()
    assert found.maps.shape == (1, 1, 8, 8)
    assert found.maps.max() > 0
    with pytest.raises(TargetError, match="gives values, not classes"):
        explain(scene(), hf_model(1, "regression"), target=0, preprocess=PREPROCESSING)


def test_names_that_begin_alike_stay_apart():
    names = {0: "Pneumonia, bacterial", 1: "Pneumonia, viral", 2: "healthy, no finding", 3: "other", 4: "other"}
    model = hf_model(5, "multi_label_classification", names)
    found = explain(scene(), model, target=[0, 1, 2, 3, 4], preprocess=PREPROCESSING)
    assert [label.title for label in found.targets] == [
        "Pneumonia, bacterial",
        "Pneumonia, viral",
        "healthy",
        "other (3)",
        "other (4)",
    ]
    assert len(found.scores) == 5
    assert found.only(target="Pneumonia, viral").targets[0].index == 1
    assert found.only(target="HEALTHY").targets[0].index == 2
    with pytest.raises(TargetError, match="class 'Pneumonia' was not explained"):
        found.only(target="Pneumonia")


def test_classes_that_are_named_by_numbers():
    names = {0: "0", 1: "1", 2: "10", 3: "2"}
    model = hf_model(4, None, names)
    assert explain(scene(), model, target="10", preprocess=PREPROCESSING).targets[0].index == 2
    assert explain(scene(), model, target="2", preprocess=PREPROCESSING).targets[0].index == 3
    assert explain(scene(), model, target=2, preprocess=PREPROCESSING).targets[0].index == 2


def test_train_mode_is_left_as_it_was():
    model = nn.Sequential(build(), nn.Dropout(0.5)).train()
    before, state = fingerprint(model), torch.get_rng_state()
    explain(scene(), model, "all", target=5, preprocess=PREPROCESSING)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_several_labels_without_a_configuration():
    against, apart = (explain(scene(), build(), multi_label=m, preprocess=PREPROCESSING) for m in (False, True))
    assert sum(label.score for label in against.labels) <= 1 + 1e-6
    assert [label.index for label in apart.targets] == [CLASSES["triangle"], CLASSES["cross"]]


PREPARED = {
    "no tensor": (transforms.Compose([transforms.Resize((64, 64))]), "a preprocessing gives a tensor .*got Image: add"),
    "bytes": (transforms.Compose([transforms.Resize((64, 64)), transforms.PILToTensor()]), "got torch.uint8"),
    "one channel": (
        transforms.Compose([transforms.Resize((64, 64)), transforms.Grayscale(), transforms.ToTensor()]),
        "the model takes 3 channels, and the preprocessing gives 1",
    ),
}


@pytest.mark.parametrize(("preprocess", "message"), PREPARED.values(), ids=PREPARED)
def test_a_preprocessing_that_prepares_something_else(preprocess: Any, message: str):
    with pytest.raises(PreprocessingError, match=message):
        explain(scene(), build(), preprocess=preprocess)


@pytest.mark.parametrize("names", [["a"] * 9, {8: "ninth"}])
def test_more_names_than_scores(names: Any):
    with pytest.raises(OptionError, match="class names, and the model has 8 scores"):
        explain(scene(), class_names=names)


def test_floats_are_no_target_and_an_embedding_is_one():
    vector = torch.randn(8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(TargetError, match=r"one-hot labels or an embedding, .*captum_vit.targets.Embedding"):
        explain(scene(), target=vector)
    found = explain(scene(), target=Embedding(vector))
    assert found.targets[0].unit == "cosine"
    assert_close(found.maps[0, 0], AGCAM(build()).attribute(model_input(), Embedding(vector))[0, 0])


def model_input() -> Tensor:
    return PREPROCESSING(to_image(scene()))[None]


def test_why_one_rather_than_the_other():
    found = explain(
        scene(), method=["agcam", "daam"], target=["triangle/cross", Contrast("cross", "triangle"), "cross"]
    )
    titles = [label.title for label in found.targets]
    assert titles == ["triangle rather than cross", "cross rather than triangle", "cross"]
    logits = build()(model_input())[0]
    for label, sign in zip(found.targets, (1, -1), strict=False):
        assert label.index is None
        assert label.unit == "logit difference"
        assert label.score == pytest.approx(sign * (logits[3] - logits[5]).item(), abs=1e-4)
    contrast = AGCAM(build()).attribute(model_input(), Contrast(3, 5))
    assert_close(found.only("agcam", "triangle/cross").maps[0], contrast[0], 1e-4)


def test_a_function_of_the_output_is_a_target():
    def squared(output: Tensor) -> Tensor:
        return output[:, 3].square()

    found = explain(scene(), method=["agcam", "rollout"], target=[squared, 3])
    assert [(a.method, a.target and a.target.title) for a in found] == [
        ("agcam", "squared"),
        ("agcam", "triangle"),
        ("rollout", None),
    ]
    assert found.targets[0].score == pytest.approx(build()(model_input())[0, 3].square().item(), rel=1e-4)
    shown, plain = found.maps[0] / found.maps[0].max(), found.maps[1] / found.maps[1].max()
    assert torch.allclose(shown, plain, atol=1e-4)  # the square of a score has its gradient, up to a factor


def test_functions_of_one_name_are_told_apart():
    found = explain(scene(), method="agcam", target=[lambda output: output[:, 3], lambda output: output[:, 5]])
    assert [label.title for label in found.targets] == ["function", "function 2"]
    assert relative_error(found.only(target="function 2").maps, explain(scene(), target=5).maps) < 1e-4


def passes(model: nn.Module) -> list[int]:
    counted: list[int] = []
    model.patch_embed.register_forward_hook(lambda module, args, output: counted.append(len(output)))
    return counted


OF_ONE_FORWARD = ["agcam", "daam", "rollout", "gradient_rollout", "raw_attention", "gradcam", "generic_relevance"]


def test_all_methods_and_targets_read_one_forward():
    model = build()
    counted = passes(model)
    images = [scene((90 + 30 * i, 60)) for i in range(3)]
    found = explain(images, model, method=OF_ONE_FORWARD, target=[1, 2, 5], preprocess=PREPROCESSING, attention=True)
    assert counted == [3]  # all images at once; a listener is not called by the replay
    assert len(found) == 3
    for one, image in zip(found, images, strict=True):
        alone = explain(
            image, build(), method=OF_ONE_FORWARD, target=[1, 2, 5], preprocess=PREPROCESSING, attention=True
        )
        assert [a.title for a in alone] == [a.title for a in one]
        for ours, theirs in zip(one, alone, strict=True):
            assert_close(ours.flow, theirs.flow, 1e-4)


def test_images_of_several_sizes_keep_their_order():
    model = timm.create_model("test_vit", num_classes=4, img_size=64, dynamic_img_size=True).eval()
    images = [torch.randn(3, *size) for size in ((64, 64), (64, 64), (32, 64), (64, 64))]
    found = explain(images, model, batch_size=2)
    assert [e.grid for e in found] == [(4, 4), (4, 4), (2, 4), (4, 4)]


def test_torchvisions_classes_have_names():
    model = vit_b_16_small()
    found = explain(scene(), model, target="tabby", preprocess=PREPROCESSING)
    assert found.targets[0].index == 281


def vit_b_16_small() -> nn.Module:
    return VisionTransformer(64, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16).eval()


def test_what_is_printed_has_no_numbers_of_tensors():
    found = explain(sample.draw_scene(15, size=64).image, "sample", attention=True, removals=True)
    for each in (found, *found.attributions, found.attention, *found.removals.values()):
        assert "tensor(" not in repr(each)
