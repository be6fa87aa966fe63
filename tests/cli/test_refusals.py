"""Bad use of `captum-vit explain`, and what stops it halfway: one clear line each, and nothing lost."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from captum_vit import models, sample
from captum_vit.cli import app as cli
from captum_vit.cli import console
from captum_vit.cli import explain as _run
from tests.cli.helpers import explain, photo, pixels, refused, run, written
from tests.waiting import PATIENCE, wait_until

STOPPED = "Stopped. The pictures written so far are complete, in captum-vit-out; --resume goes on"
NOTE = "Note: the sample model knows drawn shapes alone; name a --model for photographs"


def test_bad_options():
    photo("a.png")
    refused("no method 'agcm'; there are agcam, ", "--method", "agcm")
    refused("nearest: agcam", "--method", "agcm")
    refused("unknown model 'tim/x'", "a.png", "--model", "tim/x")
    refused("nearest: vit_tiny_patch16_224", "a.png", "--model", "timm/vit_tinny_patch16_224")
    refused("no attention layer 6; this model has 6, counted from 0 or named: blocks.0.attn, blocks.1", "--layer", "6")
    refused("no attention layer 'block.1'; this model has 6", "--layer", "block.1")
    refused("target 8 is out of range: 'sample' has 0 to 7", "--target", "8")
    refused("target -1 is out of range: 'sample' has 0 to 7", "--target", "-1")
    refused(
        "no class 'stra' in 'sample'; it has disc, ring, square, triangle, star, cross, crescent, heart; nearest: star",
        "--target",
        "stra",
    )
    refused("no class '99999999999999999999'", "--target", "9" * 20)
    refused("no class '--5'", "--target", "--5")
    refused("no device 'gpu' here", "--device", "gpu")
    refused("no images: name files or folders", "--model", "timm/test_vit")


def test_bad_checkpoints():
    save_file({"a": torch.zeros(1)}, "other.safetensors")
    refused("the checkpoint does not fit VisionTransformer: 81 keys differ", "--checkpoint", "other.safetensors")
    refused("81 keys differ, of 80 in the model: 80 missing (cls_token, ", "--checkpoint", "other.safetensors")
    torch.save(torch.nn.Linear(1, 1), "module.pth")
    refused("could run any code: refused", "--checkpoint", "module.pth")
    Path("letter.pth").write_text("Dear reader")
    refused("is text, neither safetensors nor written by torch.save", "--checkpoint", "letter.pth")
    refused("cannot read the checkpoint 'nothing.pth': No such file", "--checkpoint", "nothing.pth")


def test_folders_that_cannot_be_written_are_found_before_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("worked"))
    photo("a.png")
    refused("cannot write to 'a.png': it is a file", "--out", "a.png")
    refused("cannot write to the folder 'a.png/under': Not a directory", "--out", "a.png/under")
    refused("cannot write to the folder '/proc/captum': No such file", "--out", "/proc/captum")


def test_a_disk_that_fills_up(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = explain(code=2)
    assert result.stderr.startswith("Error: cannot write 'captum-vit-out/scene/")
    assert result.stderr.endswith("': No space left on device\n")
    assert written("captum-vit-out") == []


def test_a_folder_without_images():
    Path("notes").mkdir()
    refused("no images in the folder 'notes'", "notes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file: 'b.png'"),
        (b"", "'b.png' is empty (0 bytes)"),
        (b"Dear reader", "'b.png' is not an image but text"),
        (b"\x89PNG\r\n\x1a\n...", "'b.png' is damaged or cut off"),
    ],
)
def test_one_bad_image_among_several(content: bytes | None, message: str):
    if content is not None:
        Path("b.png").write_bytes(content)
    result = explain(photo("a.png"), "b.png", photo("c.png"), "--method", "rollout", code=1)
    assert message in result.stderr
    assert result.stderr.splitlines()[-1] == "1 of 3 images failed; the others are done"
    assert len(result.stderr.splitlines()) == 3
    assert result.stderr.startswith(NOTE)
    assert written("captum-vit-out") == ["a/overview.png", "a/rollout.png", "c/overview.png", "c/rollout.png"]


def test_only_bad_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("loaded a model for nothing"))
    result = explain("nothing.png", "more\nnothing.png", code=1)
    assert result.stderr.splitlines() == [
        "Failed: no such file: 'nothing.png'",
        "Failed: no such file: 'more\\nnothing.png'",
        "2 of 2 images failed",
    ]
    assert not Path("captum-vit-out").exists()


def test_weights_that_are_not_numbers():
    weights = {name: value * float("nan") for name, value in sample.state_dict().items()}
    save_file(weights, "nan.safetensors")
    refused("holds NaN in 80 of 80 weights", "--checkpoint", "nan.safetensors")
    infinite = {**sample.state_dict(), "blocks.0.attn.qkv.weight": torch.full((288, 96), float("inf"))}
    save_file({name: value.contiguous() for name, value in infinite.items()}, "infinite.safetensors")
    result = explain("--checkpoint", "infinite.safetensors", "--method", "rollout", code=1)
    assert "Failed: the map holds NaN or infinite values" in result.stderr


def test_an_output_folder_with_an_endless_name():
    refused("cannot write to the folder 'xxx", "--out", "x" * 300)


def test_more_threads_than_a_machine_has():
    assert "--threads" in run("evaluate", "--threads", "100000", code=2).stderr


def test_wrong_use_of_the_shell():
    assert "No such option" in run("explain", "--methd", "agcam", code=2).stderr
    assert "No such command" in run("explian", code=2).stderr
    assert "top-k" in explain("--top-k", "0", code=2).stderr


# --- the process


def test_interrupted(monkeypatch: pytest.MonkeyPatch):
    save, calls = _run.save, []

    def interrupted(pictures: dict[str, Image.Image], folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(pictures, folder)

    monkeypatch.setattr(_run, "save", interrupted)
    result = explain(photo("a.png"), photo("b.png"), photo("c.png"), "--method", "rollout", code=130)
    assert result.stderr == f"{NOTE}\n{STOPPED}\n"
    assert written("captum-vit-out") == ["a/overview.png", "a/rollout.png"]


def test_a_picture_appears_when_it_is_complete(monkeypatch: pytest.MonkeyPatch):
    def broken(file: int) -> None:
        raise KeyboardInterrupt

    explain("--method", "rollout")
    before = {p: p.read_bytes() for p in Path("captum-vit-out").rglob("*") if p.is_file()}
    monkeypatch.setattr(os, "fsync", broken)
    explain("--method", "rollout", code=130)
    assert {p: p.read_bytes() for p in Path("captum-vit-out").rglob("*") if p.is_file()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_an_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "captum_vit", "inspect"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b"Error: cannot write to standard output: No space left on device\n")


def test_a_program_without_a_console(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.say("text")
    console.complain("text")


def test_control_c_in_a_real_process():
    files = [photo(f"{i}.png") for i in range(400)]
    process = subprocess.Popen(
        [sys.executable, "-m", "captum_vit", "explain", *map(str, files), "--method", "rollout"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    first = Path("captum-vit-out/1/overview.png")
    wait_until(lambda: first.exists() or process.poll() is not None, "no picture")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert re.sub(r"\d+ of 400 images.*\n", "", errors) == f"{NOTE}\n{STOPPED}\n"
    assert not list(Path("captum-vit-out").rglob("*.tmp"))
    for file in Path("captum-vit-out").rglob("*.png"):
        pixels(file)


def test_the_installed_command():
    command = Path(sys.executable).with_name("captum-vit")
    result = subprocess.run([command, "explain", "--method", "agcm"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: no method 'agcm'")
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m captum_vit explain --method rollout | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in result.stderr


def test_the_command_line_itself_needs_no_torch():
    program = (
        "import sys, types\n"
        "package = types.ModuleType('captum_vit')\n"  # stands in for the package, which imports its methods
        f"package.__path__ = [{str(Path(cli.__file__).parent)!r}]\n"
        "sys.modules['captum_vit'] = package\n"
        "import captum_vit.cli.app\n"
        "print(sorted({'torch', 'captum', 'timm', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
