"""The programs of the README and of the site's pages run, and give maps of the shapes that their comments say.

The programs of one page are one session, as its reader types them. What they download is replaced by what is here.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer
from PIL import Image
from transformers import VideoMAEVideoProcessor, ViTImageProcessor

from captum_vit import sample
from captum_vit.adapters.sample_vit import build
from captum_vit.cli.app import app
from tests.families import two_towers
from tests.images.made_clips import clip, write_video
from tests.tutorials.clip import PROCESSED, tiny

ROOT = Path(__file__).parents[1]
PROGRAM = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHAPE = re.compile(r"^(\w+) = .*  # \((\d[\d, ]*)\)", re.MULTILINE)
OFFLINE = {
    "pretrained=True": "pretrained=False",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
    '"timm/vit_tiny_patch16_224"': '"sample"',
    '"google/vit-base-patch16-224"': '"model"',
    '"hf/MCG-NJU/videomae-base-finetuned-kinetics"': '"tests.tutorials.clip:tiny"',
    '"MCG-NJU/videomae-base-finetuned-kinetics"': '"video-model"',
    '"hf/openai/clip-vit-base-patch16"': '"tests.families.two_towers:loaded"',
    '"openai/clip-vit-base-patch16"': '"clip-model"',
    '"imagenet:/data/ILSVRC"': '"sample:2"',
    '"tabby"': '"triangle"',
    '"Egyptian cat"': '"cross"',
}

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="runs from a checkout only")


def programs(page: Path) -> list[str]:
    return PROGRAM.findall(page.read_text()) if page.exists() else []


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "tutorials").rglob("*.md"))) if programs(page)]


def offline(program: str) -> str:
    for online, here in OFFLINE.items():
        program = program.replace(online, here)
    assert "timm/" not in program
    assert "hf/" not in program
    return program


@pytest.fixture
def _a_photo_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(sample.draw_scene(15, objects=2, size=200).image).save("photo.jpg")
    build("transformers").save_pretrained("model")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained("model")
    of_texts = two_towers.loaded()
    of_texts.model.save_pretrained("clip-model")
    of_texts.tokenizer.save_pretrained("clip-model")
    two_towers.processor().save_pretrained("clip-model")


@pytest.fixture
def _a_clip_and_a_scan(_a_photo_and_a_model: None) -> None:
    write_video(Path("clip.mp4"), clip())
    Path("frames").mkdir()
    for i, frame in enumerate(clip()):
        Image.fromarray(frame).save(f"frames/{i}.jpg")
    made = tiny()
    made.model.save_pretrained("video-model")
    VideoMAEVideoProcessor(**PROCESSED).save_pretrained("video-model")
    scan = np.random.default_rng(0).normal(size=(20, 30, 30)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), "scan.nii.gz")


@pytest.fixture
def _the_same_library_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adapters that a page registers are known to its programs alone."""
    from captum_vit.access import registry

    known = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(known)


@pytest.mark.usefixtures("_a_clip_and_a_scan", "_the_same_library_after")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_programs_of_a_page_run(page: Path):
    session: dict = {"__name__": page.stem}
    for program in programs(page):
        exec(compile(offline(program), str(page), "exec"), session)
        for name, shape in SHAPE.findall(program):
            assert tuple(session[name].shape) == tuple(map(int, shape.split(","))), name
            assert session[name].abs().max() > 0, name


def test_the_programs_are_found():
    found = {page: programs(page) for page in PAGES}
    assert len(found[ROOT / "README.md"]) >= 2
    assert len(found) >= 12, "README, home, first map, the methods and the how-tos have programs"
    shapes = [shape for page in found.values() for program in page for shape in SHAPE.findall(program)]
    assert len(shapes) >= 30


@pytest.mark.usefixtures("_a_photo_and_a_model")
def test_what_the_first_map_writes():
    (program,) = (text for text in programs(ROOT / "tutorials" / "start.md") if "e.flow.save" in text)
    exec(offline(program), {})
    assert {"flow.gif", "photo.html", "out"} <= {path.name for path in Path().iterdir()}


@pytest.mark.usefixtures("_a_photo_and_a_model")
def test_a_wrong_shape_in_a_comment_would_be_seen(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("```python\nimport torch\n\nmaps = torch.ones(2, 1, 4, 4)  # (2, 1, 4, 5)\n```\n")
    with pytest.raises(AssertionError, match="maps"):
        test_the_programs_of_a_page_run(page)


def commands() -> list[list[str]]:
    """The calls of captum-vit in the README and on all pages, each as its words."""
    texts = [
        page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "tutorials").rglob("*.md"))) if page.exists()
    ]
    blocks = [block.replace("\\\n", " ") for text in texts for block in COMMANDS.findall(text)]
    lines = [line.partition("&& ")[2] or line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("captum-vit ")]


def unknown_options(words: list[str]) -> list[str]:
    """What stands in a call and is no command or option of captum-vit."""
    known = typer.main.get_command(app).commands
    _, name, *rest = words
    if name not in known:
        return [name]
    options = {option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if word.startswith("--") and word != "--help" and word not in options]


def test_commands_have_the_options_that_pages_name():
    assert len(commands()) > 20
    assert [(words, unknown) for words in commands() if (unknown := unknown_options(words))] == []
    assert unknown_options(["captum-vit", "explain", "photo.jpg", "--colour", "red"]) == ["--colour"]


def test_programs_fit_a_page():
    """What is longer would have to be scrolled."""
    wide = [line for page in PAGES[1:] for program in programs(page) for line in program.splitlines() if len(line) > 98]
    assert wide == []


def test_the_readme_is_a_door():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130, "what a page can say, a page says"
    assert sum(line.startswith("pip install ") for line in text.splitlines()) == 2, ".ci/run runs these two lines"
