"""The README's programs run, and give maps of the shapes that its comments say."""

import re
from pathlib import Path

import pytest
from PIL import Image
from transformers import ViTImageProcessor

from captum_vit import sample
from captum_vit.adapters.sample_vit import build

README = Path(__file__).parents[1] / "README.md"
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHAPE = re.compile(r"^(\w+) = .*  # \((\d[\d, ]*)\)", re.MULTILINE)
OFFLINE = {
    "pretrained=True": "pretrained=False",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
    '"timm/vit_tiny_patch16_224"': '"sample"',
    '"google/vit-base-patch16-224"': '"model"',
    '"imagenet:/data/ILSVRC"': '"sample:2"',
    '"tabby"': '"triangle"',
    '"Egyptian cat"': '"cross"',
}

pytestmark = pytest.mark.skipif(not README.exists(), reason="runs from a checkout only")


def programs() -> list[str]:
    return PROGRAM.findall(README.read_text()) if README.exists() else []


@pytest.fixture
def _a_photo_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(sample.draw_scene(15, objects=2, size=200).image).save("photo.jpg")
    build("transformers").save_pretrained("model")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained("model")


@pytest.mark.usefixtures("_a_photo_and_a_model")
@pytest.mark.parametrize("program", programs(), ids=lambda program: program.split("\n")[0])
def test_a_program_runs(program: str):
    smaller = program
    for online, offline in OFFLINE.items():
        smaller = smaller.replace(online, offline)
    assert "timm/" not in smaller
    namespace: dict = {}
    exec(smaller, namespace)
    for name, shape in SHAPE.findall(program):
        assert tuple(namespace[name].shape) == tuple(map(int, shape.split(",")))
    for name in ("late", "smooth", "unsupervised", "described"):
        if name in program:
            assert namespace[name].abs().max() > 0


def test_the_programs_are_found():
    found = programs()
    assert len(found) >= 4
    assert sum(program.count("pretrained=True") for program in found) == 3
    assert sum(len(SHAPE.findall(program)) for program in found) == 4


@pytest.mark.usefixtures("_a_photo_and_a_model")
def test_what_the_first_program_writes():
    program = next(program for program in programs() if "e.flow.save" in program)
    for online, offline in OFFLINE.items():
        program = program.replace(online, offline)
    exec(program, {})
    assert {"flow.gif", "photo.html", "out"} <= {path.name for path in Path().iterdir()}
