"""The examples in docstrings run and give what they say, and all that is public has one.

Their names are those of a session that has a model, images and a photograph; what they download is replaced.
"""

import doctest
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import captum_vit
from captum_vit import Preprocessing, access, capture, explain, sample, targets
from captum_vit.access import registry
from captum_vit.geometry import View
from captum_vit.images import open_image
from tests.families import two_towers

OFFLINE = {"timm/vit_base_patch16_224": "sample", 'target="tabby")': 'target="triangle")'}
PUBLIC = {name: getattr(captum_vit, name) for name in captum_vit.__all__ if name != "__version__"}
for room in (targets, access, capture):
    PUBLIC |= {n: getattr(room, n) for n in room.__all__ if isinstance(getattr(room, n), type)}


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(captum_vit.__path__, "captum_vit.")
    names = [each.name for each in found if ".adapters" not in each.name and not each.name.endswith("__main__")]
    return [importlib.import_module(name) for name in names]


def examples(text: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(text)


FINDER = doctest.DocTestFinder(exclude_empty=True)
TESTS = {test.name: test for module in modules() for test in FINDER.find(module) if test.examples}


def network(**changes: Any) -> VisionTransformer:
    """Widths and depth of ViT-B/16, with so small an MLP that it takes no time."""
    return VisionTransformer(embed_dim=768, depth=12, num_heads=12, mlp_ratio=0.05, **changes).eval()


def squash(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((224, 224)))).permute(2, 0, 1) / 127.5 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a photograph lies."""
    found = tmp_path_factory.mktemp("photos")
    Image.fromarray(sample.draw_scene(15, objects=2, size=640).image).resize((640, 480)).save(found / "photo.jpg")
    return found


@pytest.fixture(scope="module")
def session(folder: Path) -> dict[str, Any]:
    """What a reader has who tries the examples."""
    torch.manual_seed(0)
    model, images, photo = network(), torch.randn(2, 3, 224, 224), open_image(folder / "photo.jpg")
    asked = {"preprocess": Preprocessing(squash, lambda size: View.of(size).resized(224, 224))}
    asked |= {"class_names": {281: "tabby", 285: "Egyptian cat"}, "target": "tabby/Egyptian cat"}
    known = {"torch": torch, "np": np, "dataclass": dataclass, "__name__": "__main__", "captum_vit": captum_vit}
    for room in (captum_vit, targets, access, capture):
        known |= {name: getattr(room, name) for name in room.__all__}
    return {
        **known,
        "model": model,
        "dino": network(num_classes=0),
        "clip": two_towers.clip(vocab_size=50, bos_token_id=48, eos_token_id=49).float(),
        "image_feature": torch.randn(16),
        "images": images,
        "photo": photo,
        "photos": [photo],
        "tokens": captum_vit.tokens(photo, model, blocks=[-2, -1], lens=True, preprocess=asked["preprocess"]),
        "explanation": explain(folder / "photo.jpg", model, **asked),
    }


@pytest.fixture
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(Image.Image, "show", lambda image: None)


class Checker(doctest.OutputChecker):
    """An example that says nothing of what comes may print whatever it likes."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def run(test: doctest.DocTest, session: dict[str, Any]) -> None:
    offline = doctest.DocTest([], dict(session), test.name, test.filename, test.lineno, test.docstring)
    for example in test.examples:
        source = example.source
        for online, here in OFFLINE.items():
            source = source.replace(online, here)
        told = {"lineno": example.lineno, "options": example.options, "exc_msg": example.exc_msg}
        offline.examples.append(doctest.Example(source, example.want, **told))
    said: list[str] = []
    result = doctest.DocTestRunner(Checker()).run(offline, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted == len(test.examples)


@pytest.mark.usefixtures("_in_the_folder")
@pytest.mark.parametrize("name", TESTS)
def test_an_example_runs(name: str, session: dict[str, Any]):
    run(TESTS[name], session)


def without_example(public: dict[str, Any]) -> list[str]:
    return [name for name, thing in public.items() if not examples(inspect.getdoc(thing) or "")]


def test_all_that_is_public_has_an_example():
    assert not without_example(PUBLIC)
    assert len(PUBLIC) >= 30


def test_the_examples_are_found():
    assert {"captum_vit.attr.agcam.AGCAM", "captum_vit.targets", "captum_vit.capture.run.Run"} <= TESTS.keys()
    asleep = [name for name, test in TESTS.items() for e in test.examples if e.options.get(doctest.SKIP)]
    assert asleep == []


@pytest.mark.parametrize(
    "text",
    [
        ">>> AGCAM(model).attribute(images, target=281).shape\ntorch.Size([2, 1, 14, 15])\n",
        ">>> AGCAM(modell).attribute(images)\n",
        ">>> AGCAM(model).attribute(images, target=1000)\n",
    ],
    ids=["another shape", "a name that is not there", "an error"],
)
def test_an_example_that_is_wrong_would_be_seen(text: str, session: dict[str, Any]):
    broken = doctest.DocTestParser().get_doctest(text, {}, "broken", None, 0)
    with pytest.raises(AssertionError, match="Failed example"):
        run(broken, session)


def test_what_has_no_example_would_be_seen():
    def told() -> None:
        """Says what it does.

        >>> told()
        """

    def silent() -> None:
        """Says what it does."""

    assert without_example({"told": told, "silent": silent}) == ["silent"]
