"""The page of one or several explanations."""

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from string import Template

from ..colours import LOOK, Look, check_look
from ..errors import InputError
from ..explained import Explained
from .document import controls, document, static
from .encoding import exact, json_block, painted, text
from .facts import facts, kind, label_rows, labels_title, verdicts
from .viewer import ATTENTION_BYTES, photo, viewer_data

THUMBNAIL = 192
STILL = 512  # pixels of the picture that stands where no script runs
SCRIPTS = ("picture.js", "levels.js", "tabs.js", "controls.js", "player.js", "pointer.js", "report.js")


@dataclass(frozen=True)
class _Part:
    """What the page needs of one explanation, whose photograph and maps may go."""

    title: str
    model: str
    entry: str
    section: str


def render(explanations: Iterable[Explained], count: int | None = None, look: Look = LOOK) -> str:
    """One page of HTML for one or several explanations, to be opened from disk and without a network.

    They are taken one by one, and none is kept: of many, pass an iterator that loads each when its turn comes.

    Args:
        explanations: at least one.
        count: how many there are at most, where they have no `len`; they share the room for attention on a page.
        look: how maps are painted at first; the page's controls change that.
    Raises:
        InputError: there is no explanation, or one holds NaN or infinite values.
    """
    if count is None:
        explanations = explanations if isinstance(explanations, Sized) else list(explanations)
        count = len(explanations)
    check_look(look)
    parts = [_part(explanation, number, count, look) for number, explanation in enumerate(explanations, 1)]
    if not parts:
        raise InputError("expected at least one explanation for the report, got none")
    what = parts[0].title if len(parts) == 1 else f"{len(parts)} images"
    models = ", ".join(dict.fromkeys(part.model or "a model" for part in parts))
    return document(
        title=f"{what}: what {models} looked at",
        heading="What the model looked at",
        models=models,
        fallback="the first map of each image, classes and facts are below.",
        scripts=SCRIPTS,
        look=look,
        index=_index(parts) if len(parts) > 1 else "",
        body="".join(part.section for part in parts),
    )


def _part(explanation: Explained, number: int, count: int, look: Look) -> _Part:
    title = explanation.source or ("Image" if count == 1 else f"Image {number}")
    entry = _entry(explanation, title, number, look) if count > 1 else ""
    return _Part(title, explanation.model, entry, _section(explanation, title, number, ATTENTION_BYTES // count, look))


def _section(explanation: Explained, title: str, number: int, attention_bytes: int, look: Look) -> str:
    first, judged = explanation.attributions[0], verdicts(explanation.attributions)
    kinds = "classes" if kind(explanation.targets) == "Class" else "targets"
    return Template(static("section.html")).substitute(
        n=number,
        title=text(title),
        kind=kind(explanation.targets),
        photo=photo(explanation),
        verdicts=f'<div class="unscripted">{judged}</div>' if judged else "",
        labels_title=labels_title(explanation),
        labels=label_rows(explanation),
        facts=facts(explanation),
        controls=controls(number, f"one for all blocks and {kinds} of a method", Template(static("between.html"))),
        still=painted(explanation, first, STILL, look, lossless=exact(explanation.image)),
        caption=text(first.caption),
        data=json_block(viewer_data(explanation, attention_bytes, look)),
    )


def _entry(explanation: Explained, title: str, number: int, look: Look) -> str:
    """One line of the index."""
    first = explanation.attributions[0]
    return (
        f'<li><a href="#image-{number}"><img src="{painted(explanation, first, THUMBNAIL, look)}" alt="">'
        f'<span class="name">{text(title)}</span><span class="quiet">{text(first.caption)}</span></a></li>'
    )


def _index(parts: Iterable[_Part]) -> str:
    entries = "".join(part.entry for part in parts)
    return f'<nav class="index" id="index" aria-label="Images"><ol>{entries}</ol></nav>'
