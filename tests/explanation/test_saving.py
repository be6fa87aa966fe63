"""Explanations on disk: what is saved is what is loaded, whole or not at all."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit import Explanation, explain, sample
from captum_vit.errors import ExplanationLoadError, OutputError
from captum_vit.saving import MANIFEST, write_atomically


def scene(size: tuple[int, int] = (90, 60), seed: int = 15) -> Image.Image:
    return Image.fromarray(sample.draw_scene(seed, objects=2, size=300).image).resize(size)


@pytest.fixture(scope="module")
def full() -> Explanation:
    return explain(scene(), method="all", target=["cross", "disc"], attention=True, discard_ratio=0.5)


def assert_same(a: Explanation, b: Explanation) -> None:
    np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))
    assert (a.view, a.labels, a.model, a.source, a.versions) == (b.view, b.labels, b.model, b.source, b.versions)
    assert [x.title for x in a] == [x.title for x in b]
    for x, y in zip(a, b, strict=True):
        assert (x.target, x.layers, dict(x.options)) == (y.target, y.layers, dict(y.options))
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
    plain = explain(scene(), method="rollout")
    plain.save(str(tmp_path / "plain"))
    assert_same(Explanation.load(str(tmp_path / "plain")), plain)


def test_a_folder_of_other_things_keeps_them(full: Explanation, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    owned = ["image-of-mine.png", "image-of-my-good-house.png"]  # the second as long as one of ours
    for name in owned:
        (tmp_path / name).write_bytes(b"mine")
    full.save(tmp_path)
    other = explain(scene(seed=16), method="agcam")
    other.save(tmp_path)
    assert_same(Explanation.load(tmp_path), other)
    assert len(list(tmp_path.iterdir())) == 6  # the old maps and image are gone, the owner's files are not
    assert all((tmp_path / name).read_bytes() == b"mine" for name in owned)


def test_options_that_json_cannot_hold(tmp_path: Path):
    found = explain(torch.randn(3, 64, 64), sample_backbone())
    found.save(tmp_path)
    assert Explanation.load(tmp_path).options == {"daam": {"importance": "<FeatureImportance>"}}


def sample_backbone() -> torch.nn.Module:
    import timm

    return timm.create_model("test_vit", num_classes=0, img_size=64).eval()


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
    known = {("rollout",): explain(scene(), method="rollout")}
    known["agcam", "daam"] = explain(scene((200, 150), 16), method=["agcam", "daam"])
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
    elif part in ("maps", "image"):
        file = next(folder.glob(f"{part}-*"))
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif part == "maps gone":
        next(folder.glob("maps-*")).unlink()
    else:
        manifest = json.loads((folder / MANIFEST).read_text())
        change = {
            "later format": {"format": 99}, "no labels": {"labels": None}, "elsewhere": {
                "files": {"maps": "../../secret-0123456789abcdef.safetensors", "image": "x"}
            }, "a list": None,
        }[part]  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps([] if change is None else {**manifest, **change}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("manifest gone", "no explanation in .*: it holds no explanation.json"),
        ("manifest cut", "cannot read .*explanation.json"),
        ("maps", "maps-.* is damaged: its content is not the one that was saved"),
        ("image", "image-.* is damaged: its content is not the one that was saved"),
        ("maps gone", "is damaged: FileNotFoundError"),
        ("later format", "has format 99, this version reads 1"),
        ("no labels", "is damaged: TypeError"),
        ("elsewhere", "names a file elsewhere: '../../secret"),
        ("a list", "has format None, this version reads 1"),
    ],
)
def test_damage_is_found(full: Explanation, tmp_path: Path, part: str, message: str):
    full.save(tmp_path)
    damaged(tmp_path, part)
    with pytest.raises(ExplanationLoadError, match=message):
        Explanation.load(tmp_path)


def test_folders_that_cannot_be_written(full: Explanation, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file"):
        full.save(tmp_path / "file")


def test_a_full_disk_leaves_the_old_explanation(full: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    full.save(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    write = Path.write_bytes
    written = []

    def filling(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) < 2:
            return write(path, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises(OutputError, match="No space left on device"):
        explain(scene(seed=17), method="daam").save(tmp_path)
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
