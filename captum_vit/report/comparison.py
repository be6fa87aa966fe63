"""The page on which maps stand side by side under one slider."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..colours import SIGNS, Look, Scale, check_look, nearly_flat
from ..compared import Compared, Part
from ..explained import Explained
from ..marks import Mark
from ..names import printable
from ..visualization import overlay
from .document import document, filled, static
from .encoding import base64, data_url, exact, json_block, shrunk, text
from .page import STILL
from .viewer import photo, rings, scale_ends

SCRIPTS = (
    *("picture.js", "levels.js", "controls.js", "player.js", "pointer.js", "zoom.js"),
    *("saving.js", "abreast.js", "comparison.js"),
)


def render_comparison(comparison: Compared, look: Look) -> str:
    """One page of HTML with all parts, and the difference where there is one, closed to the outside as every page.

    Args:
        look: how maps are painted at first; the page's controls change that.
    """
    check_look(look)
    photos: list[Explained] = []
    drawn = [_part(comparison, part, _photo(part.whole, photos), look) for part in comparison.parts]
    if not comparison.undivided:
        drawn.append(_difference(comparison, look))
    told = {scale: comparison.scales_told(replace(look, scale=scale)) for scale in ("own", "common")}
    data = {
        "steps": comparison.steps,
        "shares": not comparison.abreast,
        "scales": {**told, "own": comparison.scales_told(look)} if isinstance(look.scale, tuple) else told,
        "parts": [each for _, each in drawn],
    }
    body = filled(
        "comparison.html",
        depth="Block" if comparison.abreast else "Share of the depth",
        steps=comparison.steps,
        columns=" three" if len(drawn) > 4 else "",
        parts="".join(html for html, _ in drawn),
        photos="".join(f'<img src="{photo(each)}" alt="">' for each in photos),
        scales=text(comparison.scales_told(look)),
        undivided=text(_why_not(comparison)),
        controls=static("controls.html"),
        data=json_block(data),
    )
    images = " and ".join(dict.fromkeys(part.image for part in comparison.parts))
    return document(
        title=f"{images}: {len(comparison.parts)} maps side by side",
        heading="Side by side",
        models=", ".join(dict.fromkeys(part.model for part in comparison.parts)),
        fallback="the maps after the last block are below.",
        scripts=SCRIPTS,
        look=look,
        index="",
        body=body,
    )


def _photo(whole: Explained, photos: list[Explained]) -> int:
    """Which of the page's photographs this one is; it is added if it is not there."""
    for i, other in enumerate(photos):
        if other.image is whole.image or (other.image.size == whole.image.size and other.image == whole.image):
            return i
    photos.append(whole)
    return len(photos) - 1


def _part(comparison: Compared, part: Part, where: int, look: Look) -> tuple[str, dict[str, Any]]:
    """The figure of a part, and what the script draws it from."""
    a, steps = part.attribution, comparison.steps
    each = look if isinstance(look.scale, tuple) else replace(look, scale="own")
    scales = [comparison.scale(part, each, i) for i in range(steps)]
    common = comparison.scale(part, replace(look, scale="common"))
    blocks = [part.block(i, steps) for i in range(steps)]
    data = {
        **_lie(part.whole, where),
        **_painted(a.flow, scales, common, blocks),
        "title": printable(f"{part.heading}, {part.image}, {part.model}, {a.caption}"),
        "layers": [printable(name) for name in a.layers],
        "accumulates": a.facts.accumulates,
        "unit": printable(a.facts.unit),
        "signs": SIGNS,
        "signed": a.signed,
        "marks": rings(part.whole, a.marks),
    }
    lines = (part.image, part.model, a.caption if a.target or not a.facts.class_specific else f"{a.caption}, any class")
    still = _still(part.whole, a.map, look, comparison.scale(part, look), a.marks)
    return _figure(comparison.parts.index(part) + 1, part.heading, lines, still), data


def _difference(comparison: Compared, look: Look) -> tuple[str, dict[str, Any]]:
    first, second = comparison.parts
    difference, steps = comparison.difference, range(comparison.steps)
    own, common = (replace(look, scale=scale) for scale in ("own", "common"))
    scales = [comparison.difference_scale(own, i) for i in steps]
    heading = f"{second.letter} less {first.letter}"
    data = {
        **_lie(first.whole, 0),
        **_painted(difference, scales, comparison.difference_scale(common), list(steps)),
        "title": heading,
        "layers": [],
        "unit": printable(f"difference of {first.attribution.facts.unit}"),
        "signs": "",
        "signed": True,
        "flat": [False for _ in steps],
        "told": [comparison.difference_told(i) for i in steps],
        "marks": rings(first.whole, comparison.difference_marks),
    }
    lines = (first.attribution.method_title, f"orange: more in {second.heading}", f"blue: more in {first.heading}")
    still = _still(first.whole, difference[-1], look, comparison.difference_scale(look), comparison.difference_marks)
    return _figure(len(comparison.parts) + 1, heading, lines, still), data


def _lie(whole: Explained, where: int) -> dict[str, Any]:
    """Where a map lies, on which of the page's photographs."""
    view = whole.view
    return {
        "photo": where,
        "grid": whole.grid,
        "original": view.original,
        "box": view.box,
        "window": view.window,
    }


def _painted(flow: Tensor, own: Sequence[Scale], common: Scale, blocks: Sequence[int]) -> dict[str, Any]:
    """A flow, which of its slices stands at each step, and its scales there."""
    return {
        "flow": base64(flow.detach().float().cpu(), "<f4"),
        "blocks": blocks,
        "own": [scale_ends(scale) for scale in own],
        "common": scale_ends(common),
        "flat": [nearly_flat(flow[block]) for block in blocks],
    }


def _still(whole: Explained, shown: Tensor, look: Look, scale: Scale, marks: Sequence[Mark]) -> str:
    """A map as a picture, where no script runs."""
    drawn = overlay(shrunk(whole.image, STILL), shown, whole.view, look, scale=scale, marks=marks)
    return data_url(drawn, lossless=exact(whole.image))


def _figure(number: int, heading: str, lines: Sequence[str], still: str) -> str:
    told = "".join(f"<span>{text(line)}</span>" for line in lines)
    return filled("part.html", n=number, heading=text(heading), lines=told, still=still)


def _why_not(comparison: Compared) -> str:
    """Why two maps have no difference; of more nobody expects one."""
    return (
        f"No difference is shown: {comparison.undivided}."
        if len(comparison.parts) == 2 and comparison.undivided
        else ""
    )
