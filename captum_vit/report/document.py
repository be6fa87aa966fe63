"""A page: HTML that is filled in here, its styles and its script inside it, everything else forbidden to it."""

from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from string import Template

from .._version import __version__
from ..colours import Look
from .encoding import json_block, text
from .viewer import colours


def document(
    *, title: str, heading: str, models: str, fallback: str, scripts: Iterable[str], look: Look, index: str, body: str
) -> str:
    """One page of HTML, to be opened from disk and without a network.

    Its Content-Security-Policy allows the one style sheet and the one script in it by their hashes and images that are
    part of it; nothing can be loaded and nothing else runs, whatever names of classes and files say.

    Args:
        title, heading, models, fallback: plain text; `fallback` says what is there where no script runs.
        scripts: names of files, in the order that they need.
        look: how maps are painted at first.
        index, body: HTML.
    """
    css, script = static("report.css"), "".join(map(static, scripts))
    return filled(
        "page.html",
        title=text(title),
        heading=text(heading),
        models=text(models),
        fallback=text(fallback),
        version=text(__version__),
        style_hash=_hash(css),
        script_hash=_hash(script),
        css=css,
        script=script,
        colours=json_block(colours(look)),
        index=index,
        body=body,
    )


def filled(name: str, /, **parts: object) -> str:
    """A file of HTML that lies beside this one, filled in."""
    return Template(static(name)).substitute(parts)


@cache
def static(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """As a Content-Security-Policy names an element's whole content."""
    return f"sha256-{b64encode(sha256(source.encode()).digest()).decode()}"
