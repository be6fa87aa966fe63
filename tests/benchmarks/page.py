"""The report of 1, 20 and 200 images: its size, and how long it keeps a browser busy.

    python tests/benchmarks/page.py
    python tests/benchmarks/page.py --folder photos/  # photographs of one's own beside the scenes

Scenes of the hard sample and of its model, AGCAM alone, 512 pixels; photographs are kept at up to 1024. Long tasks are
those of more than 50 ms, as the browser itself counts them, while the page is loaded, scrolled, sorted, and an image
opened.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from captum_vit import Explainer, Explanation
from captum_vit.images import find_images
from captum_vit.report import render
from captum_vit.sample.hard import Plan

COUNTS = (1, 20, 200)
SCENES = 20
WATCH = """window.long = []; new PerformanceObserver((list) => list.getEntries().forEach((entry) =>
  long.push(Math.round(entry.duration)))).observe({ entryTypes: ["longtask"] });"""


def explained(folder: Path | None) -> list[Explanation]:
    """Scenes, and photographs in between if there is a folder of them."""
    explainer = Explainer("sample/hard")
    scenes = [Image.fromarray(Plan.draw(seed, objects=2).render(512).images[0]) for seed in range(SCENES)]
    photos = [explainer(str(file)).reduced(1024) for file in find_images([str(folder)])] if folder else []
    return [*photos, *map(explainer, scenes)]


def busy(page: Page, what: str, act: Callable[[], object]) -> None:
    page.evaluate("long.length = 0")
    act()
    page.wait_for_timeout(500)
    print(f"    {what:28} long tasks: {page.evaluate('long') or 'none'}")


def watched(page: Page, html: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(html)
        file.flush()
        page.add_init_script(WATCH)
        page.goto(Path(file.name).as_uri())
        print(f"    {'loaded':28} long tasks: {page.evaluate('long') or 'none'}")
        if not page.locator("nav li").count():
            return

        def scroll() -> None:
            for _ in range(40):
                page.mouse.wheel(0, 400)
                page.wait_for_timeout(50)

        busy(page, "scrolled, 40 turns of a wheel", scroll)
        busy(page, "sorted", lambda: page.get_by_label("Order").select_option("surest first"))
        busy(page, "an image opened", lambda: page.locator("nav a").last.click())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    found = explained(parser.parse_args().folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for count in COUNTS:
            html = render([found[i % len(found)] for i in range(count)])
            print(f"{count} images: {len(html) / 1e6:.2f} MB")
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            watched(page, html)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
