"""Takes the pictures of the report for the README and the pages, in Chromium.

python -m tests.tutorials.screens
"""

import shutil
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from captum_vit import explain
from captum_vit.report import render
from tests.tutorials.pictures import ASKED, ON_GRAVEL, ON_WOOD, PICTURES, scene

WIDTH, HEIGHT = 1280, 900


def taken(browser: Browser, html: str, place: str, name: str, click: tuple[int, int] | None = None) -> None:
    """A picture of a page at a place of it, after a click on a patch (row, column) of 12 x 12 if one is given."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        page.goto(file.as_uri() + place)
        page.locator("canvas:visible, nav:visible").first.wait_for()
        if click:
            press(page, *click)
        page.wait_for_timeout(500)  # a picture is painted once its photograph is decoded
        shown = Image.open(BytesIO(page.screenshot()))
        shown.convert("RGB").save(PICTURES / name, quality=80, method=6)
        page.close()


def press(page: Page, row: int, column: int) -> None:
    picture = page.get_by_role("application").first
    area = picture.bounding_box()
    assert area is not None
    at = area["width"] * (column + 0.5) / 12, area["height"] * (row + 0.5) / 12
    picture.click(position={"x": at[0], "y": at[1]})


def main() -> None:
    photos = []
    for name, seed in (("wood", ON_WOOD), ("gravel", ON_GRAVEL), *((f"scene {seed}", seed) for seed in range(6))):
        path = Path(name).with_suffix(".png")
        photos.append((path, scene(seed)[0]))
    with TemporaryDirectory() as folder:
        for path, image in photos:
            image.save(Path(folder) / path)
        files = [str(Path(folder) / path) for path, _ in photos]
        methods = ["agcam", "daam", "cp_lrp"]
        rich = explain(
            files[1], "sample/hard", method=methods, target=ASKED, attention=True, verdict=True, removals=True
        )
        many = explain(files, "sample/hard", verdict=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        one = render([rich])
        taken(browser, one, "#image-1&target=cat", "report.webp")
        taken(browser, one, "#image-1&target=cat&show=patches&block=2", "report-patches.webp", click=(7, 4))
        taken(browser, one, "#abreast&images=1&of=method&target=cat", "report-abreast.webp")
        taken(browser, render(many), "", "report-gallery.webp")
        browser.close()


if __name__ == "__main__":
    main()
