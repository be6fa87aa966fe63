"""Explanations on disk: what is saved is what is loaded, whole or not at all."""

import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import captum_vit
from captum_vit import AGCAM, sample
from captum_vit.errors import ExplanationLoadError, InputError, OutputError
from captum_vit.explained import Label
from captum_vit.explanation import saving
from captum_vit.explanation.explanation import Explanation
from captum_vit.explanation.saving import MANIFEST
from captum_vit.files import write_atomically
from tests.figures.made import CAT
from tests.figures.made import explanation as made


def scene(size: tuple[int, int] = (90, 60), seed: int = 15) -> Image.Image:
    return Image.fromarray(sample.draw_scene(seed, objects=2, size=300).image).resize(size)


@pytest.fixture(scope="module")
def full() -> Explanation:
    return captum_vit.explain(scene(), method="all", target=["cross", "disc"], attention=True, discard_ratio=0.5)


def assert_same(a: Explanation, b: Explanation) -> None:
    np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))
    assert (a.view, a.labels, a.model, a.source, a.versions) == (b.view, b.labels, b.model, b.source, b.versions)
    assert [x.title for x in a] == [x.title for x in b]
    for x, y in zip(a, b, strict=True):
        assert (x.target, x.layers, dict(x.options)) == (y.target, y.layers, dict(y.options))
        assert (x.method, x.facts) == (y.method, y.facts)
        assert torch.equal(x.flow, y.flow)
    assert (a.attention is None) == (b.attention is None)
    for kind in ("heads", "patches") if a.attention is not None else ():
        own, other = getattr(a.attention, kind), getattr(b.attention, kind)
        assert list(own) == list(other)
        assert all(torch.equal(own[name], other[name]) for name in own)


def test_what_is_saved_is_what_is_loaded(full: Explanation, tmp_path: Path):
    full.save(tmp_path / "a" / "b")
    assert_same(Explanation.load(tmp_path / "a" / "b"), full)
    assert sorted(p.suffix for p in (tmp_path / "a" / "b").iterdir()) == [".json", ".png", ".safetensors"]
    plain = captum_vit.explain(scene(), method="rollout")
    plain.save(str(tmp_path / "plain"))
    assert_same(Explanation.load(str(tmp_path / "plain")), plain)


CONTRAST = Label(None, "tabby/Egyptian cat", -2.5, "tabby rather than Egyptian cat", "logit difference")


def test_targets_that_are_no_classes_and_facts_of_methods(tmp_path: Path):
    found = made(("agcam", "signed", "rollout"), (CAT, CONTRAST))
    found.save(tmp_path)
    loaded = Explanation.load(tmp_path)
    assert_same(loaded, found)
    assert loaded.targets == (CAT, CONTRAST)
    assert [a.signed for a in loaded] == [a.signed for a in found]
    assert [a.target for a in loaded.only(target="tabby/Egyptian cat")] == [CONTRAST, CONTRAST, None]


def test_maps_of_a_video_are_not_saved_without_its_frames(tmp_path: Path):
    still = made()
    video = replace(still, attributions=(replace(still.attributions[0], flow=torch.rand(4, 8, 4, 4)),))
    with pytest.raises(InputError, match=r"floats of shape \(4, any, any\), got torch.float32 of shape \(4, 8, 4, 4\)"):
        video.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_on_a_smaller_copy_of_the_photograph(tmp_path: Path):
    found = captum_vit.explain(scene((300, 200)), method="rollout")
    small = found.reduced(100)
    assert (small.image.size, small.view.original, small.photographed) == ((100, 67), (100, 67), (300, 200))
    own, expected = small.view.place(small.maps[0, 0]), found.view.place(found.maps[0, 0], (100, 67))
    np.testing.assert_allclose(own, expected, atol=1e-5)
    assert found.reduced(300) is found
    assert small.reduced(50).photographed == (300, 200)
    small.save(tmp_path)
    assert_same(Explanation.load(tmp_path), small)
    assert Explanation.load(tmp_path).photographed == (300, 200)


def test_a_folder_of_other_things_keeps_them(full: Explanation, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    owned = ["image-of-mine.png", "image-of-my-good-house.png"]  # the second as long as one of ours
    for name in owned:
        (tmp_path / name).write_bytes(b"mine")
    full.save(tmp_path)
    other = captum_vit.explain(scene(seed=16), method="agcam")
    other.save(tmp_path)
    assert_same(Explanation.load(tmp_path), other)
    assert len(list(tmp_path.iterdir())) == 6  # the old maps and image are gone, the owner's files are not
    assert all((tmp_path / name).read_bytes() == b"mine" for name in owned)


class Weighed(AGCAM):
    """A method with an option that is no number."""

    name = "weighed"

    def _maps(self, run, target, *, flow, by=None):
        return super()._maps(run, target, flow=flow)


def test_options_that_json_cannot_hold(tmp_path: Path):
    found = captum_vit.explain(torch.randn(3, 64, 64), method=Weighed, by=torch.ones(3))
    found.save(tmp_path)
    assert Explanation.load(tmp_path).options == {"weighed": {"by": "<Tensor>"}}


SAVE_IN_TURN = """
import sys
from captum_vit import Explanation
first, second = (Explanation.load(path) for path in sys.argv[1:3])
print("ready", flush=True)
while True:
    first.save(sys.argv[3])
    second.save(sys.argv[3])
"""


def test_killed_at_any_moment_it_is_whole(tmp_path: Path):
    """Whoever is killed while saving over an old explanation leaves the old one or the new one."""
    rng = np.random.default_rng(0)
    known = {("rollout",): captum_vit.explain(scene(), method="rollout")}
    known["agcam", "daam"] = captum_vit.explain(scene((200, 150), 16), method=["agcam", "daam"])
    folders = [tmp_path / "rollout", tmp_path / "both", tmp_path / "target"]
    for folder, found in zip(folders, [*known.values(), *known.values()], strict=False):
        found.save(folder)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVE_IN_TURN, *map(str, folders)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.2))
            process.kill()
            process.wait()
        loaded = Explanation.load(folders[2])
        assert_same(loaded, known[loaded.methods])


def damaged(folder: Path, part: str) -> None:
    if part == "manifest gone":
        (folder / MANIFEST).unlink()
    elif part == "manifest cut":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:80])
    elif part == "manifest deep":
        (folder / MANIFEST).write_text("[" * 100_000)
    elif part in ("maps", "image"):
        file = next(folder.glob(f"{part}-*"))
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif part == "maps gone":
        next(folder.glob("maps-*")).unlink()
    else:
        manifest = json.loads((folder / MANIFEST).read_text())
        change = {
            "later format": {"format": 99},
            "earlier format": {"format": 1},
            "no labels": {"labels": None},
            "elsewhere": {"files": {"maps": "../../secret-0123456789abcdef.safetensors", "image": "x"}},
            "a list": None,
        }[part]
        (folder / MANIFEST).write_text(json.dumps([] if change is None else {**manifest, **change}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("manifest gone", "no explanation in .*: it holds no explanation.json"),
        ("manifest cut", "cannot read .*explanation.json"),
        ("manifest deep", "cannot read .*explanation.json"),
        ("maps", "maps-.* is damaged: its content is not the one that was saved"),
        ("image", "image-.* is damaged: its content is not the one that was saved"),
        ("maps gone", "is damaged: there is no .*maps-"),
        ("later format", "has format 99, this version reads 2"),
        ("earlier format", "has format 1, this version reads 2"),
        ("no labels", "is damaged: labels must be a list, got None"),
        ("elsewhere", "names a file that is not its own: '../../secret"),
        ("a list", "has format None, this version reads 2"),
    ],
)
def test_damage_is_found(full: Explanation, tmp_path: Path, part: str, message: str):
    full.save(tmp_path)
    damaged(tmp_path, part)
    with pytest.raises(ExplanationLoadError, match=message):
        Explanation.load(tmp_path)


WRONG = [
    (["labels", 0, "score"], "high", r"labels\[0\].score must be a finite number, got 'high'"),
    (["labels", 0, "score"], float("nan"), r"labels\[0\].score must be a finite number, got nan"),
    (["labels", 0, "score"], 10**400, r"labels\[0\].score must be a finite number, got 1000"),
    (["labels", 0, "score"], True, r"labels\[0\].score must be a finite number, got True"),
    (["labels", 0, "index"], 1.5, r"labels\[0\].index must be a whole number from 0, got 1.5"),
    (["labels", 0, "name"], 7, r"labels\[0\].name must be text, got 7"),
    (["labels", 0], [], r"labels\[0\] must be values by name"),
    (["labels", 0, "unit"], None, r"labels\[0\].unit must be text, got None"),
    (["attributions", 0, "facts"], None, r"attributions\[0\].facts must be values by name, got None"),
    (["attributions", 0, "facts", "title"], 3, r"attributions\[0\].facts.title must be text, got 3"),
    (["attributions", 0, "facts", "unit"], [], r"attributions\[0\].facts.unit must be text"),
    (
        ["attributions", 0, "facts", "class_specific"],
        1,
        r"attributions\[0\].facts.class_specific must be true or false, got 1",
    ),
    (["attributions", 0, "facts", "signed"], "no", r"attributions\[0\].facts.signed must be true or false, got 'no'"),
    (
        ["attributions", 0, "facts", "accumulates"],
        None,
        r"attributions\[0\].facts.accumulates must be true or false, got None",
    ),
    (["attributions"], [], "attributions must hold at least one, got none"),
    (["attributions", 1], None, r"attributions\[1\] must be values by name, got None"),
    (["attributions", 0, "method"], None, r"attributions\[0\].method must be text"),
    (["attributions", 0, "target", "name"], ["x"], r"attributions\[0\].target.name must be text"),
    (["attributions", 0, "target"], {}, r"attributions\[0\].target.index must be a whole number"),
    (
        ["attributions", 0, "layers"],
        ["one"],
        r"the flow of attributions\[0\] must be floats of shape \(1, any, any\), got",
    ),
    (["attributions", 0, "layers", 0], 3, r"attributions\[0\].layers\[0\] must be text, got 3"),
    (["attributions", 0, "options"], [], r"attributions\[0\].options must be values by name"),
    (["geometry"], None, "geometry must be values by name, got None"),
    (["geometry", "window"], [0, 0, 9], "geometry.window must be a list of 4"),
    (["geometry", "window"], [0, 0, 0, 0], "geometry.window must be left < right and top < bottom within 90x60"),
    (["geometry", "window"], [0, 0, 900, 60], "geometry.window must be .* within 90x60"),
    (["geometry", "scale"], [float("nan"), 1], r"geometry.scale\[0\] must be a finite number, got nan"),
    (["geometry", "scale"], [0, 1], "geometry.scale must be positive"),
    (["geometry", "offset"], [1e308, 0], "geometry.offset must be a finite number"),
    (["geometry", "size"], [224, 0], r"geometry.size\[1\] must be a whole number from 1, got 0"),
    (["geometry", "original"], [180, 120], "geometry.original must be the size of the image"),
    (["model"], 5, "model must be text, got 5"),
    (["source"], None, "source must be text, got None"),
    (["versions"], ["torch"], "versions must be values by name"),
    (["versions", "torch"], 2.6, "versions.torch must be text, got 2.6"),
    (["photographed"], [90], "photographed must be a list of 2"),
    (["files"], "maps", "files must be values by name, got 'maps'"),
    (["files", "maps"], 3, "files.maps must be text, got 3"),
    (["attention"], 3, "attention must be values by name, got 3"),
    (["attention", "heads"], {"a": 1}, "attention.heads must be a list"),
    (["attention", "patches", 0], "blocks.9", "the maps must be those that the manifest names, got 'patches.blocks"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_manifest_that_somebody_edited(full: Explanation, tmp_path: Path, path: list, value: object, message: str):
    full.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    if path == ["geometry", "offset"]:
        manifest["geometry"]["scale"] = [1e-3, 1e-3]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match=f"is damaged: {message}"):
        Explanation.load(tmp_path)


@pytest.mark.parametrize("field", ["labels", "attributions", "geometry", "model", "source", "versions", "files"])
def test_a_manifest_that_lacks_a_field(full: Explanation, tmp_path: Path, field: str):
    full.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    del manifest[field]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match=f"is damaged: {field} must be .*, got None"):
        Explanation.load(tmp_path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"flow.0": torch.full((6, 8, 8), NAN)}, r"the flow of attributions\[0\] holds NaN or infinite values"),
        ({"flow.0": torch.full((6, 8, 8), 1e300, dtype=torch.float64)}, "holds NaN or infinite values"),
        ({"flow.0": torch.zeros(8, 8)}, r"of shape \(6, any, any\), got torch.float32 of shape \(8, 8\)"),
        ({"flow.0": torch.zeros(6, 0, 8)}, r"of shape \(6, any, any\), got torch.float32 of shape \(6, 0, 8\)"),
        ({"flow.0": torch.zeros(6, 8, 8, dtype=torch.int32)}, "must be floats of shape"),
        (
            {"flow.1": torch.zeros(6, 4, 4)},
            r"the grid of attributions\[1\], .*, must be that of the first, 8x8, got 4x4",
        ),
        ({"patches.blocks.0.attn": torch.zeros(3, 3)}, r"patches.blocks.0.attn must be floats of shape \(64, 64\)"),
        ({"heads.blocks.0.attn": torch.full((3, 8, 8), NAN)}, "heads.blocks.0.attn holds NaN"),
    ],
)
def test_tensors_that_no_explanation_has(full: Explanation, tmp_path: Path, tensors: dict, message: str):
    """Whole by their hash, as a program that wrote them wrongly would leave them."""
    full.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    content = safetensors.torch.save({**safetensors.torch.load_file(tmp_path / manifest["files"]["maps"]), **tensors})
    manifest["files"]["maps"] = f"maps-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (tmp_path / manifest["files"]["maps"]).write_bytes(content)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match=message):
        Explanation.load(tmp_path)


def test_what_could_not_be_loaded_is_not_saved(full: Explanation, tmp_path: Path):
    broken = replace(full.attributions[0], flow=full.attributions[0].flow * NAN)
    for wrong in (
        replace(full, attributions=(broken,)),
        replace(full, attributions=()),
        replace(full, image=scene((9, 9))),
    ):
        with pytest.raises(InputError):
            wrong.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def saved_meanwhile(monkeypatch: pytest.MonkeyPatch, folder: Path, others: list[Explanation]) -> None:
    """The others are saved one after the other, each when somebody is about to read a file that a manifest names."""
    read = saving.read_within

    def late(within: Path, name: str, most: int) -> bytes:
        if others and name != MANIFEST:
            others.pop().save(folder)
        return read(within, name, most)

    monkeypatch.setattr(saving, "read_within", late)


def test_saved_between_the_manifest_and_its_files(full: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = captum_vit.explain(scene(seed=16), method="rollout")
    full.save(tmp_path)
    saved_meanwhile(monkeypatch, tmp_path, [other, full, other])
    assert_same(Explanation.load(tmp_path), other)


@pytest.mark.xfail(strict=True, raises=ExplanationLoadError, reason="broken on purpose: reading the manifest once")
def test_a_manifest_read_once(full: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving, "TRIES", 1)
    test_saved_between_the_manifest_and_its_files(full, tmp_path, monkeypatch)


def test_folders_that_cannot_be_written(full: Explanation, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file"):
        full.save(tmp_path / "file")


def test_a_full_disk_leaves_the_old_explanation(full: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    full.save(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    begin = Path.open
    begun = []

    def filling(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        begun.extend([path] * (mode == "xb"))
        if len(begun) < 2 or mode != "xb":
            return begin(path, mode, *args, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", filling)
    with pytest.raises(OutputError, match="No space left on device"):
        captum_vit.explain(scene(seed=17), method="daam").save(tmp_path)
    monkeypatch.undo()
    assert_same(Explanation.load(tmp_path), full)
    assert before.items() <= {p: p.read_bytes() for p in tmp_path.iterdir()}.items()


def test_nothing_is_pickled(full: Explanation, tmp_path: Path):
    full.save(tmp_path)
    for path in tmp_path.iterdir():
        start = path.read_bytes()[:9]
        assert start.startswith(b"\x89PNG") or start[:1] == b"{" or start[8:] == b"{"


def test_threads_that_write_one_file(tmp_path: Path):
    """Each under a temporary name of its own: none finds the other's half, or misses its own."""
    file, contents = tmp_path / "file", [bytes([i]) * 300_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: [write_atomically(file, data) for _ in range(20)], contents))
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]


def test_names_with_half_characters(full: Explanation, tmp_path: Path):
    """A file's name need not be UTF-8; Python then holds halves of characters."""
    replace(full, source="caf\udce9.png").save(tmp_path)
    assert Explanation.load(tmp_path).source == "caf\udce9.png"


def test_maps_that_share_memory(tmp_path: Path):
    found = made(("agcam", "rollout"))
    shared = replace(found, attributions=(*found.attributions, *found.attributions))
    shared.save(tmp_path)
    assert len(Explanation.load(tmp_path)) == 4
