"""By keyboard alone, by ear, in light and dark, narrow, wide and on paper."""

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from captum_vit.report import render
from tests.report.helpers import Opened, drawn, explained, with_heads

CONTROLS = {
    "button",
    "checkbox",
    "radio",
    "slider",
    "tab",
    "tablist",
    "tabpanel",
    "link",
    "application",
    "image",
    "table",
}
# Pairs of text and what lies behind it, with a contrast below WCAG's AA (4.5).
FAINT = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility()
    && !e.closest("script, style") && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  const faint = texts.map((e) => {
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
  return { count: texts.length, faint };
}"""


def nameless(page: Page) -> list[str]:
    """Roles of controls and pictures that a screen reader would have no name for."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    heard = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS - {"table"}]
    assert len(heard) > 6
    return [node["role"]["value"] for node in heard if not node.get("name", {}).get("value", "").strip()]


def test_everything_has_a_name(opened: Opened):
    page = opened(render([with_heads(explained(attention=True)), explained()]), "#image-1&show=heads")
    drawn(page)
    assert not nameless(page)
    page.get_by_role("button", name="All images").click()
    assert not nameless(page)
    for card in page.get_by_role("checkbox", name="side by side with others").all():
        card.check()
    page.get_by_role("button", name="Side by side: 2 images").click()
    assert not nameless(page)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a slider without its label")
def test_a_control_without_a_name(opened: Opened):
    page = opened(render([explained(attention=True)]).replace('aria-label="Block"', ""))
    drawn(page)
    assert not nameless(page)


def focused(page: Page) -> tuple[str, float]:
    """What has the focus, and how thick its outline is."""
    return tuple(
        page.evaluate("""() => {
      const e = document.activeElement, style = getComputedStyle(e);
      const name = e.dataset.part ?? e.getAttribute("role") ?? e.id.replace(/-\\d+$/, "") ?? "";
      const label = e.getAttribute("role") === "tab" ? "tab " + e.textContent : name || e.className || e.tagName;
      return [label, style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)];
    }""")
    )


def test_the_keyboard_reaches_everything_in_order(opened: Opened):
    page = opened(render([explained(attention=True)]))
    drawn(page)
    page.keyboard.press("Tab")
    stops = []
    while focused(page)[0] != "BODY":
        stops.append(focused(page))
        page.keyboard.press("Tab")
        assert len(stops) < 30, stops
    names = [name for name, _ in stops]
    assert names == [
        "skip",
        "tab tusker",
        "small",
        "tab daam",
        "small",
        "tab Map",
        "picture",
        "closer",
        "play",
        "block",
        "SUMMARY",
        "opacity",
        "fades",
        "alone",
        "own",
        "boost",
        "threshold",
        "contour",
    ]
    assert all(width >= 1 for _, width in stops)


def test_every_control_answers_to_the_keyboard(opened: Opened):
    page = opened(render([explained(attention=True)]))
    before = drawn(page)

    def reach(name: str) -> None:
        for _ in range(40):
            if focused(page)[0] == name:
                return
            page.keyboard.press("Tab")
        raise AssertionError(name)

    reach("tab tusker")
    page.keyboard.press("ArrowRight")
    assert focused(page)[0] == "tab zebra"
    reach("picture")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-part=readout]")).to_contain_text("of the map’s evidence")
    reach("play")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    reach("block")
    page.keyboard.press("Home")
    reach("own")
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("radio", name="Common scale").is_checked()
    for name in ("boost", "fades"):
        reach(name)
        page.keyboard.press("Space")
    for name, told in {"threshold": "above", "contour": "around"}.items():
        reach(name)
        page.keyboard.press("End")
        expect(page.locator(f"[data-part={told}]")).to_have_text("100 %")
        page.keyboard.press("Home")
        expect(page.locator(f"[data-part={told}]")).to_have_text("none")
    reach("tab Map")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-part=note]")).to_contain_text("Attention of the patch")
    assert np.abs(drawn(page) - before).mean() > 1
    reach("SUMMARY")
    page.keyboard.press("Enter")
    reach("save-png")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_the_skip_link_leads_to_the_pictures(opened: Opened):
    page = opened(render([explained()]))
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the pictures")
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.keyboard.press("Tab")
    assert focused(page)[0] == "tab tusker"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened: Opened, scheme):
    page = opened(render([explained(attention=True), explained(labels=())]), "#image-1", color_scheme=scheme)
    drawn(page)
    page.get_by_role("tab", name="Patch to patch").click()
    result = page.evaluate(FAINT)
    assert result["count"] > 30
    assert not result["faint"]
    page.get_by_role("button", name="All images").click()
    assert not page.evaluate(FAINT)["faint"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper.partition("(")[2].split(",")[0]) < 60) == (scheme == "dark")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: grey on white")
def test_contrast_that_is_too_low(opened: Opened):
    page = opened(render([explained()]))
    page.evaluate("document.documentElement.style.setProperty('--quiet', '#9a9a9a')")
    assert not page.evaluate(FAINT)["faint"]


LONG = "an_uncommonly_long_name_without_any_place_to_break_it_" * 3


@pytest.mark.parametrize("width", [320, 360, 768, 1600])
@pytest.mark.parametrize("size", [(224, 224), (120, 400), (1200, 200)], ids=str)
def test_no_width_makes_it_scroll_sideways(opened: Opened, width, size):
    explanations = [explained(size, attention=True), explained(size, source=LONG)]
    page = opened(render(explanations), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name=LONG).click()
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    area = page.get_by_role("application").first.bounding_box()
    assert area is not None
    assert area["width"] / area["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    assert area["width"] >= min(0.8 * width, 100)
    if width == 1600:
        assert area["height"] <= 620


def test_nothing_is_told_while_it_plays(opened: Opened):
    page = opened(render([explained()]), reduced_motion="reduce")
    drawn(page)
    spoken = page.locator("[aria-live=polite]")
    expect(spoken).to_have_text("")
    page.get_by_role("button", name="Play").click()
    heard = set()
    while page.get_by_role("button", name="Pause").count():
        heard.add(spoken.inner_text())
    assert heard == {""}
    expect(spoken).to_have_text("blocks.3.attn, 4 of 4")


def test_on_paper(opened: Opened):
    page = opened(render([explained(attention=True), explained()]), "#image-1", color_scheme="dark")
    drawn(page)
    page.emulate_media(media="print")
    assert page.get_by_role("button").count() == page.get_by_role("slider").count() == 0
    expect(page.locator("#image-1 [data-part=note]")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.evaluate(FAINT)["faint"]
    assert page.pdf().startswith(b"%PDF")


ONE = ["#image-1", "#image-1&show=patches", "#image-1&show=heads"]
SHOWN = ["", *ONE, "#abreast&images=1.2", "#abreast&images=1&of=method"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1600])
def test_axe_finds_nothing(opened: Opened, width, scheme):
    html = render([with_heads(explained(attention=True)), explained(source="two.jpg")])
    for place in SHOWN:
        page = opened(html, place, viewport={"width": width, "height": 900}, color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert not [(each["id"], [node["html"] for node in each["nodes"]]) for each in found], place


def test_axe_finds_what_is_wrong(opened: Opened):
    page = opened(render([explained()]).replace('aria-label="Block"', ""))
    drawn(page)
    assert [each["id"] for each in Axe().run(page).response["violations"]] == ["label"]


def test_the_first_look_needs_no_scrolling(opened: Opened):
    page = opened(render([explained((400, 400))]), viewport={"width": 1280, "height": 900})
    drawn(page)
    for part in ("canvas", "play", "block", "bar", "unit"):
        box = page.locator(f".explanation [data-part={part}]").bounding_box()
        assert box["y"] + box["height"] <= 900, part
