"""A real browser, and pages under watch: whatever one complains of, loads or pops up fails its test."""

from itertools import chain
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import captum_vit
from captum_vit.explanation.explanation import Explanation
from captum_vit.sample import draw_scene
from tests.report.helpers import Opened, watch


@pytest.fixture
def opened(browser: Browser, tmp_path: Path):
    """opened(html, place, **options of the context) -> the page at a place of it, as "#image-2".

    It comes from disk, without a network, and nothing may go wrong on it.
    """
    contexts, wrong = [], []

    def visit(html: str, place: str = "", **options) -> Page:
        file = tmp_path / f"report-{len(contexts)}.html"
        file.write_bytes(html.encode())
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        wrong.append(watch(page, file.as_uri()))
        page.goto(file.as_uri() + place)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not list(chain.from_iterable(wrong))


@pytest.fixture(scope="session")
def scene() -> Explanation:
    """Two objects by all methods on the embedded model, with attention."""
    image = draw_scene(15, objects=2, size=512).image
    return captum_vit.explain(image, "sample", method="all", attention=True)


@pytest.fixture
def scene_page(scene: Explanation, opened: Opened) -> Page:
    return opened(scene.to_html())
