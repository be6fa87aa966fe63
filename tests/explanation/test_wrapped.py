"""A model inside somebody's own module keeps its preprocessing and its names, where that module passes them on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from captum_vit import explain, wrapped
from captum_vit.access import adapt
from captum_vit.errors import PreprocessingError, TargetError
from captum_vit.wrapped import look_inside

NAMES = {i: f"finding {i}" for i in range(4)}


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))


def vit(classes: int = 4) -> Any:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=classes).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": list(NAMES.values())}
    return model


def hf(problem: str | None = None) -> ViTForImageClassification:
    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = ViTConfig(**small, image_size=32, patch_size=8, id2label=NAMES, problem_type=problem)
    model = ViTForImageClassification(config).eval()
    nn.init.normal_(model.classifier.weight)
    return model


class Lit(nn.Module):
    """As a LightningModule stands around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Probe(nn.Module):
    """A linear probe with as many classes as the head it leaves out."""

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        self.backbone, self.fc = model, nn.Linear(64, classes)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone.forward_head(self.backbone.forward_features(x), pre_logits=True))


class Changed(Lit):
    """Normalises by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - 0.5) / 0.5)


class Permuted(Lit):
    """As many scores as its model has, and other ones."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, [1, 0, 3, 2]]


class Colder(Lit):
    """With a temperature."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / 2.5


SAME = {
    "by itself": lambda model: model,
    "as Lightning has it": Lit,
    "two deep": lambda model: Lit(Lit(model)),
    "in a sequence": nn.Sequential,
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "DataParallel of Lightning's": lambda model: nn.DataParallel(Lit(model)),
    "with a temperature": Colder,
}


@pytest.mark.parametrize("wrap", SAME.values(), ids=SAME)
def test_names_and_preprocessing_are_those_inside(wrap: Any):
    model = vit()
    expected, found = explain(photo(), model), explain(photo(), wrap(model))
    assert found.view == expected.view
    assert [label.name for label in found.labels] == [label.name for label in expected.labels]
    torch.testing.assert_close(explain(photo(), wrap(model), "rollout").maps, explain(photo(), model, "rollout").maps)
    assert explain(photo(), wrap(model), target="finding 3").targets[0].index == 3


OTHERS = {
    "a linear probe with other classes": lambda: Probe(vit(), 3),
    "a linear probe with as many classes": lambda: Probe(vit(), 4),
    "another head behind": lambda: nn.Sequential(vit(), nn.Linear(4, 2)).eval(),
    "a head of as many classes behind": lambda: nn.Sequential(vit(), nn.Linear(4, 4)).eval(),
    "permuted": lambda: Permuted(vit()),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_scores_are_not_called_by_the_names_inside(make: Any):
    torch.manual_seed(1)
    model = make()
    found = explain(photo(), model)
    assert {label.name for label in found.labels} == {""}
    assert any("are not used, since its scores are not those of the whole: class_names=" in n for n in found.notes)
    assert found.view == explain(photo(), vit()).view  # the images are passed on as they are
    with pytest.raises(TargetError, match="its classes have no names"):
        explain(photo(), model, target="finding 3")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: as many scores count as the same")
def test_scores_that_are_only_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wrapped, "_relation", lambda outer, inner: "same" if outer.shape == inner.shape else "others")
    test_other_scores_are_not_called_by_the_names_inside(OTHERS["permuted"])


def test_a_wrapper_that_changes_images_needs_a_preprocessing():
    with pytest.raises(
        PreprocessingError, match=r"Changed changes the images before the VisionTransformer inside it \(m"
    ):
        explain(photo(), Changed(vit()))
    found = explain(torch.rand(3, 160, 160), Changed(vit()))
    assert found.labels[0].name.startswith("finding")


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="broken on purpose: images are not compared")
def test_images_that_are_not_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wrapped, "_same_images", lambda images, pixels: True)
    test_a_wrapper_that_changes_images_needs_a_preprocessing()


def test_where_the_preprocessing_comes_from_is_told():
    (note,) = (n for n in explain(photo(), Lit(vit())).notes if n.startswith("preprocessing: "))
    assert note.startswith("preprocessing: timm's for test_vit, which stands inside Lit (model) (shorter side to 168")
    assert "unless" not in note


def test_a_look_inside_leaves_no_trace():
    model = Lit(vit()).train()
    adapter = adapt(model)
    state = torch.get_rng_state()
    inside = look_inside(adapter)
    assert (inside.same_images, inside.outputs) == (True, "same")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_probabilities_of_a_wrapper_are_shown_as_they_are():
    model = vit()
    soft = explain(photo(), nn.Sequential(model, nn.Softmax(-1)))
    expected = explain(photo(), model)
    assert [(x.name, round(x.score, 5)) for x in soft.labels] == [(x.name, round(x.score, 5)) for x in expected.labels]
    assert any(note.startswith("outputs are probabilities (0..1, with a sum of 1)") for note in soft.notes)
    assert not any("probabilities" in note for note in expected.notes)


# --- Hugging Face


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's
@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
@pytest.mark.parametrize("wrap", [Lit, "peft"])
def test_names_and_kind_of_scores_of_a_configuration(wrap: Any, problem: str | None):
    base = hf(problem)
    ask = {"preprocess": ViTImageProcessor(size={"height": 32, "width": 32})}
    expected = explain(photo(), base, **ask).labels
    if wrap == "peft":
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    else:
        model = Logits(base)
    found = explain(photo(), model, **ask).labels
    assert [label.name for label in found] == [label.name for label in expected]
    assert [label.score for label in found] == pytest.approx([label.score for label in expected], abs=1e-5)
    assert explain(photo(), model, target="finding 3", **ask).targets[0].index == 3


class Logits(Lit):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def test_the_processor_in_a_models_own_folder(tmp_path: Path):
    hf().save_pretrained(tmp_path)
    model = ViTForImageClassification.from_pretrained(tmp_path).eval()
    advice = r"pass preprocess=AutoImageProcessor.from_pretrained\('.*test_the_processor_in_a_models.*'\)"
    with pytest.raises(PreprocessingError, match=advice):
        explain(photo(), model)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    for each in (model, Logits(model)):
        found = explain(photo(), each)
        torch.testing.assert_close(found.maps, explain(photo(), each, preprocess=processor).maps)
        assert any("ViTImageProcessor" in note and "folder" in note for note in found.notes)
    with pytest.raises(PreprocessingError, match=r"from_pretrained\('FOLDER OR ID OF THE MODEL'\)"):
        explain(photo(), hf())
