"""Reading weights that nobody has checked, out of whatever training leaves behind."""

import argparse
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BitImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from captum_vit import sample, weight_files
from captum_vit.checkpoints import Checkpoint, load_weights, read_checkpoint
from captum_vit.errors import ModelLoadError
from captum_vit.models import LoadedModel, load_model


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class Hidden(Evil):
    """The same, behind a function of a module that nobody would think of."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(Evil(self.mark)),)


class Settings(dict):
    """A dictionary with attributes, as Lightning has one."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.note = "attribute"


def check_unreadable(path: Path, message: str) -> None:
    with pytest.raises(ModelLoadError) as error:
        read_checkpoint(path)
    assert message in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


# --- what a file is


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path):
    torch.save({"weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    check_unreadable(tmp_path / "evil.pth", "could run any code: refused")
    torch.save({"state_dict": weights(), "x": Evil(tmp_path / "ran")}, tmp_path / "beside.pth")
    check_unreadable(tmp_path / "beside.pth", "names posix.system, a function, and unpickling those could run any code")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    check_unreadable(tmp_path / "evil.pkl", "could run any code: refused")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    check_unreadable(tmp_path / "module.pth", "could run any code: refused")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "inside.pth")
    check_unreadable(tmp_path / "inside.pth", "could run any code: refused")
    assert not (tmp_path / "ran").exists()


def test_what_is_left_unopened_is_never_run(tmp_path: Path):
    torch.save({"state_dict": weights(), "x": Hidden(tmp_path / "ran")}, tmp_path / "w.ckpt")
    assert same(read_checkpoint(tmp_path / "w.ckpt").weights, weights())
    assert not (tmp_path / "ran").exists()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: every class and function is imported")
def test_a_reader_that_imports_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_files._TensorsAlone, "find_class", pickle.Unpickler.find_class)
    test_what_is_left_unopened_is_never_run(tmp_path)


def test_files_that_are_no_checkpoints(tmp_path: Path):
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-50])
    check_unreadable(tmp_path / "cut.safetensors", "is damaged or cut off")
    torch.save({"a": torch.zeros(100)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-300])
    check_unreadable(tmp_path / "cut.pth", "is damaged or cut off, as by a download that broke off")
    torch.save({"a": torch.zeros(100)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:-300])
    check_unreadable(tmp_path / "old.pth", "is damaged or cut off")
    (tmp_path / "empty.pth").touch()
    check_unreadable(tmp_path / "empty.pth", "is empty (0 bytes)")
    check_unreadable(tmp_path / "nothing.pth", "No such file or directory")
    check_unreadable(tmp_path, "Is a directory")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    check_unreadable(tmp_path / "list.pth", "holds list, not weights by name")


TEXTS = {
    "Dear reader, this is a letter.": "is text, neither safetensors nor written by torch.save",
    "\n<!DOCTYPE html><html><body>Sign in</body></html>": "is a web page, as of a login or an error",
    "<html><title>404</title></html>": "download the file itself",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "is a pointer of Git LFS",
    '{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}': "that a JSON file beside it lists",
}


@pytest.mark.parametrize(("text", "message"), TEXTS.items(), ids=range(len(TEXTS)))
def test_text_instead_of_weights(text: str, message: str, tmp_path: Path):
    (tmp_path / "w.pth").write_text(text)
    check_unreadable(tmp_path / "w.pth", message)


def test_archives_instead_of_weights(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("cat.jpg", b"...")
    check_unreadable(tmp_path / "photos.pth", "is a zip archive of other files (cat.jpg)")
    np.savez(tmp_path / "jax.npz", a=np.zeros(3))
    check_unreadable(tmp_path / "jax.npz", "holds arrays of NumPy (.npz), as JAX's models come")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "traced.pt")
    check_unreadable(tmp_path / "traced.pt", "is a traced model (TorchScript)")
    (tmp_path / "w.pth.gz").write_bytes(b"\x1f\x8b" + bytes(range(100)))
    check_unreadable(tmp_path / "w.pth.gz", "is a packed archive: unpack it")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    check_unreadable(tmp_path / "keras.h5", "is an HDF5 file, as Keras writes them")
    (tmp_path / "noise.pth").write_bytes(bytes(range(128, 256)))
    check_unreadable(tmp_path / "noise.pth", "is damaged or cut off, or no file of torch.save")


# --- what stands around the weights


def weights(seed: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model("test_vit", **{"num_classes": 5, **options}).state_dict()


def prefixed(prefix: str, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in found.items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def loaded(content: Any, folder: Path, **options: Any) -> LoadedModel:
    torch.save(content, folder / "w.ckpt")
    return load_model("timm/test_vit", checkpoint=folder / "w.ckpt", **options)


PREFIXES = (
    "model.",
    "module.",
    "_orig_mod.",
    "backbone.",
    "teacher.",
    "module.backbone.",
    "net.encoder.",
    "_orig_mod.module.model.",
    "any.name_1.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_all_names(prefix: str, tmp_path: Path):
    found = loaded(prefixed(prefix, weights()), tmp_path)
    assert same(found.model.state_dict(), weights())
    count = len(weights())
    assert found.notes == (f"checkpoint: {prefix!r} is taken off {count} names",)


def test_what_stands_beside_the_prefix_is_told(tmp_path: Path):
    found = loaded({**prefixed("model.", weights()), "loss.weight": torch.ones(5)}, tmp_path)
    assert found.notes[0].endswith("; left out, without it: 1 (loss.weight)")
    torch.save({**weights(), "loss.weight": torch.ones(5)}, tmp_path / "w.pth")  # beside the model's own names
    with pytest.raises(ModelLoadError, match=r"1 keys differ.*1 not in the model \(loss.weight\)"):
        load_model("timm/test_vit", checkpoint=tmp_path / "w.pth")


def test_two_models_under_prefixes_are_no_guess(tmp_path: Path):
    both = {**prefixed("student.backbone.", weights(1)), **prefixed("teacher.backbone.", weights(2))}
    with pytest.raises(ModelLoadError, match=r"several times, under student.backbone., teacher.backbone.: choose one"):
        loaded(both, tmp_path)
    for seed, key in ((1, "student"), (2, "teacher"), (2, "teacher.backbone")):
        assert same(loaded(both, tmp_path, checkpoint_key=key).model.state_dict(), weights(seed))


def test_other_weights_keep_their_names(tmp_path: Path):
    with pytest.raises(ModelLoadError, match=r"1 not in the model \(x.y\)"):
        loaded({"blocks.0.norm1.weight": torch.ones(64), "norm.weight": torch.ones(64), "x.y": torch.ones(1)}, tmp_path)


NESTED = {
    "by Lightning": lambda w: {"state_dict": prefixed("model.", w), "epoch": 3, "optimizer_states": [{"state": {}}]},
    "deep": lambda w: {"a": {"b": {"c": {"weights": w}}}},
    "beside an optimizer": lambda w: {"net": w, "optimizer": {"state": {"blocks.0": {"exp_avg.x": w["cls_token"]}}}},
    "flat, beside numbers": lambda w: {**w, "epoch": 3, "best": 0.5},
    "parameters": lambda w: {"model": {name: nn.Parameter(value) for name, value in w.items()}},
}


@pytest.mark.parametrize("wrap", NESTED.values(), ids=NESTED)
def test_dictionaries_are_searched(wrap: Any, tmp_path: Path):
    assert same(loaded(wrap(weights()), tmp_path).model.state_dict(), weights())


def test_of_several_the_preferred_one_is_told(tmp_path: Path):
    several = {"state_dict_ema": weights(2), "state_dict": weights(1), "model_ema": weights(3)}
    found = loaded(several, tmp_path)
    assert same(found.model.state_dict(), weights(1))
    assert found.notes == (
        "checkpoint: 'state_dict' of several sets of weights is taken; it also has 'state_dict_ema', 'model_ema': "
        "checkpoint_key='state_dict_ema' (--checkpoint-key) would take that",
    )
    assert same(loaded(several, tmp_path, checkpoint_key="model_ema").model.state_dict(), weights(3))
    dino = {"student": prefixed("module.backbone.", weights(1)), "teacher": prefixed("backbone.", weights(2))}
    assert same(loaded(dino, tmp_path).model.state_dict(), weights(2))
    assert same(loaded(dino, tmp_path, checkpoint_key="student").model.state_dict(), weights(1))


def test_several_without_a_preferred_one(tmp_path: Path):
    gan = {"generator": weights(1), "critic": weights(2)}
    with pytest.raises(ModelLoadError, match=r"several sets of weights: 'generator', 'critic': choose one by"):
        loaded(gan, tmp_path)
    assert same(loaded(gan, tmp_path, checkpoint_key="critic").model.state_dict(), weights(2))
    with pytest.raises(ModelLoadError, match=r"no weights under 'critik'; it has .*nearest: critic"):
        loaded(gan, tmp_path, checkpoint_key="critik")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_lightnings_objects_are_left_unopened(new: bool, tmp_path: Path):
    content = {
        "state_dict": prefixed("model.", weights()),
        "hyper_parameters": Settings(lr=0.1, path=Path("/data"), args=argparse.Namespace(a=[1, {"b": np.float64(2)}])),
        "loss": nn.CrossEntropyLoss(weight=torch.ones(5)),
        "callbacks": {"best": np.float32(0.5), "path": Path("x"), "made": Settings},
    }
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=new)
    found = load_model("timm/test_vit", checkpoint=tmp_path / "w.ckpt")
    assert same(found.model.state_dict(), weights())
    assert found.notes[0] == "checkpoint: objects that are no tensors are left unopened (hyper_parameters, loss)"


def test_a_checkpoint_that_does_not_fit():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = {"0.weight": torch.zeros(3, 5), "0.bias": torch.ones(3), "a": torch.zeros(1), "b": torch.zeros(1)}
    before = model[0].bias.clone()
    with pytest.raises(ModelLoadError) as error:
        load_weights(model, Checkpoint(weights))
    assert str(error.value) == (
        "the checkpoint does not fit Sequential: 5 keys differ, of 4 in the model: 2 missing (1.weight, 1.bias); "
        "2 not in the model (a, b); 1 of another shape (0.weight is (3, 5) and should be (3, 2))"
    )
    assert torch.equal(model[0].bias, before)


def test_weights_that_are_no_ordinary_numbers(tmp_path: Path):
    def altered(change: Any) -> dict[str, torch.Tensor]:
        return {**weights(), "head.weight": change(weights()["head.weight"].clone())}

    with pytest.raises(ModelLoadError, match=r"holds NaN in 1 of 80 weights \(head.weight\): its training has failed"):
        loaded(altered(lambda w: w.index_fill_(0, torch.tensor(2), torch.nan)), tmp_path)
    with pytest.raises(ModelLoadError, match=r"1 of 80 weights that are sparse \(head.weight\): save head.weight as"):
        loaded(altered(torch.Tensor.to_sparse), tmp_path)
    with pytest.raises(ModelLoadError, match=r"1 of 80 weights that are without values \(on the meta device\)"):
        loaded(altered(lambda w: w.to("meta")), tmp_path)
    with pytest.raises(ModelLoadError, match=r"is of a quantised model: give the weights before they were quantised"):
        loaded({**weights(), "head.zero_point": torch.zeros(1)}, tmp_path)
    beside = {**prefixed("model.", weights()), "loss.weight": torch.tensor([torch.nan])}
    assert same(loaded(beside, tmp_path).model.state_dict(), weights())  # what the model does not get is its affair
    few_bits = altered(lambda w: w.to(torch.float8_e4m3fn))
    assert torch.equal(loaded(few_bits, tmp_path).model.head.weight, few_bits["head.weight"].float())


# --- another size


def test_position_embeddings_of_another_size(tmp_path: Path):
    larger = weights(img_size=224)
    with pytest.raises(
        ModelLoadError, match=r"of another image size: 197 tokens and test_vit has 101 tokens: pass img_"
    ):
        loaded(larger, tmp_path)
    with pytest.raises(ModelLoadError, match=r"pass img_size=224 \(--img-size 224\), as it was trained"):
        loaded(larger, tmp_path)
    as_trained = loaded(larger, tmp_path, img_size=224)
    assert same(as_trained.model.state_dict(), larger)
    assert as_trained.preprocess.view((500, 300)).size == (224, 224)
    assert not as_trained.notes
    smaller = loaded(larger, tmp_path, img_size=160)
    expected = timm.layers.resample_abs_pos_embed(larger["pos_embed"], new_size=[10, 10], num_prefix_tokens=1)
    assert torch.equal(smaller.model.pos_embed, expected)
    assert smaller.notes == ("checkpoint: position embeddings are interpolated by timm from 197 tokens to 101 tokens",)


def test_a_size_without_a_checkpoint():
    found = load_model("timm/test_vit", pretrained=False, img_size=96)
    assert found.preprocess.view((500, 300)).size == (96, 96)
    assert found.model(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    with pytest.raises(ModelLoadError, match=r"timm cannot build 'test_vit' for images of 7 pixels"):
        load_model("timm/test_vit", pretrained=False, img_size=7)


# --- Hugging Face

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


def hf_folder(folder: Path, labels: int = 3) -> str:
    config = ViTConfig(**SMALL, image_size=32, patch_size=8, id2label={i: f"kind {i}" for i in range(labels)})
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"hf/{folder}"


def test_hugging_faces_names_before_version_5(tmp_path: Path):
    """As transformers 4 wrote them, and behind a prefix."""
    spec = hf_folder(tmp_path / "model")
    expected = load_model(spec).model.state_dict()
    old = {}
    for name, value in expected.items():
        for new, before in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{new}", f"attention.attention.{before}")
        name = name.replace("attention.o_proj", "attention.output.dense")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        old[name.replace("vit.layers.", "vit.encoder.layer.")] = value
    torch.save({"state_dict": prefixed("model.", old)}, tmp_path / "w.ckpt")
    found = load_model(spec, checkpoint=tmp_path / "w.ckpt")
    assert same(found.model.state_dict(), expected)


def test_hugging_faces_position_embeddings_of_another_size(tmp_path: Path):
    spec = hf_folder(tmp_path / "model")
    larger = ViTForImageClassification(ViTConfig(**SMALL, image_size=64, patch_size=8, num_labels=3)).eval()
    save_file(larger.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        ModelLoadError, match=r"65 tokens, and the configuration, for images of 32, has 17: pass img_size=64 \("
    ):
        load_model(spec, checkpoint=tmp_path / "w.safetensors")
    found = load_model(spec, checkpoint=tmp_path / "w.safetensors", img_size=64)
    assert same(found.model.state_dict(), larger.state_dict())
    assert found.preprocess.view((500, 300)).size == (64, 64)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found.model(images).logits, larger(images).logits)
    with pytest.raises(ModelLoadError, match=r"img_size=64: the weights of .* are for images of 32, and transformers"):
        load_model(spec, img_size=64)
    with pytest.raises(ModelLoadError, match=r"img_size is the side of the images in pixels, got 0"):
        load_model(spec, pretrained=False, img_size=0)


def test_an_image_processor_that_crops_follows_the_size(tmp_path: Path):
    hf_folder(tmp_path / "model")
    cropping = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    cropping.save_pretrained(tmp_path / "model")
    view = load_model(f"hf/{tmp_path / 'model'}", pretrained=False, img_size=64).preprocess.view((200, 100))
    assert view.size == (64, 64)
    assert view.scale == pytest.approx((0.8, 0.8), abs=1e-6)  # the shorter side to 80


def test_a_classifier_of_another_size(tmp_path: Path):
    spec = hf_folder(tmp_path / "model")
    other = load_model(hf_folder(tmp_path / "other", labels=5)).model
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    found = load_model(spec, checkpoint=tmp_path / "w.safetensors")
    assert same(found.model.state_dict(), other.state_dict())
    assert found.class_names == {}  # the folder's three are those of other classes
    assert found.notes == ("checkpoint: its classifier has 5 classes, the configuration 3: they have no names",)
    save_file(sample.state_dict(), tmp_path / "timm.safetensors")
    with pytest.raises(ModelLoadError, match=r"does not fit ViTForImageClassification: \d+ keys differ"):
        load_model(spec, checkpoint=tmp_path / "timm.safetensors")
