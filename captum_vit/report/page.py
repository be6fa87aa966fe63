"""The page: HTML that is filled in here, its styles and its script inside it, everything else forbidden to it."""

from base64 import b64encode
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from string import Template

from .._version import __version__
from ..errors import InputError
from ..explained import Explained
from .encoding import json_block, text, thumbnail
from .facts import facts, kind, label_rows, labels_title, verdicts
from .viewer import ATTENTION_BYTES, photo, viewer_data

THUMBNAIL = 192
SCRIPTS = ("picture.js", "levels.js", "tabs.js", "report.js")


@dataclass(frozen=True)
class _Part:
    """What the page needs of one explanation, whose photograph and maps may go."""

    title: str
    model: str
    entry: str
    section: str


def render(explanations: Iterable[Explained], count: int | None = None) -> str:
    """One page of HTML for one or several explanations, to be opened from disk and without a network.

    They are taken one by one, and none is kept: of many, pass an iterator that loads each when its turn comes.

    Its Content-Security-Policy allows the one style sheet and the one script in it by their hashes and images that are
    part of it; nothing can be loaded and nothing else runs, whatever names of classes and files say.

    Args:
        explanations: at least one.
        count: how many there are at most, where they have no `len`; they share the room for attention on a page.
    Raises:
        InputError: there is no explanation, or one holds NaN or infinite values.
    """
    if count is None:
        explanations = explanations if isinstance(explanations, Sized) else list(explanations)
        count = len(explanations)
    parts = [_part(explanation, number, count) for number, explanation in enumerate(explanations, 1)]
    if not parts:
        raise InputError("expected at least one explanation for the report, got none")
    css, script = _static("report.css"), "".join(map(_static, SCRIPTS))
    return Template(_static("page.html")).substitute(
        title=text(parts[0].title if len(parts) == 1 else f"{len(parts)} images"),
        models=text(", ".join(dict.fromkeys(part.model or "a model" for part in parts))),
        version=text(__version__),
        style_hash=_hash(css),
        script_hash=_hash(script),
        css=css,
        script=script,
        index=_index(parts) if len(parts) > 1 else "",
        sections="".join(part.section for part in parts),
    )


def _part(explanation: Explained, number: int, count: int) -> _Part:
    title = explanation.source or ("Image" if count == 1 else f"Image {number}")
    entry = _entry(explanation, title, number) if count > 1 else ""
    return _Part(title, explanation.model, entry, _section(explanation, title, number, ATTENTION_BYTES // count))


def _section(explanation: Explained, title: str, number: int, attention_bytes: int) -> str:
    judged = verdicts(explanation.attributions)
    return Template(_static("section.html")).substitute(
        n=number,
        title=text(title),
        kind=kind(explanation.targets),
        photo=photo(explanation),
        verdicts=f'<div class="unscripted">{judged}</div>' if judged else "",
        labels_title=labels_title(explanation),
        labels=label_rows(explanation),
        facts=facts(explanation),
        data=json_block(viewer_data(explanation, attention_bytes)),
    )


def _entry(explanation: Explained, title: str, number: int) -> str:
    """One line of the index."""
    first = explanation.attributions[0]
    warned = text(f" ({first.warning})") if first.warning else ""
    return (
        f'<li><a href="#image-{number}"><img src="{thumbnail(explanation, first, THUMBNAIL)}" alt="">'
        f'<span class="name">{text(title)}</span><span class="quiet">{text(first.title)}{warned}</span></a></li>'
    )


def _index(parts: Iterable[_Part]) -> str:
    entries = "".join(part.entry for part in parts)
    return f'<nav class="index" id="index" aria-label="Images"><ol>{entries}</ol></nav>'


@cache
def _static(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """As a Content-Security-Policy names an element's whole content."""
    return f"sha256-{b64encode(sha256(source.encode()).digest()).decode()}"
