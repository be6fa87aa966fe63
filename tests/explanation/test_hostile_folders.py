"""Folders that somebody made to harm: refused at once, with nothing opened, allocated or run."""

import hashlib
import io
import json
import os
import socket
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import captum_vit
from captum_vit.cli.folders import RECORD, folder_for
from captum_vit.errors import ExplanationLoadError, InputError
from captum_vit.explanation import manifest as manifests
from captum_vit.explanation import saving
from captum_vit.explanation.explanation import Explanation
from captum_vit.explanation.saving import MANIFEST
from captum_vit.files import read_within
from tests.cli.helpers import run
from tests.figures.made import explanation as made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made(("agcam", "rollout")).save(tmp_path / "saved")
    return tmp_path / "saved"


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a call gives or raises; a failure if it takes longer, as a read of an endless file would."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it never ends"
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ExplanationLoadError, match=message):
        within(20, lambda: Explanation.load(folder))


def file_of(folder: Path, kind: str) -> Path:
    return folder / MANIFEST if kind == "manifest" else next(folder.glob(f"{kind}-*"))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    """A socket; its path may be long, and sockets take short ones."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def elsewhere(path: Path) -> None:
    other = path.parent.parent / f"other-{path.name}"
    other.write_bytes(b"secret")
    path.symlink_to(other)


def circle(path: Path) -> None:
    path.symlink_to(path.name)


ODD = [
    (pipe, "is not a regular file"),
    (bound, "is not a regular file"),
    (Path.mkdir, "is not a regular file"),
    (endless, "is a link that leads out of the folder"),
    (elsewhere, "is a link that leads out of the folder"),
    (circle, "is not a regular file"),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has none of these")
@pytest.mark.parametrize("kind", ["manifest", "maps", "image"])
@pytest.mark.parametrize(("make", "message"), ODD)
def test_what_is_no_file_is_not_opened(folder: Path, kind: str, make: Callable[[Path], None], message: str):
    path = file_of(folder, kind)
    path.unlink()
    make(path)
    refused(folder, message)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes")
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: whatever lies there is opened")
def test_a_pipe_that_is_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    try:
        within(1, (tmp_path / "pipe").read_bytes)
    finally:
        os.close(os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK))  # lets the reader go


def test_a_link_within_the_folder_is_a_file_of_its_own(folder: Path):
    maps = file_of(folder, "maps")
    maps.rename(folder / "kept")
    maps.symlink_to("kept")
    assert len(Explanation.load(folder)) == 2
    through = folder.parent / "link"
    through.symlink_to(folder)
    assert len(Explanation.load(through)) == 2


def test_a_file_that_is_exchanged_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the look at it and the opening: what was opened is looked at again."""
    (tmp_path / "a").write_bytes(b"1234")
    (tmp_path / "large").write_bytes(bytes(100))
    look = os.lstat(tmp_path / "a")
    (tmp_path / "large").replace(tmp_path / "a")
    monkeypatch.setattr(os, "lstat", lambda path: look)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(InputError, match="'a' has 100 bytes, and at most 10 are read"):
        read_within(tmp_path, "a", 10)


@pytest.mark.parametrize("kind", ["manifest", "maps", "image"])
def test_a_file_of_terabytes(folder: Path, kind: str):
    os.truncate(file_of(folder, kind), 2**41)  # takes no room on the disk
    tracemalloc.start()
    try:
        refused(folder, r"has 2199023255552 bytes, and at most \d+ are read")
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


def rewritten(folder: Path, **changes: Any) -> dict[str, Any]:
    manifest = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return manifest


def with_file(folder: Path, kind: str, content: bytes) -> None:
    """The content as a file of the explanation, with the name that fits."""
    name = f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}.{saving.KINDS[kind]}"
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewritten(folder, files={**files, kind: name})


def header(size: int, **tensors: Any) -> bytes:
    told = json.dumps(tensors).encode()
    return len(told).to_bytes(8, "little") + told + bytes(size)


F32 = {"dtype": "F32", "data_offsets": [0, 16]}
NAMES = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(1000)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(16, **{"flow.0": {**F32, "shape": [1, 2**31, 2**31]}}), "is damaged"),
        (header(16, **{"flow.0": {**F32, "shape": [2**63, 2]}}), "is damaged"),
        (header(16, **{"flow.0": {**F32, "shape": [-1, -4]}}), "is damaged"),
        (header(0, **NAMES), "the maps must be those that the manifest names, got 't0'"),
        ((2**62).to_bytes(8, "little") + bytes(8), r"the maps begin with a header of \d+ bytes, and at most"),
        (b"\0\0", "the maps begin with a header of 0 bytes"),
        (b"[" * 7 + b"\0" + b"[" * 100, "is damaged"),
        (b"\x80\x04pickle.", "the maps begin with a header of"),
        (header(0)[:8] + b"[]", "the header of the maps must be values by name"),
    ],
    ids=["giant", "overflow", "negative", "many", "endless header", "short", "deep", "pickle", "list"],
)
def test_maps_that_promise_what_they_do_not_hold(folder: Path, content: bytes, message: str):
    with_file(folder, "maps", content)
    refused(folder, message)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool, torch.uint8, torch.int64])
def test_maps_of_numbers_that_cannot_be_shown(folder: Path, dtype: torch.dtype):
    tensors = safetensors.torch.load_file(file_of(folder, "maps"))
    with_file(folder, "maps", safetensors.torch.save({**tensors, "flow.0": tensors["flow.0"].to(dtype)}))
    refused(folder, r"the flow of attributions\[0\] must be floats of shape .*, got torch\.")


@pytest.mark.parametrize("dtype", manifests.SHOWN)
def test_maps_of_all_floats_that_are_taken_can_be_shown(folder: Path, dtype: torch.dtype):
    tensors = safetensors.torch.load_file(file_of(folder, "maps"))
    with_file(folder, "maps", safetensors.torch.save({k: v.to(dtype) for k, v in tensors.items()}))
    found = Explanation.load(folder)
    assert "<html" in found.to_html()
    assert found.overlay().size == found.image.size
    found.flow.save(folder / "flow.gif")
    found.plot()
    found.save(folder / "again")
    assert Explanation.load(folder / "again").maps.dtype == dtype


def test_a_grid_that_no_photograph_could_be_drawn_with(folder: Path):
    tensors = safetensors.torch.load_file(file_of(folder, "maps"))
    layers = len(tensors["flow.0"])
    long = {name: torch.zeros(layers, 1, manifests.LONGEST_GRID + 1) for name in tensors}
    with_file(folder, "maps", safetensors.torch.save(long))
    refused(folder, "must have at most 4096 patches a side, got shape")


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


BLACK = (b"IDAT", zlib.compress(bytes(3 * 64 * 64 + 64)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(13_000, 12_000, BLACK), r"the image is enormous \(13000x12000\)"),
        (png(60_000, 60_000, BLACK), "is damaged: .*DecompressionBomb"),
        (
            png(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))), BLACK),
            "is damaged: .*Decompressed data too large",
        ),
        (png(0, 64, BLACK), "is damaged"),
        (png(64, 64), "is damaged"),
        (encoded(Image.new("RGB", (64, 64)), "TIFF"), "is damaged: .*cannot identify"),
        (encoded(Image.new("RGB", (8, 8)), "PNG"), r"geometry\.original must be the size of the image, \(8, 8\)"),
    ],
    ids=["large", "bomb", "text bomb", "no pixels", "no data", "another format", "another size"],
)
def test_images_that_promise_what_they_do_not_hold(folder: Path, content: bytes, message: str):
    with_file(folder, "image", content)
    tracemalloc.start()
    try:
        refused(folder, message)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def test_a_transparent_colour_in_a_saved_image(folder: Path):
    kept = Explanation.load(folder).image
    with_file(folder, "image", encoded(kept.convert("1"), "PNG", transparency=0))
    found = Explanation.load(folder)
    assert (found.image.mode, found.image.info) == ("RGB", {})
    found.save(folder / "again")
    assert "<html" in found.to_html()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_options_in_options(folder: Path):
    attributions = json.loads((folder / MANIFEST).read_text())["attributions"]
    for value, message in (
        (nested(9), "8 deep at most, got 'list'"),
        ({"a": 1}, "words, numbers and lists .*, got 'dict'"),
    ):
        rewritten(folder, attributions=[{**attributions[0], "options": {"a": value}}, *attributions[1:]])
        refused(folder, rf"attributions\[0\]\.options must be {message}" if "deep" not in message else message)
    rewritten(folder, attributions=[{**attributions[0], "options": {"a": nested(8)}}, *attributions[1:]])
    assert "[[[[[[[[1]]]]]]]]" in Explanation.load(folder).to_html()


def test_options_that_are_nested_too_deep_are_not_saved_so(tmp_path: Path):
    found = made()
    deep = replace(found, attributions=(replace(found.attributions[0], options={"a": nested(20)}),))
    deep.save(tmp_path)
    assert "<list>" in str(Explanation.load(tmp_path).options)


def test_an_input_of_more_pixels_than_are_decoded(folder: Path):
    geometry = json.loads((folder / MANIFEST).read_text())["geometry"]
    rewritten(folder, geometry={**geometry, "size": [2**20, 2**20]})
    refused(folder, "geometry.size must be at most 150000000 pixels")


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"a":' * 10**5, '{"format": 2, "files": ' + "9" * 10**5 + "}", "\ud800", ""]
)
def test_manifests_that_exhaust_a_parser(folder: Path, text: str):
    (folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, "cannot read .*explanation.json")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = made()
    for kind in ("maps", "image", "manifest"):
        with monkeypatch.context() as patched:
            patched.setattr(saving, "MOST", {**saving.MOST, kind: 100})
            with pytest.raises(InputError, match=rf"the {kind} of an explanation may have 100 bytes, got \d+"):
                found.save(tmp_path / "new")
    monkeypatch.setattr(saving, "MAX_PIXELS", 100)
    with pytest.raises(InputError, match="the image is enormous"):
        found.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes")
def test_one_bad_folder_does_not_end_a_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = tmp_path / "bad"
    bad.mkdir()
    os.mkfifo(bad / MANIFEST)
    monkeypatch.chdir(tmp_path)
    result = within(60, lambda: run("report", str(tmp_path), "--out", "report.html", code=1))
    assert "Failed: cannot read" in result.stderr
    assert "'explanation.json' is not a regular file" in result.stderr
    assert "1 explanation, written: report.html" in result.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes")
def test_a_pipe_in_place_of_a_folders_record(tmp_path: Path):
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / RECORD)
    found = within(20, lambda: folder_for(tmp_path, "cat", "hash", ["a.png"]))
    assert found.path == tmp_path / "cat-2"


def test_a_saved_explanation_is_loaded(folder: Path):
    """All that is refused above is refused for what was done to it."""
    found = Explanation.load(folder)
    assert captum_vit.Explanation is Explanation
    assert len(found) == 2
