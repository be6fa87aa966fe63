"""The program of the page on shortcuts runs, and its figures are what they are called."""

import importlib.util
import json
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from captum_vit import load_model
from captum_vit.sample.hard import MARKED, SKIED
from tests.tutorials.execute import TUTORIALS

PAGE, PROGRAM = TUTORIALS / "shortcut.md", TUTORIALS / "shortcut.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    found = importlib.util.spec_from_file_location("shortcut", PROGRAM)
    module = importlib.util.module_from_spec(found)
    sys.modules["shortcut"] = module
    found.loader.exec_module(module)
    return module


def rows(text: str) -> list[str]:
    """What the rows of a table of figures are called."""
    return [match[1] for match in re.finditer(r"^\| ([^|]+) \| [\d.]+ \([\d.]+ to [\d.]+\) \|", text, re.MULTILINE)]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # so few scenes lack a class
def test_it_runs_and_gives_what_the_page_has(program, tmp_path, capsys):
    program.main(["--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert list(found) == list(program.MODELS)
    shown = rows(capsys.readouterr().out)
    assert shown == list(found["as it comes"])
    assert shown == rows(PAGE.read_text())
    assert found["labels alone"] != found["as it comes"]
    with Image.open(tmp_path / "maps.webp") as picture, Image.open(TUTORIALS / "pictures/shortcut.webp") as committed:
        assert picture.size == committed.size


def test_the_page_shows_the_program_s_own_lines(program):
    source = "\n".join(line.strip() for line in PROGRAM.read_text().splitlines())
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip() not in ("", "...")]
    assert len(lines) > 8
    assert [line for line in lines if line not in source] == []


def test_no_shortcut_of_a_lesson_comes_without_its_object(program):
    seen = program.lesson(np.random.default_rng(5), 24)
    assert len(seen.images) == 24
    assert seen.truth.gather(1, seen.asked[:, None]).all()
    assert seen.reasons.flatten(1).any(1).all()
    again = program.lesson(np.random.default_rng(5), 24)
    assert torch.equal(seen.images, again.images), "both copies see the same"
    batch = program.Plan.draw(np.random.default_rng(5), 72, mark=0.4, sky=0.4, beside=1.0).render(96)
    kept = (batch.masks.any((2, 3)) | ~batch.shortcuts.any((2, 3))).all(1) & batch.masks.any((1, 2, 3))
    tempting = batch.shortcuts.any((2, 3))[kept][:24]
    assert tempting.any(), "there is something to be asked about"
    has = tempting.any(1)
    assert tempting[has, seen.asked[has]].all()


class Always(nn.Module):
    """Names every class, whatever there is."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.one.expand(len(x), -1)


def test_answers_change_without_a_shortcut_where_they_rest_on_it(program):
    few = program.Profile(scenes=12)
    rests, never = (program.of_answers(model, few) for model in (load_model("sample/hard").model, Always()))
    for name in program.SHORTCUTS:
        text = f"{name} alone: the answer changes without it"
        assert rests[text][0] > 0.8
        assert never[text][0] == 0
    assert tuple(program.SHORTCUTS.values()) == (MARKED, SKIED)


@pytest.mark.parametrize(("hits", "count"), [(0, 40), (3, 40), (400, 400)])
def test_intervals_of_shares_are_wilsons(program, hits: int, count: int):
    """Its bounds p are those where |hits / n - p| is 1.96 standard errors at p; those at the share itself miss that."""
    value, *bounds = program.share(np.arange(count) < hits)
    assert value == hits / count
    for p in bounds:
        assert abs(value - p) == pytest.approx(1.96 * (p * (1 - p) / count) ** 0.5, abs=1e-9)
    plain = value + 1.96 * (value * (1 - value) / count) ** 0.5
    assert (
        abs(value - plain) != pytest.approx(1.96 * abs(plain * (1 - plain) / count) ** 0.5, abs=1e-3) or plain == value
    )
    assert bounds[1] - bounds[0] > 1e-3


def test_intervals_of_means_have_the_width_of_their_standard_error(program):
    values = np.random.default_rng(2).exponential(size=300)
    mean, low, high = program.over_scenes(values, np.mean, 2000)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.1)
