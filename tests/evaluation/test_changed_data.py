"""A run that was stopped goes on over the data and the model that it was begun with, and over no others."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_vit import Explainer, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.data import open_data
from captum_vit.data.content import content, difference
from captum_vit.errors import RunError
from captum_vit.evaluation import Evaluator, Plan, evaluate, read_rows, unchanged
from captum_vit.evaluation.modelling import describe_model, describe_preprocessing
from captum_vit.evaluation.shards import Shards
from captum_vit.metrics import Localization
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import Preprocessing, squashed
from tests.data import made


def folder_of_scenes(root: Path, *, columns: tuple[int, int] = (0, 48), brightness: int = 0) -> Path:
    """Four images of two classes, each with a mask of some columns."""
    for name in ("disc", "cross"):
        for seed in range(2):
            pixels = sample.draw_scene(seed, objects=2, size=96).image // 2 + np.uint8(brightness)
            mask = np.zeros((96, 96), np.uint8)
            mask[:, slice(*columns)] = 255
            for kind, drawn in (("images", pixels), ("masks", mask)):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn).save(root / kind / name / f"{seed}.png")
    return root


def plan(data: Path, **options: Any) -> Plan:
    return Plan(data=f"folder:{data}", methods=("gaussian",), **options)


def half(what: Any, out: Path) -> None:
    """A run of which the second half is missing."""
    evaluate(what, out, shard=2)
    for shard in sorted(out.glob("rows-*"))[1:]:
        shard.unlink()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "masks": (lambda root: folder_of_scenes(root, columns=(48, 96)), "the annotation of 'cross/0/cross' is another"),
    "images": (lambda root: folder_of_scenes(root, brightness=9), "the image of 'cross/0/cross' is another"),
    "both": (
        lambda root: folder_of_scenes(root, columns=(1, 2), brightness=9),
        "the image and annotation of 'cross/0/cross' is another",
    ),
    "damaged": (lambda root: made.truncated(root / "images/cross/0.png"), "item 0 cannot be read any more: .*damaged"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_over_other_data(tmp_path: Path, change: str):
    data = folder_of_scenes(tmp_path / "data")
    half(plan(data), tmp_path / "run")
    alter, message = CHANGES[change]
    alter(data)
    for retry in (False, True):
        with pytest.raises(RunError, match=f"is not what it was when this run's rows were made: {message}"):
            evaluate(plan(data), tmp_path / "run", shard=2, retry=retry)
    assert len(list((tmp_path / "run").glob("rows-*"))) == 1


def test_without_the_check_the_data_would_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A wrong twin, which knows data by its ids alone."""
    data = folder_of_scenes(tmp_path / "data")
    half(plan(data), tmp_path / "run")
    folder_of_scenes(data, columns=(48, 96))
    monkeypatch.setattr("captum_vit.evaluation.runs.check_unchanged", lambda *_: None)
    evaluate(plan(data), tmp_path / "run", shard=2)
    told = [text.partition("-")[2] for text in read_rows(tmp_path / "run")["content"].to_pylist()]
    now = [content(item).partition("-")[2] for item in open_data(f"folder:{data}")]
    assert [one == other for one, other in zip(told, now, strict=True)] == [False, False, True, True]


def test_files_of_the_same_size_and_time_are_read_again(tmp_path: Path):
    """Whoever sets a file's time back does not hide that it was written."""
    data = folder_of_scenes(tmp_path / "data")
    for file in data.rglob("*.png"):  # as bitmaps two images are of one size
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    half(plan(data), tmp_path / "run")
    file = data / "images/cross/0.bmp"
    before, pixels = file.stat(), np.array(Image.open(file))
    Image.fromarray(255 - pixels).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(RunError, match="the image of 'cross/0/cross' is another"):
        evaluate(plan(data), tmp_path / "run", shard=2)


def test_a_copy_is_the_same_data_and_what_did_not_change_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = folder_of_scenes(tmp_path / "data")
    whole = evaluate(plan(data), tmp_path / "whole", shard=2).to_markdown()
    half(plan(data), tmp_path / "run")
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy)
    read: list[str] = []
    monkeypatch.setattr(unchanged, "content", lambda item: read.append(item.id) or content(item))
    assert evaluate(plan(tmp_path / "copy"), tmp_path / "run", shard=2).to_markdown() == whole
    assert read == ["cross/0/cross", "cross/1/cross"]  # by their content
    read.clear()
    half(plan(data), tmp_path / "again")
    evaluate(plan(data), tmp_path / "again", shard=2)
    assert read == []


class Unstamped:
    """A reader of somebody's own, which says nothing of its files."""

    name, names = "mine", {}

    def __init__(self, root: Path) -> None:
        self._inner = open_data(f"folder:{root}")
        self.ids = self._inner.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self._inner[index]

    def describe(self) -> dict[str, Any]:
        return {"kind": "mine"}


def test_a_reader_without_stamps_is_read_again(tmp_path: Path):
    data = folder_of_scenes(tmp_path / "data")

    def evaluator() -> Evaluator:
        return Evaluator(Explainer("sample"), Unstamped(data), ["gaussian"], [Localization()])

    half(evaluator(), tmp_path / "run")
    evaluate(evaluator(), tmp_path / "run", shard=2)
    half(evaluator(), tmp_path / "other")
    folder_of_scenes(data, columns=(48, 96))
    with pytest.raises(RunError, match="the annotation of 'cross/0/cross' is another"):
        evaluate(evaluator(), tmp_path / "other", shard=2)


def test_a_run_does_not_go_on_with_other_class_names(tmp_path: Path):
    data = folder_of_scenes(tmp_path / "data")
    names = list(sample.CLASSES)
    half(plan(data, class_names=names), tmp_path / "run")
    with pytest.raises(RunError, match=r'class_names\.0: "disc" there, ".*" now'):
        evaluate(plan(data, class_names=names[::-1]), tmp_path / "run", shard=2)


ITEMS: dict[str, Callable[[Any], Any]] = {
    "a pixel of the image": lambda item: replace(item, image=_dotted(item.image)),
    "a pixel of the mask": lambda item: replace(item, masks=item.masks ^ made.block((0, 0, 1, 1), size=(96, 96))),
    "a box": lambda item: replace(item, boxes=np.array([[0.0, 0, 1, 1]])),
    "what is void": lambda item: replace(item, valid=np.ones((96, 96), bool)),
    "corners": lambda item: replace(item, corners=np.array([[0.0, 0, 1, 1]])),
    "the class": lambda item: replace(item, target="ring"),
    "the size": lambda item: replace(item, image=item.image.resize((48, 192))),
}


def _dotted(image: Image.Image) -> Image.Image:
    dotted = image.copy()
    dotted.putpixel((50, 50), (1, 2, 3))
    return dotted


@pytest.mark.parametrize("change", ITEMS)
def test_all_that_is_read_of_an_item_counts(tmp_path: Path, change: str):
    item = open_data(f"folder:{folder_of_scenes(tmp_path)}")[0]
    what = "image" if change in ("a pixel of the image", "the size") else "annotation"
    assert difference(content(item), content(ITEMS[change](item))) == what
    assert difference(content(item), content(replace(item, id="elsewhere"))) == ""


def small() -> nn.Module:
    return build()


class Other(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def _with_other_class(model: Any) -> None:
    class Norm(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.norm.__class__ = Norm


MODELS: dict[str, Callable[[Any], object]] = {
    "a flag": lambda model: setattr(model.blocks[0].attn, "fused_attn", not model.blocks[0].attn.fused_attn),
    "a number": lambda model: setattr(model.blocks[0].attn, "scale", 3.0),
    "a place": lambda model: (setattr(model.blocks[0], "tag", 1), setattr(model.blocks[1], "tag", 2)),
    "a mode": lambda model: model.blocks[1].train(),
    "a module without weights": lambda model: setattr(model.blocks[0].mlp, "act", Other()),
    "a class": _with_other_class,
    "a function in place of another": lambda model: setattr(model.head, "forward", lambda x: x),
    "a hook": lambda model: model.head.register_forward_hook(lambda module, args, out: 2 * out),
}


@pytest.mark.parametrize("change", MODELS)
def test_models_of_the_same_weights_may_be_others(change: str):
    model = small()
    before = describe_model(LoadedModel(model))
    assert describe_model(LoadedModel(small())) == before
    MODELS[change](model)
    assert describe_model(LoadedModel(model)) != before


def test_a_model_is_told_the_same_in_another_process(tmp_path: Path):
    """The manifest of a run in a process of its own is that of this one: nothing in it is an address or an order."""
    first, second = (FEW.make().describe() for _ in range(2))
    assert first == second
    assert "0x" not in repr(first)


FEW = Plan(data="sample:2", methods=("gaussian",))


def test_a_run_does_not_go_on_with_another_attention(tmp_path: Path):
    def evaluator(fused: bool) -> Evaluator:
        model = small()
        for block in model.blocks:
            block.attn.fused_attn = fused
        explainer = Explainer(model, preprocess=PREPROCESSING, class_names=sample.CLASSES)
        return Evaluator(explainer, open_data("sample:2"), ["gaussian"], [Localization()])

    half(evaluator(True), tmp_path)
    with pytest.raises(RunError, match=r"architecture\.modules\..*Attention: another"):
        evaluate(evaluator(False), tmp_path, shard=2)
    evaluate(evaluator(True), tmp_path, shard=2)


def test_a_run_does_not_go_on_with_another_release_of_what_decodes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    half(FEW, tmp_path)
    found = unchanged.version
    monkeypatch.setattr(unchanged, "version", lambda name: "0.1" if name == "pillow" else found(name))
    with pytest.raises(RunError, match=r'versions\.pillow: ".*" there, "0\.1" now'):
        evaluate(FEW, tmp_path, shard=2)


def test_a_preprocessing_that_differs_for_portraits_alone_is_another():
    squash = squashed(PREPROCESSING)

    def turned(image: Image.Image) -> torch.Tensor:
        return squash(image if image.width >= image.height else image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))

    other = Preprocessing(turned, squash.view, squash.mean, squash.std)
    assert other.describe() == squash.describe()  # which asks about a landscape
    assert describe_preprocessing(other) != describe_preprocessing(squash)
    assert describe_preprocessing(squash) == describe_preprocessing(squashed(PREPROCESSING))


def test_a_stopped_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A shard is on the disk before its name is, and the name before the run goes on."""
    told: list[str] = []
    sync, put = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: told.append("sync") or sync(number))
    monkeypatch.setattr(Path, "replace", lambda part, target: told.append("rename") or put(part, target))
    shards = Shards(tmp_path, {}, items=1)
    told.clear()
    shards.write(0, [{"item": 0}])
    assert told == ["sync", "rename", "sync"]
