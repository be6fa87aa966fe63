"""The second slider of a page: frames of a video, or slices of a volume."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from captum_vit.colours import LOOK
from captum_vit.explanation.explanation import Explanation
from captum_vit.report import render
from captum_vit.visualization import overlay
from tests.report.helpers import Opened, drawn, explained, pixels, readout
from tests.report.made_videos import COUNT, video
from tests.report.test_saving import saved


def film(page: Page):
    return page.get_by_role("slider", name="Frame")


def expected(e: Explanation, shape: tuple[int, ...], frame: int, block: int = -1) -> np.ndarray:
    still = e.still(frame)
    photo = still.image.resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    scale = e.scale(e.attributions[0], LOOK, block)
    return pixels(overlay(photo, still.attributions[0].flow[block], e.view, scale=scale))


def test_each_frame_is_painted_as_its_still(opened: Opened):
    e = video()
    page = opened(render([e]))
    shown = drawn(page)
    assert np.abs(shown - expected(e, shown.shape, e.strongest)).max() <= 2
    film(page).focus()
    page.keyboard.press("Home")
    for frame in range(COUNT):
        expect(page.locator("[data-part=film-name]")).to_have_text(f"{e.frames.names[frame]}, {frame + 1} of {COUNT}")
        page.wait_for_timeout(100)
        shown = drawn(page)
        assert np.abs(shown - expected(e, shown.shape, frame)).max() <= 2
        assert np.abs(shown - expected(e, shown.shape, (frame + 1) % COUNT)).max() > 20
        page.keyboard.press("ArrowRight")


def test_blocks_and_frames_are_two_sliders(opened: Opened):
    e = video()
    page = opened(render([e]), "#image-1&block=2&frame=5")
    shown = drawn(page)
    page.wait_for_timeout(100)
    assert np.abs(drawn(page) - expected(e, shown.shape, 4, 1)).max() <= 2
    page.get_by_role("slider", name="Block").press("End")
    assert np.abs(drawn(page) - expected(e, shown.shape, 4)).max() <= 2
    assert film(page).get_attribute("aria-valuetext") == "frame 8, 1.00 s, 5 of 6"
    page.get_by_role("tab", name="zebra").click()
    assert film(page).input_value() == "5"
    page.wait_for_timeout(600)
    assert page.url.endswith("&frame=5")


def test_frames_play_and_stop(opened: Opened):
    page = opened(render([video(), video("other.mp4")]), "#image-1&frame=1")
    button = page.locator("#image-1").get_by_role("button", name="Play frames")
    button.click()
    expect(page.locator("#image-1 [data-part=film-name]")).to_contain_text("2 of 6")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Previous").click()
    expect(button).to_have_text("Play frames")
    expect(page.locator("#image-1 [data-part=play]")).to_have_text("Play blocks")


def test_the_readout_tells_the_frame(opened: Opened):
    e = video()
    page = opened(render([e]), "#image-1&frame=3")
    page.locator("[data-part=picture]").first.press("ArrowRight")
    expect(readout(page)).to_contain_text("of 4 × 6, frame 4, 0.50 s: ")
    expect(readout(page)).to_contain_text("of this frame’s")


def test_an_image_has_no_such_slider(opened: Opened):
    page = opened(render([explained()]))
    drawn(page)
    expect(film(page)).to_have_count(0)
    assert page.locator("[data-part=play]").first.inner_text() == "Play"


def test_slices_are_called_slices(opened: Opened):
    e = video()
    page = opened(render([replace(e, frames=replace(e.frames, kind="slice"))]))
    expect(page.get_by_role("slider", name="Slice")).to_be_visible()
    expect(page.get_by_role("button", name="Play slices")).to_be_visible()


def test_side_by_side_shows_the_frame(opened: Opened):
    e = video()
    page = opened(render([e]), "#image-1&frame=2")
    drawn(page)
    page.get_by_role("button", name="Methods side by side").click()
    part = page.locator("#abreast figure").first
    expect(part).to_contain_text("frame 2, 0.25 s")
    found = page.locator("#abreast canvas[role=img]").first
    found.wait_for()
    page.wait_for_timeout(200)
    shown = np.array(found.evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"))
    height, width = found.evaluate("(c) => [c.height, c.width]")
    shown = shown.reshape(height, width, 4)[..., :3].astype(int)
    assert np.abs(shown - expected(e, shown.shape, 1)).max() <= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_by_anybody(opened: Opened, scheme):
    page = opened(render([video()]), viewport={"width": 390, "height": 800}, color_scheme=scheme)
    drawn(page)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_all_frames_are_saved_in_one_picture(opened: Opened, tmp_path):
    e = video()
    page = opened(render([e]), "#image-1&frame=2")
    drawn(page)
    page.locator("details.save summary").first.click()
    buttons = page.locator("details.save button:visible").all_inner_texts()
    assert buttons == [
        "This frame, PNG",
        "This frame, SVG",
        "All frames, PNG",
        "Map of this frame, CSV",
        "Map of this frame, .npy",
        "All blocks and cells, .npy",
    ]
    name, data = saved(page, "All frames, PNG", tmp_path)
    assert name == "clip-daam-tusker-blocks.3.attn-all-frames.png"
    sheet = pixels(Image.open(BytesIO(data)))
    tile, left, step = (213, 320), 16, 320 + 8
    wanted = [expected(e, tile, frame) for frame in range(COUNT)]
    tops = [y for y in range(len(sheet) - 213) if like(sheet[y : y + 213, left : left + 320], wanted[0])]
    assert tops, "the first frame"
    for frame, own in enumerate(wanted):  # two columns
        x, y = left + frame % 2 * step, tops[0] + frame // 2 * (213 + 21 + 4)
        assert like(sheet[y : y + 213, x : x + 320], own), frame
        assert not like(sheet[y : y + 213, x : x + 320], wanted[(frame + 1) % COUNT]), "another frame"
    expect(page.locator("[data-part=film-name]").first).to_have_text("frame 2, 0.25 s, 2 of 6")
    page = opened(render([explained()]))
    drawn(page)
    page.locator("details.save summary").first.click()
    assert page.locator("details.save button:visible").all_inner_texts()[2] == "Map, CSV"


def like(part: np.ndarray, wanted: np.ndarray) -> bool:
    """Pictures that were resized in two ways."""
    return bool(np.abs(part - wanted).mean() < 12)
