"""Loading models by name: the loaders, their preprocessing, and what a bad name or checkpoint is told."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)
from transformers.utils import logging

from captum_vit import explain, sample
from captum_vit.adapters import hub
from captum_vit.errors import ModelLoadError, OptionError
from captum_vit.models import LoadedModel, load_model

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def fails(spec: str, message: str, **options: Any) -> None:
    with pytest.raises(ModelLoadError) as error:
        load_model(spec, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def saved(folder: Path, model: Any, processor: Any = None) -> str:
    model.save_pretrained(folder)
    (processor or ViTImageProcessor(size={"height": 32, "width": 32})).save_pretrained(folder)
    return f"hf/{folder}"


# --- models of one's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody's with models in it; a new name each time, as Python keeps what it has imported."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import timm, torch\n"
        "class Probe(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.vit = timm.create_model('test_vit', num_classes=3)\n"
        "    def forward(self, images):\n"
        "        return self.vit(images)\n"
        "def make(): return Probe()\n"
        "def needs(path): return Probe()\n"
        "made = Probe()\n"
        "number = 3\n"
    )
    (tmp_path / f"{name}_script.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_model_of_ones_own(own: str, tmp_path: Path):
    for found in ("Probe", "make", "made"):
        model = load_model(f"{own}:{found}").model
        assert (type(model).__name__, model.training) == ("Probe", False)
    weights = {f"model.{name}": torch.randn_like(value) for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.ckpt")
    found = load_model(f"{own}:make", checkpoint=tmp_path / "w.ckpt")
    assert all(torch.equal(value, weights[f"model.{name}"]) for name, value in found.model.state_dict().items())
    explained = explain(Image.new("RGB", (200, 160), "grey"), found, method="agcam")
    assert (explained.model, explained.grid) == (f"{own}:make", (10, 10))
    assert any("stands inside Probe (vit)" in note for note in explained.notes)  # timm's preprocessing


def test_what_is_no_model_of_ones_own(own: str):
    fails(f"{own}:number", f"'{own}:number' must be a torch.nn.Module, a LoadedModel, or a class or function")
    fails(f"{own}:needs", "fails where it is called without arguments (TypeError: needs() missing 1 required")
    fails(f"{own}:make", "models of module:object have no option 'pretrained'", pretrained=False)
    fails("hf:make", "unknown model 'hf:make': a name begins with hf, open_clip, sample, timm, or is module:object")
    for path, message in {
        f"{own}:mad": f"cannot import '{own}:mad': {own} has no 'mad'; nearest: made, make",
        f"{own}_script:net": "its code ends in SystemExit: 3",
        "nothing_here:net": "cannot import 'nothing_here:net': No module named 'nothing_here'",
    }.items():
        with pytest.raises(OptionError, match=re.escape(message)):
            load_model(path)


# --- names


def test_an_unknown_loader():
    fails(
        "tim/vit_tiny_patch16_224",
        "unknown model 'tim/vit_tiny_patch16_224': a name begins with hf, open_clip, sample, timm",
    )
    fails("tim/vit_tiny_patch16_224", "; did you mean 'timm/vit_tiny_patch16_224'?")
    fails("tim", "nearest: timm")
    fails("", "unknown model ''")
    fails("runs/last.ckpt", "that is a file of weights, for a model that has a name too")
    fails("runs/last.ckpt", "(--checkpoint runs/last.ckpt)")


def test_names_without_their_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fails("vit_base_patch16_224", "; did you mean 'timm/vit_base_patch16_224'?")
    fails("vit_base_patch16_224.augreg_in21k", "; did you mean 'timm/vit_base_patch16_224.augreg_in21k'?")
    fails("google/vit-base-patch16-224", "; did you mean 'hf/google/vit-base-patch16-224'?")
    saved(tmp_path / "hfvit", ViTForImageClassification(ViTConfig(**SMALL)))
    fails("hfvit", "; did you mean 'hf/hfvit'?")
    fails("transformers", "; did you mean 'sample/transformers'?")
    fails("photos/cat.jpg", "that is an image, and the image comes first, as explain(image, model)")
    with pytest.raises(ModelLoadError) as error:
        load_model("neither of them")
    assert "did you mean" not in str(error.value)


def test_unknown_names():
    fails("timm/vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224'; nearest: vit_tiny_patch16_224,")
    fails("timm/vit_tiny_patch16_224.augreg", "it has vit_tiny_patch16_224.augreg_in21k")
    fails("timm", "a model is timm/NAME")
    fails("hf", "a model is hf/FOLDER or hf/OWNER/NAME")
    fails(
        "sample/tim",
        "the sample is sample/timm, sample/transformers or sample/hard, got 'sample/tim'; nearest: sample/timm",
    )
    fails("timm/vit_small_patch16_36x1_224", "timm has no weights for 'vit_small_patch16_36x1_224'")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch):
    def build(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr("captum_vit.adapters.sample_vit.build", build)
    fails("sample", "needs the package 'timm', which is not installed: pip install 'captum-vit[all]'")


def test_options_that_a_loader_does_not_have():
    fails("sample", "models of sample have no option 'img_size'; they have checkpoint_key, pretrained", img_size=96)
    fails("timm/test_vit", "nearest: pretrained", pretrain=False)


def test_a_loaded_model_is_told_in_a_line():
    assert repr(load_model("sample")) == (
        "LoadedModel(sample: VisionTransformer of 0.7 M parameters; 8 named classes; preprocessing the sample's "
        "(squashed to 64 x 64, mean 0.5, std 0.5); the sample model knows drawn shapes alone; name a model for "
        "photographs)"
    )
    random = repr(load_model("timm/test_vit", pretrained=False))
    assert "of 0.4 M parameters, random ones; 1000 named classes; preprocessing timm's for test_vit (shorter" in random
    assert "\n" not in random


# --- the hub


class Hub:
    """A hub that answers every question with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def model_info(self, *_: Any, **__: Any) -> None:
        raise self.error


def refusal(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "refused")
    return error


@pytest.mark.parametrize("spec", ["timm/vit_tiny_patch16_224", "hf/google/vit-base-patch16-224"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Name or service not known"), "Hub does not answer (Name or service not known). Check the "),
        (refusal(RepositoryNotFoundError), "there is no model"),
        (refusal(GatedRepoError), "needs its owner's permission"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, spec: str, error: Exception, message: str):
    monkeypatch.setattr(hub, "HfApi", lambda: Hub(error))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    fails(spec, message)
    if isinstance(error, ConnectionError):
        instead = (
            "random ones" if spec.startswith("timm") else "or name a folder with a copy of the model, as hf/FOLDER"
        )
        fails(spec, instead)


def test_a_checkpoint_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "HfApi", lambda: pytest.fail("asked the hub"))
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "w.safetensors")
    assert load_model("timm/test_vit", checkpoint=tmp_path / "w.safetensors").model.num_classes == 7


# --- timm


def test_timm_with_a_checkpoint(tmp_path: Path):
    model = timm.create_model("test_vit", num_classes=5).eval()
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.pth")
    loaded = load_model("timm/test_vit", checkpoint=tmp_path / "w.pth")
    assert not loaded.model.training
    assert not loaded.class_names
    pixels = loaded.preprocess(Image.new("RGB", (300, 200), "red"))
    assert pixels.shape == (3, 160, 160)
    assert torch.equal(loaded.model(pixels[None]), model(pixels[None]))
    assert loaded.probabilities(loaded.model(pixels[None])).sum().item() == pytest.approx(1)


def test_timm_without_a_head_and_with_imagenets_classes(tmp_path: Path):
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    assert load_model("timm/test_vit", checkpoint=tmp_path / "w.safetensors").model.num_classes == 0
    assert load_model("timm/test_vit", pretrained=False).class_names[340] == "zebra"


# --- Hugging Face


def test_a_folder_of_save_pretrained(tmp_path: Path):
    model = ViTForImageClassification(ViTConfig(**SMALL, id2label={0: "cat", 1: "[red]dog"})).eval()
    loaded = load_model(saved(tmp_path, model))
    assert loaded.class_names == {0: "cat", 1: "[red]dog"}
    assert not loaded.multi_label
    pixels = loaded.preprocess(Image.new("RGB", (50, 70), "red"))
    assert pixels.shape == (3, 32, 32)
    assert torch.equal(loaded.model(pixels[None]).logits, model(pixels[None]).logits)


def test_other_kinds_of_folders(tmp_path: Path):
    backbone = load_model(saved(tmp_path / "dino", ViTModel(ViTConfig(**SMALL), add_pooling_layer=False)))
    assert type(backbone.model) is ViTModel
    assert not backbone.class_names
    teacher = load_model(saved(tmp_path / "deit", DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL))))
    assert type(teacher.model) is DeiTForImageClassificationWithTeacher
    config = ViTConfig(**SMALL, problem_type="multi_label_classification")
    assert load_model(saved(tmp_path / "multi", ViTForImageClassification(config))).multi_label


def test_folders_that_cannot_be_loaded(tmp_path: Path):
    fails(saved(tmp_path / "mae", ViTForMaskedImageModeling(ViTConfig(**SMALL))), "2 of its weights are missing")
    fails(f"hf/{tmp_path / 'nothing'}", "there is no folder")
    fails(f"hf/{tmp_path}", "holds no config.json")
    spec = saved(tmp_path / "good", ViTForImageClassification(ViTConfig(**SMALL)))
    weights = tmp_path / "good" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])
    fails(spec, "cannot load the model of")
    (tmp_path / "good" / "preprocessor_config.json").write_text("{")
    fails(spec, "cannot load the image processor of")
    (tmp_path / "good" / "config.json").write_text("{")
    fails(spec, "cannot load the configuration of")
    (tmp_path / "good" / "preprocessor_config.json").unlink()
    fails(spec, "holds no preprocessor_config.json: save the image processor there too")


def test_progress_bars_are_as_before(tmp_path: Path):
    spec = saved(tmp_path, ViTForImageClassification(ViTConfig(**SMALL)))
    for switch in (disable_progress_bars, enable_progress_bars):
        switch()
        before = are_progress_bars_disabled(), logging.is_progress_bar_enabled(), logging.get_verbosity()
        load_model(spec)
        assert (are_progress_bars_disabled(), logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_hf_with_a_checkpoint(tmp_path: Path):
    model = ViTForImageClassification(ViTConfig(**SMALL)).eval()
    spec = saved(tmp_path, ViTForImageClassification(ViTConfig(**SMALL)))
    save_file(model.state_dict(), tmp_path / "other.safetensors")
    loaded = load_model(spec, checkpoint=tmp_path / "other.safetensors")
    assert torch.equal(loaded.model.classifier.weight, model.classifier.weight)


# --- the sample


@pytest.mark.parametrize("spec", ["sample", "sample/timm", "sample/transformers"])
def test_the_sample_names_what_is_in_a_scene(spec: str):
    loaded = load_model(spec)
    scene = sample.draw_scene(15, objects=2, size=512)
    pixels = loaded.preprocess(Image.fromarray(scene.image))
    output = loaded.model(pixels[None])
    scores = loaded.probabilities(output if spec != "sample/transformers" else output.logits)[0]
    assert set(scores.topk(2).indices.tolist()) == set(scene.labels)
    assert loaded.multi_label
    assert loaded.class_names[scene.labels[0]] == sample.CLASSES[scene.labels[0]]
    assert loaded.preprocess.view((512, 300)).window == (0, 0, 512, 300)


def test_the_sample_with_random_weights_or_a_checkpoint():
    trained, random = load_model("sample").model, load_model("sample", pretrained=False).model
    assert not torch.equal(trained.head.weight, random.head.weight)
    again = load_model("sample", checkpoint=sample.WEIGHTS, pretrained=False).model
    assert torch.equal(trained.head.weight, again.head.weight)


def test_softmax_and_sigmoid():
    logits = torch.tensor([0.0, 0.0])
    single = LoadedModel(nn.Identity())
    several = LoadedModel(nn.Identity(), multi_label=True)
    assert single.probabilities(logits).tolist() == [0.5, 0.5]
    assert several.probabilities(logits + 30).tolist() == pytest.approx([1, 1])
