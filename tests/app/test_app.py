"""The local app in a real browser: what a person does with it, and what it must never do."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from captum_vit.app.desk import MOST, Desk, Wish
from captum_vit.errors import CaptumViTError
from captum_vit.explanation.explanation import Explanation
from captum_vit.sample import CLASSES, draw_scene

LONG = 300_000  # ms: a bound for what hangs
PROGRAM = """
import sys
from captum_vit.app import serve
serve(sys.argv[1:], ready=lambda url: print(url, flush=True))
"""
GRADIOS = {"nested-interactive"}  # of axe: Gradio puts its field of files into a button
EVIL = "<img src=x onerror=alert(1)>&amp;.png"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of an app in a process of its own, whose temporary files are gone when it has ended."""
    folder = tmp_path_factory.mktemp("app")
    command = [sys.executable, "-c", PROGRAM, "sample"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}) as app:
        assert app.stdout is not None
        yield app.stdout.readline().strip()
        assert list(folder.glob("captum-vit-app-*/**/*.png"))  # the uploads were here
        app.send_signal(signal.SIGTERM)
        assert app.wait(60) == 128 + signal.SIGTERM
    assert not list(folder.glob("captum-vit-app-*"))


@pytest.fixture(params=[(390, "light"), (1280, "dark"), (1600, "light")], ids=lambda param: f"{param[0]}-{param[1]}")
def page(request, browser: Browser, address: str):
    """The app at a width, where nothing leaves the machine and no error is told to the console."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    shown = context.new_page()
    shown.set_default_timeout(LONG)
    shown.on("request", lambda r: wrong.append(r.url) if urlsplit(r.url).hostname not in (None, "127.0.0.1") else None)
    shown.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    shown.goto(address)
    expect(button(shown)).to_be_visible(timeout=LONG)
    yield shown
    context.close()
    assert not wrong


def button(page: Page):
    return page.get_by_role("button", name="Explain", exact=True)


def scene(folder: Path, name: str) -> Path:
    path = folder / name
    Image.fromarray(draw_scene(15, objects=2, size=128).image).save(path)
    return path


def upload(page: Page, *photos: Path) -> None:
    page.locator("input[type=file]").set_input_files([str(photo) for photo in photos])
    expect(page.get_by_text("KB")).to_have_count(len(photos), timeout=LONG)


def test_a_photograph_is_explained_and_saved(page: Page, tmp_path):
    save = page.get_by_role("button", name="Save report and maps")
    expect(save).to_be_disabled()
    upload(page, scene(tmp_path, EVIL), scene(tmp_path, "second.png"))
    page.get_by_label("Classes, one a line").fill(f"{CLASSES[0]}\n{CLASSES[0]}/{CLASSES[1]}")
    page.get_by_label("Attention: click a patch").check()
    page.get_by_label("Brush: take patches away").check()
    button(page).click()
    report = page.frame_locator("iframe[title=Report]")
    expect(report.get_by_text("2 images")).to_be_visible(timeout=LONG)
    report.get_by_role("link", name="second.png").click()
    expect(report.get_by_role("heading", name="second.png")).to_be_visible()
    expect(report.get_by_text(f"{CLASSES[0]} rather than {CLASSES[1]}").first).to_be_attached()
    expect(report.get_by_role("slider").first).to_be_visible()
    report.get_by_role("tab", name="Remove patches").click()
    report.get_by_role("button", name="Remove the marked tenth").click()
    expect(report.get_by_text("without 6 of 64 patches")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wrong = [each for each in Axe().run(page).response["violations"] if each["id"] not in GRADIOS]
    assert not [(each["id"], [node["html"] for node in each["nodes"]]) for each in wrong]
    expect(save).to_be_enabled()
    with page.expect_download() as saving:
        save.click()
    with zipfile.ZipFile(saving.value.path()) as archive:
        archive.extractall(tmp_path / "saved")
    assert (tmp_path / "saved/report.html").stat().st_size > 10_000
    found = Explanation.load(tmp_path / "saved/second")
    assert next(a.target.name for a in found.attributions if a.target) == CLASSES[0]
    assert found.attention is not None
    assert list(found.removals) == [label.title for label in found.targets]
    asked = f"target=['{CLASSES[0]}', '{CLASSES[0]}/{CLASSES[1]}'], verdict=True, attention=True, removals=True"
    assert found.call == f"captum_vit.explain('second.png', {asked})"


def test_what_cannot_be_had_is_told_as_text(page: Page, tmp_path):
    button(page).click()
    expect(page.get_by_role("alert")).to_contain_text("no photograph yet")
    upload(page, scene(tmp_path, "one.png"))
    page.get_by_label("Classes, one a line").fill("<img src=x onerror=alert(1)>")
    button(page).click()
    expect(page.get_by_role("alert")).to_contain_text("<img src=x onerror=alert(1)>", timeout=LONG)
    expect(page.locator("iframe[title=Report]")).to_have_count(0)


@pytest.mark.parametrize("name", ["os:system", "sample/transformers", "hf/tests", "timm/../x:y", ""])
def test_a_name_that_would_run_code_or_read_a_folder_is_not_taken(tmp_path, name):
    with pytest.raises(CaptumViTError, match="none of those on offer"):
        Desk(["sample"]).explain(Wish([str(scene(tmp_path, "a.png"))], name), print)
    with pytest.raises(CaptumViTError, match="not on offer here"):
        Desk(["sample"], typed=False).explain(Wish([str(scene(tmp_path, "a.png"))], "timm/vit_tiny_patch16_224"), print)


def test_too_many_photographs_are_refused_before_any_is_read():
    with pytest.raises(CaptumViTError, match=f"at most {MOST} photographs"):
        Desk(["sample"]).explain(Wish(["missing.png"] * (MOST + 1), "sample"), print)


def test_progress_is_told_after_each(tmp_path):
    told = []
    photos = [str(scene(tmp_path, f"{i}.png")) for i in range(3)]
    found = Desk(["sample"]).explain(Wish(photos, "sample", ["rollout"]), lambda *each: told.append(each))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [explanation.source for explanation in found] == ["0.png", "1.png", "2.png"]


def test_a_text_that_was_typed_is_explained_word_by_word(tmp_path):
    of_texts, shown = "tests.families.two_towers:loaded", scene(tmp_path, "one.png")
    wish = Wish([str(shown)], of_texts, texts="a cat on a sofa\n\na dog\n")
    (found,) = Desk([of_texts]).explain(wish, lambda done, count: None)
    assert [label.name for label in found.targets] == ["a cat on a sofa", "a dog"]
    assert found.attributions[0].words[1].map is not None
    assert "target=[captum_vit.targets.Text('a cat on a sofa'), captum_vit.targets.Text('a dog')]" in found.call
