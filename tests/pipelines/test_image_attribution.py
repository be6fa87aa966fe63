"""The task `image-attribution` of Hugging Face pipelines."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from captum_vit import AGCAM, Contrast, Look, explain, sample
from captum_vit.adapters.sample_vit import build
from captum_vit.attr import METHODS, in_all
from captum_vit.errors import InputError, OptionError, TargetError
from captum_vit.pipelines import ImageAttributionPipeline, explainer
from captum_vit.visualization import overlay
from tests.fingerprint import fingerprint
from tests.waiting import PATIENCE

SIDE = 64


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("transformers")


def processor() -> Any:
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=sample.MEAN, image_std=sample.STD)


@pytest.fixture
def pipe(model: nn.Module) -> ImageAttributionPipeline:
    return pipeline("image-attribution", model=model, image_processor=processor())


def scene(seed: int = 15, size: tuple[int, int] = (300, 300)) -> Image.Image:
    return Image.fromarray(sample.draw_scene(seed, objects=2, size=300).image).resize(size)


def assert_scores(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The same up to rounding: the head sees the class token alone."""
    assert [r["label"] for r in ours] == [r["label"] for r in theirs]
    assert [r["score"] for r in ours] == pytest.approx([r["score"] for r in theirs], rel=1e-4)


@pytest.mark.parametrize("method", in_all())
def test_labels_scores_maps_and_overlays(pipe: ImageAttributionPipeline, model: nn.Module, method: str):
    image = scene(size=(280, 200))
    results = pipe(image, method=method, top_k=3)
    plain = pipeline("image-classification", model=model, image_processor=processor())(image, top_k=3)
    assert_scores(results, plain)
    pixels = processor()(images=image, return_tensors="pt")["pixel_values"]
    for result in results:
        target = model.config.label2id[result["label"]]
        expected = METHODS[method](model).attribute(pixels, target=target)[0, 0]
        np.testing.assert_allclose(result["grid"], expected, rtol=1e-5, atol=1e-8)
        assert result["map"].shape == (200, 280)
        assert np.isfinite(result["map"]).all()
        assert result["overlay"].size == (280, 200)
        assert result["overlay"].tobytes() == overlay(image, result["grid"]).tobytes()


def test_it_agrees_with_explain(pipe: ImageAttributionPipeline, model: nn.Module):
    image = scene(size=(280, 200))
    found = explain(image, model, "daam", ["cross", "triangle"], preprocess=processor())
    results = pipe(image, method="daam", target=["cross", "triangle"])
    maps = {a.target.name: a.map.numpy() for a in found}
    assert {r["label"] for r in results} == {"cross", "triangle"}
    for result in results:
        np.testing.assert_allclose(result["grid"], maps[result["label"]], rtol=1e-5, atol=1e-8)


def test_why_one_rather_than_the_other(pipe: ImageAttributionPipeline, model: nn.Module):
    found = {r["label"]: r for r in pipe(scene(), target=[Contrast("triangle", "cross"), "cross"])}
    contrast = found["triangle rather than cross"]
    pixels = processor()(images=scene(), return_tensors="pt")["pixel_values"]
    logits = model(pixels).logits[0]
    assert contrast["score"] == pytest.approx((logits[3] - logits[5]).item(), rel=1e-4)
    np.testing.assert_allclose(contrast["grid"], AGCAM(model).attribute(pixels, Contrast(3, 5))[0, 0], rtol=1e-5)
    assert found.keys() == {"triangle rather than cross", "cross"}
    assert same(pipe([scene()] * 2, target="triangle/cross", batch_size=2)[1], [contrast])


def test_a_method_of_captum(pipe: ImageAttributionPipeline, model: nn.Module):
    result = pipe(scene(), method="captum.attr:InputXGradient", target="cross")[0]
    pixels = processor()(images=scene(), return_tensors="pt")["pixel_values"].requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels).logits[0, 5], pixels)
    side = SIDE // result["grid"].shape[0]
    expected = (pixels * gradient).sum(1).unfold(1, side, side).unfold(2, side, side).sum((3, 4))[0].detach()
    np.testing.assert_allclose(result["grid"], expected, rtol=1e-3, atol=1e-5)
    assert result["grid"].min() < 0


def test_the_map_lies_where_the_model_looked(model: nn.Module):
    crop = BitImageProcessor(
        size={"shortest_edge": 80},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=sample.MEAN,
        image_std=sample.STD,
    )
    result = pipeline("image-attribution", model=model, image_processor=crop)(scene(size=(160, 100)), top_k=1)[0]
    seen = np.isfinite(result["map"])
    assert seen[10:90, 40:120].all()  # the middle 64 of 80 rows and of 128 columns
    assert seen.sum() == 80 * 80


def images() -> list[Image.Image]:
    return [scene(15, (300, 300)), scene(16, (90, 200)), scene(17, (400, 64))]


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return [r["label"] for r in a] == [r["label"] for r in b] and all(
        np.allclose(x["grid"], y["grid"], rtol=1e-4, atol=1e-6) and x["overlay"].size == y["overlay"].size
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("method", ["agcam", "daam", "rollout"])
def test_lists_generators_and_datasets(pipe: ImageAttributionPipeline, batch_size: int, method: str):
    ask: dict[str, Any] = {"method": method, "top_k": 2, "batch_size": batch_size}
    singles = [pipe(image, method=method, top_k=2) for image in images()]
    generated = pipe((image for image in images()), **ask)
    assert isinstance(generated, Iterator)
    rows = [{"image": image, "label": 0} for image in images()]
    for several in (pipe(images(), **ask), list(generated), list(pipe(KeyDataset(rows, "image"), **ask))):
        assert len(several) == 3
        assert all(same(a, b) for a, b in zip(several, singles, strict=True))


def test_other_images(pipe: ImageAttributionPipeline, tmp_path: Path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    scene(size=(280, 200)).save(path, exif=exif)
    assert pipe(str(path), top_k=1)[0]["overlay"].size == (200, 280)
    grey = Image.fromarray(np.asarray(scene().convert("L")))
    assert pipe(grey, top_k=1)[0]["overlay"].mode == "RGB"
    assert pipe(np.asarray(scene(size=(30, 20))), top_k=1)[0]["map"].shape == (20, 30)


def test_options_at_call_time(pipe: ImageAttributionPipeline):
    plain, cut = (pipe(scene(), method="rollout", top_k=1, **o)[0] for o in ({}, {"discard_ratio": 0.9}))
    assert not np.allclose(plain["grid"], cut["grid"])
    clear = pipe(scene(), method="rollout", top_k=1, look=Look(alpha=0))[0]["overlay"]
    assert np.asarray(clear).std(-1).max() == 0  # the photograph alone, in grey
    assert len(pipe(scene(), top_k=None)) == len(sample.CLASSES)
    assert pipe(scene(), target="cross", function_to_apply="none")[0]["score"] > 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "agcm"}, OptionError, "no method 'agcm'; there are agcam, .*daam, .*; nearest: agcam"),
        ({"method": "rollout", "fussion": "max"}, OptionError, "has no option 'fussion'; it has: fusion"),
        ({"target": "crss"}, TargetError, "no class 'crss' in 'ViTForImageClassification'; it has .*nearest: cross"),
        ({"target": [0, 8]}, TargetError, "target 8 is out of range: .* has 0 to 7"),
    ],
)
def test_what_cannot_be_had(pipe: ImageAttributionPipeline, options: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        pipe(scene(), **options)


def test_the_model_is_left_as_it_was(pipe: ImageAttributionPipeline, model: nn.Module):
    before = fingerprint(model)
    state = torch.get_rng_state()
    for method in in_all():
        pipe(images(), method=method, top_k=2, batch_size=2)
    torch.set_rng_state(state)  # the DataLoader of every pipeline draws a seed
    assert fingerprint(model) == before


def test_half_precision_and_eager_attention():
    config = ViTConfig(**sample.hf_config(), attn_implementation="eager")
    model = ViTForImageClassification(config).eval()
    model.load_state_dict(sample.state_dict("transformers"))
    exact = pipeline("image-attribution", model=model, image_processor=processor())(scene(), top_k=1)[0]
    half = pipeline("image-attribution", model=build("transformers").bfloat16(), image_processor=processor())
    result = half(scene(), top_k=1)[0]
    assert exact["label"] == result["label"]
    assert np.corrcoef(exact["grid"].ravel(), result["grid"].astype(float).ravel())[0, 1] > 0.95
    assert model.config._attn_implementation == "eager"


def test_for_a_classification_pipeline_that_is_there(model: nn.Module):
    classify = pipeline("image-classification", model=model, image_processor=processor(), batch_size=2)
    attribute = explainer(classify)
    assert attribute.model is classify.model
    assert attribute.image_processor is classify.image_processor
    assert attribute.device == classify.device
    assert attribute._batch_size == 2
    results = attribute(scene())
    assert_scores(results, classify(scene()))


def test_saving_the_pipeline_is_not_disturbed(pipe: ImageAttributionPipeline, tmp_path: Path):
    pipe.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    again = pipeline("image-attribution", model=str(tmp_path))
    assert same(again(scene(), top_k=2), pipe(scene(), top_k=2))


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_captum_vit_registers_it_where_transformers_is():
    known = "from transformers.pipelines import PIPELINE_REGISTRY as r; print('image-attribution' in r.supported_tasks)"
    assert run(f"import transformers, captum_vit; {known}") == "True\n"
    assert run(f"import captum_vit; {known}") == "False\n"
    assert run(f"import captum_vit.pipelines; {known}") == "True\n"


def test_the_class_leaves_no_trace_of_its_registration():
    assert not hasattr(ImageAttributionPipeline, "_registered_impl")
    implementation = pipeline.__globals__["PIPELINE_REGISTRY"].check_task("image-attribution")[1]
    assert implementation["impl"] is ImageAttributionPipeline
    assert implementation["pt"][0] is AutoModelForImageClassification  # the others are for dense models


def test_maps_are_plain_arrays(pipe: ImageAttributionPipeline):
    result = pipe(scene(), top_k=1)[0]
    assert set(result) == {"label", "score", "map", "grid", "overlay", "flat"}
    assert result["map"].dtype == result["grid"].dtype == np.float32
    assert not torch.is_tensor(result["grid"])


def saturated(problem: str | None, logits: list[float], names: dict[int, str]) -> ImageAttributionPipeline:
    """A model whose logits are constants, but for a small share of the image."""
    options = {**sample.hf_config(), "problem_type": problem, "id2label": names, "label2id": {}}
    model = ViTForImageClassification(ViTConfig(**options, num_labels=len(logits))).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(1e-3)
        model.classifier.bias.copy_(torch.tensor(logits))
    return pipeline("image-attribution", model=model, image_processor=processor())


@pytest.mark.parametrize(
    ("problem", "logits"), [("multi_label_classification", [20.0, 30.0, 1.0]), (None, [-110.0, -105.0, 10.0])]
)
def test_labels_stay_with_their_maps_where_scores_tie(problem: str | None, logits: list[float]):
    pipe = saturated(problem, logits, {0: "a", 1: "b", 2: "c"})
    assert [pipe(scene(), target=i)[0]["label"] for i in range(3)] == ["a", "b", "c"]


def test_labels_that_have_the_same_name():
    pipe = saturated("multi_label_classification", [2.0, -2.0, 0.0], {0: "crane", 1: "crane", 2: "c"})
    scores = [pipe(scene(), target=i)[0]["score"] for i in range(3)]
    assert scores == pytest.approx([0.88, 0.12, 0.5], abs=0.02)


def test_smaller_maps_and_overlays(pipe: ImageAttributionPipeline):
    small = pipe(scene(size=(280, 200)), max_side=70, top_k=2, method="rollout")
    assert small[0]["overlay"].size == (70, 50)
    assert small[0]["map"].shape == (50, 70)
    assert small[0]["map"] is small[1]["map"]  # one for all classes


def test_files_are_read_as_everywhere_here(pipe: ImageAttributionPipeline, tmp_path: Path, model: nn.Module):
    """A grey image of 16 bits, which Pillow alone would clip to white."""
    grey = np.asarray(scene().convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "x.png")
    result = pipe(str(tmp_path / "x.png"), top_k=1)[0]
    found = explain(tmp_path / "x.png", model, target=result["label"], preprocess=processor())
    np.testing.assert_allclose(result["grid"], found.maps[0, 0], rtol=1e-5, atol=1e-8)


def test_layers_are_chosen(pipe: ImageAttributionPipeline, model: nn.Module):
    last = pipe(scene(), layer=-1, method="daam", target="cross")[0]["grid"]
    found = explain(scene(), model, "daam", "cross", layer=-1, preprocess=processor())
    np.testing.assert_allclose(last, found.maps[0, 0], rtol=1e-5, atol=1e-8)
    assert not np.allclose(last, pipe(scene(), method="daam", target="cross")[0]["grid"])


def test_what_is_no_pipeline():
    with pytest.raises(InputError, match="expected a pipeline for image classification, got str: make one by"):
        explainer("model")
    with pytest.raises(OptionError, match="no method"):
        pipeline("image-attribution", model=build("transformers"), image_processor=processor(), method=["agcam"])


def test_a_verdict_beside_each_map(pipe: ImageAttributionPipeline):
    """Of each image the same, whatever stands beside it; nothing where it was not asked."""
    images = [scene(), scene(seed=16)]
    together = pipe(images, verdict=True, top_k=2, batch_size=2)
    for image, results in zip(images, together, strict=True):
        alone = pipe(image, verdict=True, top_k=2)
        for one, other in zip(results, alone, strict=True):
            assert one["verdict"].of == one["label"]
            assert one["verdict"].score == pytest.approx(one["score"], abs=1e-5)
            assert one["verdict"].finding == other["verdict"].finding
            assert one["verdict"].without_map == pytest.approx(other["verdict"].without_map, abs=1e-4)
    first, second = (each["verdict"] for each in together[0])
    assert (first.second, second.second) == (second.of, first.of)
    assert "verdict" not in pipe(images[0])[0]
    general = pipe(images[0], method="rollout", verdict=True, top_k=2)
    assert general[0]["verdict"] == general[1]["verdict"]
    assert general[0]["verdict"].for_all
