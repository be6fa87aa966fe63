"""What is left, come back to, taken along and printed, also where the page has no address of its own."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from playwright.sync_api import FrameLocator, expect

from captum_vit.report import render
from tests.report.helpers import Opened, drawn, explained, noise


@pytest.fixture
def framed(opened: Opened) -> Callable[[str], FrameLocator]:
    """The page in a frame that is nowhere, as the app shows it."""

    def visit(html: str) -> FrameLocator:
        page = opened(
            f'<iframe style="width:100%;height:95vh" sandbox="allow-scripts" srcdoc="{escape(html)}"></iframe>'
        )
        return page.frame_locator("iframe")

    return visit


def test_nothing_plays_on_that_is_left(opened: Opened):
    page = opened(render([explained(source="a.jpg"), explained(source="b.jpg")]), "#image-1")
    drawn(page)
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Previous").click()
    assert page.locator("#image-1 [data-part=play]").inner_text() == "Play"
    page.goto(page.url.split("#")[0] + "#abreast&images=1.2")
    page.locator("#abreast").get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Back").click()
    assert page.locator("#abreast [data-part=play]").text_content() == "Play"


def test_the_skip_link_leaves_what_is_shown(opened: Opened):
    page = opened(render([explained(source="a.jpg"), explained(source="b.jpg")]), "#image-2&target=zebra")
    page.get_by_role("link", name="Skip to the pictures").focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    expect(page.get_by_role("heading", name="b.jpg")).to_be_visible()
    expect(page.get_by_role("tab", name="zebra")).to_have_attribute("aria-selected", "true")


def test_back_in_a_frame_without_an_address(framed: Callable[[str], FrameLocator]):
    frame = framed(render([explained(source="a.jpg"), explained(source="b.jpg")]))
    frame.get_by_role("link", name="b.jpg").click()
    frame.get_by_role("tab", name="zebra").click()
    frame.get_by_role("button", name="Methods side by side").click()
    expect(frame.locator("#abreast figure")).to_have_count(2)
    frame.get_by_role("button", name="Back").click()
    expect(frame.get_by_role("heading", name="b.jpg")).to_be_visible()
    expect(frame.get_by_role("tab", name="zebra")).to_have_attribute("aria-selected", "true")


def test_back_from_an_address_leads_into_the_page(opened: Opened):
    html = render([explained(source="a.jpg"), explained(source="b.jpg")])
    page = opened(html, "#abreast&images=1.2")
    page.get_by_role("button", name="Back").click()
    expect(page.locator("nav li:visible")).to_have_count(2)
    page = opened(html, "#abreast&images=2&of=method&target=zebra")
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("heading", name="b.jpg")).to_be_visible()
    expect(page.get_by_role("tab", name="zebra")).to_have_attribute("aria-selected", "true")


def test_all_images_leads_back_to_the_card_of_the_image(opened: Opened):
    page = opened(
        render([explained((60, 60), source=f"{i}.jpg") for i in range(12)]), viewport={"width": 500, "height": 400}
    )
    page.get_by_role("link", name="11.jpg").click()
    page.get_by_role("button", name="All images").click()
    link = page.get_by_role("link", name="11.jpg")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()


def test_what_was_not_opened_is_on_paper_as_a_still_picture(opened: Opened):
    page = opened(render([explained(source=f"{i}.jpg") for i in range(3)]), "#image-2")
    drawn(page)
    page.emulate_media(media="print")
    assert page.locator(".explanation:visible").count() == 3
    for number in (1, 3):
        section = page.locator(f"#image-{number}")
        expect(section.locator("figure img")).to_be_visible()
        expect(section.locator("[data-part=panel]")).to_be_hidden()
    expect(page.locator("#image-2 canvas").first).to_be_visible()
    expect(page.locator("#image-2 figure img")).to_be_hidden()


def test_side_by_side_on_paper(opened: Opened):
    page = opened(render([explained(source=f"{i}.jpg") for i in range(2)]), "#abreast&images=1.2")
    page.locator("#abreast [data-part=canvas]").first.wait_for()
    page.emulate_media(media="print")
    expect(page.locator("#abreast figure")).to_have_count(2)
    expect(page.locator("#abreast figure").first).to_be_visible()
    assert page.locator(".explanation:visible").count() == 0


def test_images_of_one_name_are_not_one_image(opened: Opened):
    found = [replace(explained(), image=noise((224, 224), seed)) for seed in range(2)]
    page = opened(render(found), "#abreast&images=1.2")
    page.locator("#abreast canvas[data-part=canvas]").first.wait_for()
    page.get_by_role("application").first.hover(position={"x": 20, "y": 20})
    readouts = page.locator("#abreast [data-part=readout]")
    expect(readouts.nth(0)).to_contain_text("Row 1, column 1")
    expect(readouts.nth(1)).to_have_text("")


def test_pictures_side_by_side_are_told_with_their_images(opened: Opened):
    page = opened(render([explained(source=f"{i}.jpg") for i in "ab"]), "#abreast&images=1.2")
    for name, canvas in zip(("a.jpg", "b.jpg"), page.locator("#abreast canvas[data-part=canvas]").all(), strict=True):
        expect(canvas).to_have_attribute("aria-label", re.compile(f"daam, {name}, tusker, 81.2 %, blocks.3"))


def test_few_pictures_are_kept_of_the_images_that_were_opened(opened: Opened):
    page = opened(render([explained((60, 60), source=f"{i}.jpg") for i in range(12)]), "#image-1")
    first = drawn(page)
    for _ in range(11):
        page.get_by_role("button", name="Next").click()
    page.locator("#image-12 canvas").first.wait_for()
    kept = page.locator(".explanation canvas[data-part=canvas]").evaluate_all(
        "all => all.filter((c) => c.width > 300).length"
    )
    assert kept <= 8
    page.goto(page.url.split("#")[0] + "#image-1")
    expect(page.get_by_role("heading", name="0.jpg")).to_be_visible()
    assert np.array_equal(drawn(page), first)
