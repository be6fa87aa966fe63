"""Explanations made by hand, and what the tests ask of a page."""

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Locator, Page

from captum_vit.explained import AttentionRecord, Attribution, Label
from captum_vit.explanation.explanation import Explanation
from captum_vit.facts import Facts
from captum_vit.geometry import View

Opened = Callable[..., Page]

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&amp;"
CONTRAST = Label(None, "tusker/zebra", -2.345, "tusker rather than zebra", "logit difference")
LABELS = (Label(3, "tusker, elephant", 0.8125, "tusker"), Label(7, "zebra", 0.15))


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    drawn = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC)


def explained(
    size: tuple[int, int] = (224, 224),
    grid: tuple[int, int] = (7, 7),
    layers: int = 4,
    *,
    view: View | None = None,
    labels: tuple[Label, ...] = LABELS,
    attention: bool = False,
    source: str = "zoo.jpg",
) -> Explanation:
    """Random flows that grow from layer to layer, by daam for each label and by rollout for all."""
    draw = torch.Generator().manual_seed(0)
    names = tuple(f"blocks.{i}.attn" for i in range(layers))

    def attribution(method: str, target: Label | None) -> Attribution:
        flow = torch.rand(layers, *grid, generator=draw).pow(4).cumsum(0)
        return Attribution(method, target, flow, names, {"discard_ratio": 0.5} if method == "rollout" else {})

    shown = [attribution("daam", label) for label in labels or [None]] + [attribution("rollout", None)]
    cells = grid[0] * grid[1]
    record = AttentionRecord({}, {n: torch.rand(cells, cells, generator=draw).softmax(1) for n in names})
    return Explanation(
        noise(size),
        view or View.of(size),
        tuple(shown),
        labels,
        "timm/vit_tiny",
        source,
        {"torch": "2.6"},
        record if attention else None,
    )


def with_heads(explanation: Explanation, heads: int = 3) -> Explanation:
    """The same with what each head of each layer looks at, of which the shares fall short of 1."""
    record, (rows, cols) = explanation.attention, explanation.grid
    assert record is not None
    draw = torch.Generator().manual_seed(1)
    kept = {name: torch.rand(heads, rows * cols, generator=draw).softmax(1) for name in record.patches}
    shaped = {name: 0.9 * weights.reshape(heads, rows, cols) for name, weights in kept.items()}
    return replace(explanation, attention=replace(record, heads=shaped))


def of_two_signs(explanation: Explanation) -> Explanation:
    """The same with evidence against, and the units of another method."""
    facts = Facts("LRP", "relevance", signed=True)
    shown = tuple(
        replace(a, facts=facts, flow=a.flow - a.flow.mean((1, 2), keepdim=True)) if a.target else a
        for a in explanation.attributions
    )
    return replace(explanation, attributions=shown)


def renamed(explanation: Explanation, text: str) -> Explanation:
    """The same with `text` wherever a name comes from outside."""
    labels = {label: replace(label, name=text, title=text) for label in explanation.labels}
    shown = tuple(
        replace(
            a,
            method=text + a.method,
            facts=Facts(text + a.method, text),
            target=a.target and labels[a.target],
            layers=(text,) * len(a.layers),
            options={text: text},
        )
        for a in explanation.attributions
    )
    return replace(
        explanation, attributions=shown, labels=tuple(labels.values()), model=text, source=text, versions={text: text}
    )


def tampered(page: str, old: str, new: str) -> str:
    """A page with another script, which its policy allows: for showing that a check notices."""
    assert page.count(old) == 1, f"{old!r} occurs {page.count(old)} times"
    start = page.rindex("<script>") + len("<script>")
    script = page[start : page.rindex("</script>")]
    broken = script.replace(old, new)
    return page.replace(script, broken).replace(_hash(script), _hash(broken))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def drawn(page: Page) -> np.ndarray:
    """The pixels of the first picture on the page."""
    picture = page.get_by_role("application").first.locator("canvas")
    picture.wait_for()
    url = picture.evaluate("canvas => canvas.toDataURL()")
    return pixels(Image.open(BytesIO(b64decode(url.partition(",")[2]))))


def on_patch(page: Page, row: int, col: int, grid: tuple[int, int], part: float = 0.5) -> dict[str, float]:
    """Where a patch of the first picture lies in it, for a view of all of the image."""
    page.get_by_role("application").first.locator("canvas").wait_for()
    area = page.get_by_role("application").first.bounding_box()
    assert area is not None
    return {"x": area["width"] * (col + part) / grid[1], "y": area["height"] * (row + part) / grid[0]}


def readout(page: Page) -> Locator:
    return page.locator("[data-part=readout]").first


def watch(page: Page, own: str) -> list[str]:
    """What goes wrong on a page, filled as it happens."""
    wrong: list[str] = []

    def refuse(dialog):
        wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def requested(request):
        if request.url != own and not request.url.startswith("data:"):
            wrong.append(f"request: {request.url}")

    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", refuse)
    page.on("request", requested)
    return wrong


def _hash(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()
