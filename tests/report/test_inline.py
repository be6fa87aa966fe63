"""What a notebook shows."""

import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from captum_vit.colours import Scale
from captum_vit.explanation.explanation import Explanation
from captum_vit.report import render_inline
from captum_vit.visualization import overlay
from tests.report.helpers import CONTRAST, EVIL, LABELS, Opened, explained, of_two_signs, pixels, renamed


def test_overlays_side_by_side_and_the_labels(opened: Opened):
    page = opened("<!DOCTYPE html><meta charset=utf-8>" + explained()._repr_html_())
    images = page.get_by_role("img")
    names = ["daam: tusker", "daam: zebra", "rollout"]
    assert [image.get_attribute("alt") for image in images.all()] == [f"{n}, drawn over the image" for n in names]
    assert page.locator("figcaption").all_inner_texts() == names
    areas = [image.bounding_box() for image in images.all()]
    assert len({area["y"] for area in areas}) == 1
    assert all(area["width"] == area["height"] == 192 for area in areas)
    expect(page.get_by_role("row", name="tusker")).to_contain_text("81.2 %")
    assert page.get_by_text("zoo.jpg (timm/vit_tiny)").is_visible()


def test_no_scripts_and_nothing_from_elsewhere(scene: Explanation):
    piece = render_inline(scene)
    assert not re.search(r"<script|<link|<style|\son\w+=|url\(", piece)
    assert all(source.startswith("data:image/") for source in re.findall('src="([^"]*)"', piece))
    assert len(piece) < 200_000


def test_names_from_outside_stay_text(opened: Opened):
    page = opened("<!DOCTYPE html><meta charset=utf-8>" + render_inline(renamed(explained(), EVIL)))
    assert page.locator("img[src=x]").count() == page.locator("script").count() == 0
    expect(page.locator("figcaption").last).to_have_text(EVIL + "rollout")
    assert page.get_by_role("row", name=EVIL).count() == len(LABELS)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a name that is not escaped")
def test_a_name_that_is_not_escaped(opened: Opened):
    piece = render_inline(explained()).replace("zoo.jpg", "<img src=x>")
    assert opened("<!DOCTYPE html><meta charset=utf-8>" + piece).locator("img[src=x]").count() == 0


def test_two_signs_have_their_colours_and_a_key():
    explanation = of_two_signs(explained())
    piece = render_inline(explanation)
    assert "<p>LRP: orange for, blue against</p>" in piece
    assert "against" not in render_inline(explained())
    data = b64decode(re.findall('src="data:image/jpeg;base64,([^"]*)"', piece)[0])
    shown = pixels(Image.open(BytesIO(data)))
    first = explanation.attributions[0]
    small = explanation.image.resize((192, 192), Image.Resampling.LANCZOS)
    unsigned = Scale.of([first.map], signed=False)
    assert np.abs(shown - pixels(overlay(small, first.map, explanation.view))).mean() < 4
    assert np.abs(shown - pixels(overlay(small, first.map, explanation.view, scale=unsigned))).mean() > 10


def test_a_target_that_is_no_class_has_its_unit():
    piece = render_inline(explained(labels=(*LABELS, CONTRAST)))
    assert ">Target</th>" in piece
    assert "logit difference -2.35</td>" in piece
    assert "81.2 %" in piece


def test_without_classes_there_is_no_table():
    piece = render_inline(explained(labels=()))
    assert "<table" not in piece
    assert piece.count("<img") == 2


def test_of_many_overlays_the_first(scene: Explanation):
    many = Explanation(scene.image, scene.view, scene.attributions * 3)
    piece = render_inline(many)
    assert piece.count("<img") == 12
    assert f"<p>{len(many) - 12} more: see to_html()</p>" in piece


def test_what_a_user_should_know_is_there_and_stays_text():
    odd = replace(explained(), notes=("preprocessing: timm's", f"page 0 of its 3 is read {EVIL}"))
    piece = render_inline(odd)
    assert "<p>page 0 of its 3 is read &lt;img" in piece
    assert "preprocessing" not in piece
    assert "page 0" not in render_inline(explained())
