"""The page as a file: whole, closed to the outside, small; names that come from outside stay text."""

import re
from dataclasses import astuple, replace
from html import escape

import pytest
import torch
from playwright.sync_api import expect
from timm.models.vision_transformer import VisionTransformer
from torchvision.transforms import Compose, Resize, ToTensor

import captum_vit
from captum_vit.errors import InputError
from captum_vit.explained import AttentionRecord, Attribution, Label
from captum_vit.explanation.explanation import Explanation
from captum_vit.geometry import View
from captum_vit.report import render
from captum_vit.report.encoding import json_block
from captum_vit.report.facts import facts
from captum_vit.verdicts import Verdict
from tests.report.helpers import CONTRAST, EVIL, LABELS, Opened, drawn, explained, noise, renamed, watch


def test_it_is_one_page_with_a_title_and_a_language(opened: Opened):
    page = opened(render([explained()]))
    assert page.title() == "zoo.jpg: what timm/vit_tiny looked at"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).inner_text() == "What the model looked at"
    assert page.get_by_role("heading", name="zoo.jpg", level=2).is_visible()
    assert [h.inner_text() for h in page.get_by_role("heading", level=3).all()] == [
        "Predicted classes",
        "Facts",
        "Display",
    ]
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1


def test_the_policy_allows_nothing_but_what_is_in_the_page():
    page = render([explained()])
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    hashed = "'sha256-[A-Za-z0-9+/]{43}='"
    assert re.fullmatch(
        f"default-src 'none'; img-src data:; style-src {hashed}; script-src {hashed}; "
        "base-uri 'none'; form-action 'none'",
        policy[1],
    )
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page)
    assert not re.findall(r"""(?:src|href)="(?!data:|#)""", page)


@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ('<img src="https://example.com/x.png">', "Content Security Policy"),
        ("<script>1</script>", "Content Security Policy"),
        ('<p style="color: red">', "Content Security Policy"),
        ('<img src="data:," onerror="1">', "Content Security Policy"),
        ('<iframe src="https://example.com/"></iframe>', "Content Security Policy"),
    ],
)
def test_what_is_added_to_it_is_blocked_and_noticed(browser, tmp_path, added, complaint):
    file = tmp_path / "page.html"
    file.write_text(render([explained()]).replace("<main", added + "<main"), encoding="utf-8")
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        wrong = watch(page, file.as_uri())
        page.goto(file.as_uri())
        drawn(page)
    assert any(complaint in each for each in wrong)


def test_names_from_outside_stay_text(opened: Opened):
    page = opened(render([renamed(explained(attention=True), EVIL), renamed(explained(), EVIL)]))
    assert page.locator("nav .name").all_inner_texts() == [EVIL, EVIL]
    page.get_by_role("link", name=EVIL).first.click()
    drawn(page)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 2 + 2
    expect(page.get_by_role("heading", level=2).first).to_have_text(EVIL)
    expect(page.get_by_role("tablist", name="Class").first.get_by_role("tab").first).to_have_text(EVIL)
    expect(page.get_by_role("tablist", name="Method").first.get_by_role("tab").last).to_have_text(EVIL + "rollout")
    expect(page.locator("[data-part=layer]").first).to_have_text(f"{EVIL}, 4 of 4")
    expect(page.locator("dl").first).to_contain_text(f"{EVIL}={EVIL}")
    expect(page.locator("dl").first).to_contain_text(f"{EVIL} {EVIL}")
    assert page.title() == f"2 images: what {EVIL} looked at"
    assert page.get_by_role("row", name=EVIL).count() == 2
    page.get_by_role("application").first.press("ArrowUp")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a label that is not escaped")
def test_a_name_that_is_not_escaped(browser, tmp_path):
    file = tmp_path / "page.html"
    html = render([explained()])
    assert '<th scope="row">tusker</th>' in html
    file.write_text(html.replace('<th scope="row">tusker', f'<th scope="row">{EVIL}'), encoding="utf-8")
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        wrong = watch(page, file.as_uri())
        page.goto(file.as_uri())
        drawn(page)
        assert page.locator("img[src=x]").count() == 0
    assert not wrong


def test_sizes_stay_text():
    """An explanation made by hand may hold anything."""
    given = explained()
    view = View(Odd(given.view.original), Odd(given.view.size), *astuple(given.view)[2:])
    said = facts(replace(given, view=view))
    assert said.count(escape(EVIL)) == 2 + 2
    assert "<img" not in said


class Odd(tuple):
    """Numbers that say something else of themselves."""

    def __iter__(self):
        return iter(OddNumber(number) for number in super().__iter__())


class OddNumber(int):
    def __str__(self):
        return EVIL

    def __format__(self, how: str) -> str:
        return EVIL


def test_half_characters_in_names_do_no_harm(opened: Opened):
    page = opened(render([renamed(explained(), "caf\udce9\u2028 <!-- <script>")]))
    drawn(page)
    expect(page.get_by_role("heading", level=2)).to_have_text(r"caf\udce9\u2028 <!-- <script>")


def test_the_data_cannot_end_its_block():
    block = json_block({"</script><!--": "\u2028\u2029&<>"})
    assert not set(block) & set("<>&\u2028\u2029")


def big(methods: int, attention: bool) -> Explanation:
    """A 224-pixel image, 12 blocks of 196 patches."""
    names = tuple(f"blocks.{i}.attn" for i in range(12))
    flows = [Attribution(f"method{i}", None, torch.rand(12, 14, 14), names) for i in range(methods)]
    record = AttentionRecord({}, {name: torch.rand(196, 196).softmax(1) for name in names}) if attention else None
    size = (224, 224)
    return Explanation(noise(size), View.of(size), tuple(flows), (Label(1, "cat", 0.5),), "m", "s.png", {}, record)


@pytest.mark.parametrize(("attention", "limit"), [(False, 450_000), (True, 1_250_000)])
def test_the_page_is_small(attention, limit):
    assert len(render([big(5, attention)])) < limit < 3_000_000


def test_even_of_a_large_photograph_with_attention():
    explanation = replace(big(5, True), image=noise((4000, 3000)), view=View.of((4000, 3000)).resized(224, 224))
    assert len(render([explanation])) < 3_000_000


def test_several_explanations_have_an_index(opened: Opened):
    some = [explained(), explained((80, 160), source="dog.png"), explained((300, 60), source="")]
    page = opened(render(some))
    links = page.get_by_role("navigation", name="Images").get_by_role("link")
    assert links.count() == 3
    for link, name in zip(links.all(), ["zoo.jpg", "dog.png", "Image 3"], strict=True):
        expect(link).to_contain_text(name)
        assert link.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    links.nth(1).click()
    section = page.get_by_role("region", name="dog.png")
    expect(section.locator("[data-part=canvas]")).to_be_visible()
    assert page.locator(".explanation:visible").count() == 1
    every = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(every) == len(set(every))


def test_one_explanation_has_no_index(opened: Opened):
    assert opened(render([explained()])).get_by_role("navigation").count() == 0


def test_without_classes(opened: Opened):
    page = opened(render([explained(labels=())]))
    assert page.get_by_role("tablist", name="Class").is_hidden()
    expect(page.locator("[data-part=note]")).to_have_text("daam: one map, of the features")
    assert page.get_by_text("The model gives features, not classes.").is_visible()


def test_a_model_of_features(opened: Opened):
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0).eval()
    preprocess = Compose([Resize((32, 32)), ToTensor()])
    page = opened(
        captum_vit.explain(noise((90, 70)), model, method="all", preprocess=preprocess, attention=True).to_html()
    )
    drawn(page)
    page.get_by_role("tab", name=re.compile("raw.attention", re.I)).click()
    expect(page.locator("[data-part=note]")).to_have_text(re.compile("raw.attention: one map, of the features", re.I))


def test_predicted_classes_and_facts(opened: Opened):
    view = View.of((400, 200)).resized(128, 64).cropped(32, 0, 64, 64)
    page = opened(render([explained((400, 200), view=view)]))
    rows = page.get_by_role("table").get_by_role("row").all_inner_texts()
    assert [row.split() for row in rows] == [["Class", "Score"], ["tusker", "81.2", "%"], ["zebra", "15.0", "%"]]
    widths = [page.locator("rect, svg").nth(i).bounding_box()["width"] for i in range(2)]
    assert widths[1] / widths[0] == pytest.approx(0.8125, abs=0.01)
    said = page.locator("dl").inner_text()
    for fact in (
        "timm/vit_tiny",
        "400 × 200 pixels",
        "50.0 % of the image: x from 100 to 300, y from 0 to 200 (pixels)",
        "64 × 64 pixels, 7 × 7 patches (rows × columns)",
        "daam, rollout (discard_ratio=0.5)",
        "torch 2.6",
    ):
        assert fact in said


def test_targets_that_are_no_classes_stand_beside_the_classes(opened: Opened):
    page = opened(render([explained(labels=(*LABELS, CONTRAST))]))
    rows = page.get_by_role("table").get_by_role("row").all_inner_texts()
    assert rows[-1].split("\t") == ["tusker rather than zebra", "logit difference -2.35"]
    assert page.get_by_role("heading", name="Classes and targets").is_visible()
    assert page.get_by_role("table").locator("rect").count() == 2
    alone = opened(render([explained(labels=(CONTRAST,))]))
    assert alone.get_by_role("heading", name="Targets", exact=True).is_visible()
    assert alone.get_by_role("tablist", name="Target").is_visible()


def test_nothing_to_show():
    with pytest.raises(InputError, match="expected at least one explanation"):
        render([])


def test_values_that_no_colour_stands_for():
    explanation = explained()
    explanation.attributions[1].flow[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="the flow of daam: zebra holds NaN"):
        render([explanation])


def test_notes_stand_among_the_facts(opened: Opened):
    page = opened(render([replace(explained(), notes=("preprocessing: timm's", f"page 0 of its 3 is read {EVIL}"))]))
    expect(page.locator("dl")).to_contain_text(f"preprocessing: timm's; page 0 of its 3 is read {EVIL}")
    assert opened(render([explained()])).get_by_text("Notes", exact=True).count() == 0


def test_without_scripts_it_shows_the_first_map_classes_facts_and_verdicts(opened: Opened):
    first, *others = explained().attributions
    found = Verdict(EVIL, 0.98, 0.97, (0.95, 0.981), "chance", tokens=4, patches=49, draws=7)
    judged = replace(explained(), attributions=(replace(first, verdict=found), *others))
    page = opened(render([judged]), java_script_enabled=False)
    assert page.get_by_text(f"{first.title}: {found.text}").is_visible()
    assert not opened(render([judged])).get_by_text(f"{first.title}: {found.text}").is_visible()
    page = opened(render([explained()]), java_script_enabled=False)
    assert page.locator("main div.unscripted").count() == 0, "nothing was judged"
    assert page.get_by_text("A script shows more").is_visible()
    assert page.get_by_role("img", name="daam: tusker, 81.2 %, drawn over the image").is_visible()
    assert page.get_by_text("daam: tusker, 81.2 %", exact=True).is_visible()
    assert page.get_by_role("table").is_visible()
    assert page.get_by_role("button").count() == page.get_by_role("slider").count() == 0
