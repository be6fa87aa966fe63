"""Several images on one page: cards that are ordered and chosen, an address for all that is shown, and side by side."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from captum_vit.explained import Label
from captum_vit.explanation.explanation import Explanation
from captum_vit.report import pages, render
from captum_vit.verdicts import Verdict
from tests.report.helpers import LABELS, Opened, drawn, explained

SCORES = {"a cat.jpg": 0.3, "b dog.jpg": 0.9, "c cat.jpg": 0.6}


def folder() -> list[Explanation]:
    """Three images of two classes with scores of their own; the map of the second is no better than random."""
    found = []
    for i, (source, score) in enumerate(SCORES.items()):
        label = Label(i % 2, ("cat", "dog")[i % 2], score)
        found.append(explained(labels=(label, Label(5, "tree", 0.01)), source=source))
    first, *others = found[1].attributions
    verdict = Verdict("dog", 0.9, 0.89, (0.85, 0.895), "chance", tokens=4, patches=49, draws=7)
    found[1] = replace(found[1], attributions=(replace(first, verdict=verdict), *others))
    return found


def names(page: Page) -> list[str]:
    return page.locator("nav li:visible .name").all_text_contents()


def test_cards_say_what_the_model_says(opened: Opened):
    page = opened(render(folder()))
    assert page.locator(".explanation:visible").count() == 0
    assert names(page) == list(SCORES)
    cards = page.locator("nav li")
    expect(cards.nth(0)).to_contain_text("cat, 30.0 %")
    expect(cards.nth(1).locator(".badge")).to_have_text("no better than random")
    assert cards.nth(0).locator(".badge").count() == 0


def test_the_order_and_the_choice_of_cards(opened: Opened):
    page = opened(render(folder()))
    page.get_by_label("Order").select_option("surest first")
    assert names(page) == ["b dog.jpg", "c cat.jpg", "a cat.jpg"]
    page.get_by_label("Order").select_option("least sure first")
    assert names(page) == ["a cat.jpg", "c cat.jpg", "b dog.jpg"]
    page.get_by_label("Order").select_option("doubtful maps first")
    assert names(page) == ["b dog.jpg", "a cat.jpg", "c cat.jpg"]
    page.get_by_label("Predicted", exact=True).select_option("cat")
    assert names(page) == ["a cat.jpg", "c cat.jpg"]
    expect(page.get_by_role("status")).to_have_text("2 of 3 images")
    page.get_by_label("Name").fill(" C c")
    assert names(page) == ["c cat.jpg"]
    page.get_by_label("Name").fill("")
    page.get_by_label("Predicted", exact=True).select_option("any class")
    page.get_by_role("checkbox", name="Doubtful maps only").check()
    assert names(page) == ["b dog.jpg"]


def test_what_is_wrong_comes_first_where_the_right_class_is_known(opened: Opened):
    first, second, third = folder()
    known = [replace(first, truth="cat"), replace(second, truth="cat"), third]
    page = opened(render(known))
    page.get_by_label("Order").select_option("wrong ones first")
    assert names(page) == ["b dog.jpg", "a cat.jpg", "c cat.jpg"]
    cards = page.locator("nav li")
    assert cards.nth(0).locator(".badge").all_text_contents() == ["wrong: it is cat", "no better than random"]
    assert cards.nth(1).locator(".badge").count() == cards.nth(2).locator(".badge").count() == 0
    page.get_by_role("link", name="b dog.jpg").click()
    expect(page.locator("dl:visible")).to_contain_text("Right class")
    assert opened(render([first, second])).get_by_role("option", name="wrong ones first").count() == 0


def test_images_follow_one_another_as_the_gallery_stands(opened: Opened):
    page = opened(render(folder()))
    page.get_by_label("Order").select_option("surest first")
    page.get_by_role("link", name="b dog.jpg").click()
    expect(page.get_by_role("heading", name="b dog.jpg")).to_be_focused()
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("heading", name="c cat.jpg")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="b dog.jpg")).to_be_visible()
    page.get_by_role("button", name="All images").click()
    assert names(page) == ["b dog.jpg", "c cat.jpg", "a cat.jpg"]


def test_what_is_chosen_of_one_image_holds_for_the_next(opened: Opened):
    page = opened(render(folder()), "#image-1")
    drawn(page)
    page.get_by_role("tab", name="tree").click()
    page.get_by_role("slider", name="Block").fill("2")
    page.get_by_role("slider", name="Opacity of the map").fill("40")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("tab", name="tree")).to_have_attribute("aria-selected", "true")
    assert page.get_by_role("slider", name="Block").input_value() == "2"
    assert page.get_by_role("slider", name="Opacity of the map").input_value() == "40"


def test_an_address_leads_to_what_was_seen(opened: Opened):
    html = render([*folder(), explained(attention=True, source="d.jpg")])
    page = opened(html, "#image-4")
    drawn(page)
    page.get_by_role("tab", name="zebra").click()
    page.get_by_role("slider", name="Block").fill("3")
    page.get_by_role("checkbox", name="Boost faint values").check()
    page.get_by_role("radio", name="Common scale").check()
    page.get_by_role("slider", name="Contour").fill("50")
    page.get_by_role("tab", name="Patch to patch").click()
    page.get_by_role("application").press("ArrowUp")
    page.get_by_role("application").press("Enter")
    expect(page).to_have_url(re.compile("contour=50"))
    expect(page).to_have_url(re.compile("show=patches"))
    seen, told = drawn(page), page.locator("#image-4 [data-part=note]").inner_text()
    again = opened(html, page.url[page.url.index("#") :])
    expect(again.locator("#image-4 [data-part=note]")).to_have_text(told)
    assert np.array_equal(drawn(again), seen)


@pytest.mark.parametrize(
    "place",
    [
        "#image-99",
        "#image-0",
        "#nonsense&x",
        "#image-1&block=-3&patch=999&show=x&method=%E0%A4%A",
        "#abreast&images=9",
    ],
)
def test_an_address_of_nothing_leads_to_something(opened: Opened, place):
    page = opened(render(folder()), place)
    assert page.locator(".explanation:visible, nav:visible").count() == 1


def test_a_target_that_nobody_could_write_into_an_address(opened: Opened):
    odd = Label(None, "a&b=c #%", 1.0, unit="logit")
    html = render([explained(labels=(*LABELS, odd)), explained()])
    page = opened(html, f"#image-1&target={quote(odd.title, safe='')}")
    expect(page.get_by_role("tab", name=odd.title)).to_have_attribute("aria-selected", "true")


def test_images_side_by_side_on_one_slider(opened: Opened):
    found = folder()
    page = opened(render(found))
    button = page.get_by_role("button", name="Side by side")
    assert button.is_disabled()
    for pick in page.get_by_role("checkbox", name="side by side with others").all()[:2]:
        pick.check()
    button.click()
    figures = page.locator("#abreast figure")
    assert figures.count() == 2
    expect(figures.nth(1)).to_contain_text("b dog.jpg")
    expect(figures.nth(1)).to_contain_text("no better than random")
    page.get_by_role("slider", name="Block").fill("1")
    for figure in figures.all():
        expect(figure.locator("[data-part=layer]")).to_have_text("blocks.0.attn, 1 of 4")
    page.get_by_role("radio", name="Common scale").check()
    expect(page.locator("#common-hint")).to_have_text("one for all blocks and maps of a method")
    low = min(found[i].attributions[0].flow.min().item() for i in range(2))
    high = max(found[i].attributions[0].flow.max().item() for i in range(2))
    for figure in figures.all():
        ends = [float(figure.locator(f"[data-part={end}]").inner_text()) for end in ("low", "high")]
        assert ends == pytest.approx([low, high], rel=6e-3)
    page.get_by_role("button", name="Back").click()
    assert names(page) == list(SCORES)


def test_methods_and_targets_of_one_image_side_by_side(opened: Opened):
    page = opened(render([explained()]))
    drawn(page)
    page.get_by_role("button", name="Methods side by side").click()
    assert page.locator("#abreast figure strong").all_inner_texts() == ["daam", "rollout"]
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Targets side by side").click()
    lines = page.locator("#abreast figcaption").all_inner_texts()
    assert [line.split("\n")[2] for line in lines] == ["tusker, 81.2 %", "zebra, 15.0 %"]


def test_more_images_than_one_page_holds_have_pages_of_their_own(browser: Browser, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("captum_vit.report.page.TOGETHER", 2)
    written = dict(pages(iter(folder()), 4, "all.html"))  # one of four could not be read
    assert list(written) == [*(f"all-images/0000{i}.html" for i in (1, 2, 3)), "all.html"]
    (tmp_path / "all-images").mkdir()
    for name, html in written.items():
        (tmp_path / name).write_text(html, encoding="utf-8")
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: asked.append(message.text))
        page.goto((tmp_path / "all.html").as_uri())
        assert page.get_by_role("button", name="Side by side").count() == 0
        page.get_by_role("link", name="a cat.jpg").click()
        drawn(page)
        assert page.get_by_role("link", name="Previous").count() == 0
        page.get_by_role("tab", name="tree").click()
        page.get_by_role("slider", name="Block").fill("2")
        page.get_by_role("slider", name="Opacity of the map").fill("40")
        page.get_by_role("link", name="Next").click()
        expect(page.get_by_role("heading", name="b dog.jpg")).to_be_visible()
        expect(page.get_by_role("tab", name="tree")).to_have_attribute("aria-selected", "true")
        assert page.get_by_role("slider", name="Block").input_value() == "2"
        page.get_by_role("link", name="Next").click()
        expect(page.get_by_role("heading", name="c cat.jpg")).to_be_visible()
        assert page.get_by_role("link", name="Next").count() == 0
        page.get_by_role("link", name="All images").click()
        page.get_by_role("link", name="b dog.jpg").click()
        expect(page.get_by_role("tab", name="tree")).to_have_attribute("aria-selected", "true")
        assert page.get_by_role("slider", name="Opacity of the map").input_value() == "40"
        assert all(url.startswith((tmp_path.as_uri(), "data:")) for url in asked), asked


def test_a_page_of_any_name_leads_to_its_images(monkeypatch):
    monkeypatch.setattr("captum_vit.report.page.TOGETHER", 1)
    first, *_, page = (html for _, html in pages(folder(), 3, "100%: a#b?.html"))
    assert 'href="100%25%3A%20a%23b%3F-images/00001.html"' in page
    assert 'href="../100%25%3A%20a%23b%3F.html"' in first


def test_no_more_than_six_are_chosen(opened: Opened):
    page = opened(render([explained(source=f"{i}.jpg") for i in range(7)]))
    picks = page.get_by_role("checkbox", name="side by side with others").all()
    for pick in picks[:6]:
        pick.check()
    assert picks[6].is_disabled()
    picks[0].uncheck()
    assert picks[6].is_enabled()
