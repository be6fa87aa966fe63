"""The page: HTML that is filled in here, its styles and its script inside it, everything else forbidden to it."""

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from string import Template

from .._version import __version__
from ..errors import InputError
from ..explanation import Explanation
from .encoding import json_block, text, thumbnail
from .facts import facts, label_rows
from .viewer import ATTENTION_BYTES, photo, viewer_data

THUMBNAIL = 192
SCRIPTS = ("picture.js", "tabs.js", "report.js")


def render(explanations: Sequence[Explanation]) -> str:
    """One page of HTML for one or several explanations, to be opened from disk and without a network.

    Its Content-Security-Policy allows the one style sheet and the one script in it by their hashes and images that are
    part of it; nothing can be loaded and nothing else runs, whatever names of classes and files say.

    Raises:
        InputError: there is no explanation, or one holds NaN or infinite values.
    """
    if not explanations:
        raise InputError("expected at least one explanation for the report, got none")
    css, script = _static("report.css"), "".join(map(_static, SCRIPTS))
    budget = ATTENTION_BYTES // len(explanations)
    unnamed = "Image" if len(explanations) == 1 else "Image {}"
    titles = [explanation.source or unnamed.format(i) for i, explanation in enumerate(explanations, 1)]
    return Template(_static("page.html")).substitute(
        title=text(titles[0] if len(titles) == 1 else f"{len(titles)} images"),
        models=text(", ".join(dict.fromkeys(e.model or "a model" for e in explanations))),
        version=text(__version__),
        style_hash=_hash(css),
        script_hash=_hash(script),
        css=css,
        script=script,
        index=_index(explanations, titles) if len(titles) > 1 else "",
        sections="".join(_section(e, titles[i], i + 1, budget) for i, e in enumerate(explanations)),
    )


def _section(explanation: Explanation, title: str, number: int, attention_bytes: int) -> str:
    return Template(_static("section.html")).substitute(
        n=number,
        title=text(title),
        photo=photo(explanation),
        labels=label_rows(explanation),
        facts=facts(explanation),
        data=json_block(viewer_data(explanation, attention_bytes)),
    )


def _index(explanations: Sequence[Explanation], titles: Sequence[str]) -> str:
    entry = Template(
        '<li><a href="#image-$n"><img src="$picture" alt=""><span class="name">$title</span>'
        '<span class="quiet">$label</span></a></li>'
    )
    entries = [
        entry.substitute(
            n=n,
            picture=thumbnail(explanation, explanation.attributions[0], THUMBNAIL),
            title=text(title),
            label=text(explanation.attributions[0].title),
        )
        for n, (explanation, title) in enumerate(zip(explanations, titles, strict=True), 1)
    ]
    return f'<nav class="index" id="index" aria-label="Images"><ol>{"".join(entries)}</ol></nav>'


@cache
def _static(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """As a Content-Security-Policy names an element's whole content."""
    return f"sha256-{b64encode(sha256(source.encode()).digest()).decode()}"
