"""The gallery has every method, and says of each what the tables and the library say."""

import re

import pytest
from PIL import Image

from captum_vit import explain
from captum_vit.attr import METHODS
from tests.tutorials import pictures
from tests.tutorials.pictures import ASKED, ASKS, GALLERY, GROUPS, ON_WOOD, PAGE, card, cost, group, scene

OURS = {name for name, method in METHODS.items() if method.__module__.startswith("captum_vit.attr.")}
LARGEST = 400_000  # bytes of all pictures of the gallery
REMAKE = "python -m tests.tutorials.pictures"


def shown(page: str) -> dict[str, str]:
    """What the page says of each method, by the name of its picture."""
    cards = re.findall(r"^### .*?(?=^</div>)", page, re.MULTILINE | re.DOTALL)
    return {re.search(r"gallery/(\w+)\.webp", text)[1]: text for text in cards}


def test_every_method_is_on_the_page_and_has_a_picture_and_a_question():
    files = {path.stem for path in GALLERY.glob("*.webp")} - {"scene"}
    assert shown(PAGE.read_text()).keys() == files == OURS, REMAKE
    assert ASKS.keys() >= OURS


def test_a_method_that_is_missing_would_be_seen():
    text = PAGE.read_text().replace("gallery/agcam.webp", "gallery/other.webp")
    assert shown(text).keys() ^ OURS == {"agcam", "other"}


def test_each_stands_under_its_heading_with_its_cost():
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in parts] == list(GROUPS)
    for part in parts:
        for name, text in shown(part).items():
            assert group(name) == part.partition("\n")[0], name
            assert f"Forwards: {cost(name)}<br>\n" in text, name
            assert ASKS[name] in text, name


def test_the_pictures_are_small_and_hold_a_map_for_each_class():
    assert sum(path.stat().st_size for path in GALLERY.iterdir()) < LARGEST
    for name in OURS:
        with Image.open(GALLERY / f"{name}.webp") as picture:
            assert (picture.width > 1.5 * picture.height) == METHODS[name].class_specific, name


@pytest.mark.parametrize("name", ["agcam", "cp_lrp", "grad_eclip", "rollout"])
def test_what_stands_there_comes_out_today(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "GALLERY", tmp_path)
    image, batch = scene(ON_WOOD)
    explanation = explain(image, "sample/hard", method=name, target=ASKED, verdict=True)
    assert card(name, explanation, batch) in PAGE.read_text(), REMAKE
