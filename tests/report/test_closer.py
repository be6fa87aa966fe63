"""A closer look: zoom, and what each head of each layer looks at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from captum_vit.colours import Look
from captum_vit.explained import Attribution
from captum_vit.report import render
from captum_vit.visualization import overlay
from captum_vit.wording import percent
from tests.report.helpers import Opened, drawn, explained, on_patch, pixels, with_heads


def told(page: Page) -> str:
    return page.locator("[data-part=readout]").first.inner_text()


def test_zoom_shows_the_same_patch_larger_where_it_was(opened: Opened):
    page = opened(render([explained()]))
    drawn(page)
    frame = page.locator("[data-part=frame]").bounding_box()
    at = on_patch(page, 2, 1, (7, 7))
    point = frame["x"] + at["x"], frame["y"] + at["y"]
    page.mouse.move(*point)
    here = told(page)
    assert "row 3, column 2" in here
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.mouse.move(point[0] + 1, point[1])
    assert told(page) == here
    larger = page.get_by_role("application").bounding_box()
    assert larger["width"] == pytest.approx(frame["width"] * np.e, rel=0.01)
    page.get_by_role("button", name="Zoom out").click()
    page.get_by_role("application").press("0")
    assert page.get_by_role("application").bounding_box()["width"] == pytest.approx(frame["width"])
    assert page.get_by_role("button", name="Zoom out").is_disabled()


def test_what_is_larger_than_its_frame_is_dragged_and_not_clicked(opened: Opened):
    page = opened(render([explained(attention=True)]), "#image-1&show=patches&patch=1")
    drawn(page)
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    frame = page.locator("[data-part=frame]").bounding_box()
    before = page.get_by_role("application").bounding_box()
    page.mouse.move(frame["x"] + 100, frame["y"] + 100)
    page.mouse.down()
    page.mouse.move(frame["x"] + 150, frame["y"] + 120, steps=4)
    page.mouse.up()
    after = page.get_by_role("application").bounding_box()
    assert after["x"] - before["x"] == pytest.approx(50, abs=1)
    assert after["y"] - before["y"] == pytest.approx(20, abs=1)
    expect(page.locator("[data-part=note]").first).to_contain_text("row 1, column 1,")
    page.mouse.click(frame["x"] + 100, frame["y"] + 100)
    expect(page.locator("[data-part=note]").first).not_to_contain_text("row 1, column 1,")


def test_each_head_of_each_layer(opened: Opened):
    explanation = with_heads(explained(attention=True))
    page = opened(render([explanation]))
    drawn(page)
    page.get_by_role("tab", name="Layers × heads").click()
    cells = page.get_by_role("gridcell")
    assert cells.count() == 4 * 3
    cells.nth(1 * 3 + 2).click()
    expect(page.locator("[data-part=note]").first).to_have_text("Attention of head 3 in blocks.1.attn, for the score")
    weights = explanation.attention.heads["blocks.1.attn"][2]
    look = Look(scale=(0, float(weights.max())))
    wanted = overlay(explanation.image.resize((672, 672), 0), weights, look=look)
    assert np.abs(drawn(page) - pixels(wanted)).max() <= 4
    page.get_by_role("application").hover(position=on_patch(page, 3, 5, (7, 7)))
    assert f"gets {percent(weights[3, 5].item())} of the attention" in told(page)
    page.get_by_role("slider", name="Block").fill("4")
    expect(page.locator("[data-part=note]").first).to_have_text("Attention of head 3 in blocks.3.attn, for the score")


def test_keys_move_from_head_to_head(opened: Opened):
    page = opened(render([with_heads(explained(attention=True))]), "#image-1&show=heads&block=2&head=1")
    drawn(page)
    page.get_by_role("gridcell", name="blocks.1.attn, head 1").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("gridcell", name="blocks.2.attn, head 2")).to_be_focused()
    expect(page.locator("[data-part=note]").first).to_contain_text("head 2 in blocks.2.attn")
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1


def test_a_layer_with_fewer_heads(opened: Opened):
    explanation = with_heads(explained(attention=True), heads=3)
    heads = {name: w[: 1 if name == "blocks.2.attn" else 3] for name, w in explanation.attention.heads.items()}
    del heads["blocks.0.attn"]
    fewer = replace(explanation, attention=replace(explanation.attention, heads=heads))
    page = opened(render([fewer]), "#image-1&show=heads&head=3&block=4")
    drawn(page)
    page.get_by_role("slider", name="Block").fill("3")
    expect(page.locator("[data-part=note]").first).to_have_text("Attention of head 1 in blocks.2.attn, for the score")
    assert page.locator("[role=gridcell][aria-selected=true]").count() == 1
    page.get_by_role("slider", name="Block").fill("1")
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1  # else no key reaches the others
    page.get_by_role("slider", name="Block").fill("4")
    expect(page.locator("[data-part=note]").first).to_have_text("Attention of head 3 in blocks.3.attn, for the score")


def test_heads_of_the_layers_of_the_method(opened: Opened):
    explanation = with_heads(explained(attention=True))
    one = Attribution("cam", None, torch.rand(1, 7, 7), ("blocks.3.attn",))
    page = opened(render([replace(explanation, attributions=(*explanation.attributions, one))]), "#image-1&show=heads")
    drawn(page)
    assert page.get_by_role("gridcell").count() == 12
    page.get_by_role("tab", name="cam").click()
    assert page.get_by_role("gridcell").count() == 3
    page.get_by_role("gridcell").nth(1).click()
    expect(page.locator("[data-part=note]").first).to_have_text("Attention of head 2 in blocks.3.attn, for the score")


def test_a_click_by_keyboard_after_dragging(opened: Opened):
    page = opened(render([explained()]))
    drawn(page)
    page.get_by_role("button", name="Zoom in").click()
    frame = page.locator("[data-part=frame]").bounding_box()
    page.mouse.move(frame["x"] + 100, frame["y"] + 100)
    page.mouse.down()
    page.mouse.move(frame["x"] + 150, frame["y"] + 120, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Zoom out").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Zoom out").is_disabled()
