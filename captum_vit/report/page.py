"""The page of one or several explanations."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from ..colours import LOOK, Look, check_look
from ..errors import InputError
from ..explained import Explained
from .document import document, filled, static
from .encoding import exact, json_block, painted, text
from .facts import call, facts, kind, label_rows, labels_title, verdicts
from .gallery import Card, gallery
from .viewer import ATTENTION_BYTES, viewer_data

TOGETHER = 300  # images on one page, which is then some 60 MB; of more, each has a page of its own
STILL = 512  # pixels of the picture that stands where no script runs
UPRIGHT = 1.25  # width over height up to which there is room beside the picture
SCRIPTS = (
    *("picture.js", "levels.js", "tabs.js", "controls.js", "player.js", "pointer.js", "zoom.js", "saving.js"),
    *("views.js", "heads.js", "remove.js", "words.js", "frames.js", "viewer.js", "abreast.js", "gallery.js"),
    "report.js",
)


@dataclass(frozen=True)
class _Part:
    """What the page needs of one explanation, whose photograph and maps may go."""

    title: str
    model: str
    card: Card
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
    return _document(
        parts[0].title if len(parts) == 1 else f"{len(parts)} images",
        [part.model for part in parts],
        look,
        index=gallery([part.card for part in parts]) if len(parts) > 1 else "",
        sections="".join(part.section for part in parts),
    )


def pages(explanations: Iterable[Explained], count: int, name: str, look: Look = LOOK) -> Iterator[tuple[str, str]]:
    """The files of a report: one page, or of more images than one file can hold a gallery and a page for each.

    Args:
        explanations, count, look: as for `render`.
        name: of the page, as report.html; pages of single images are in a folder beside it, as report-images.
    Yields:
        The path of each file, from the folder that `name` lies in, and its HTML; the page of that name comes last.
    Raises:
        InputError: as for `render`.
    """
    if count <= TOGETHER:
        yield name, render(explanations, count, look)
        return
    check_look(look)
    folder, cards, models = images_of(name), [], []
    for number, (explanation, last) in enumerate(_with_last(explanations), 1):
        title = explanation.source or f"Image {number}"
        ways = {"all": f"../{quote(name)}"} | ({} if number == 1 else {"previous": _file(number - 1)})
        around = _links(ways | ({} if last else {"next": _file(number + 1)}))
        section = _section(explanation, title, 1, around, ATTENTION_BYTES, look)
        cards.append(Card.of(explanation, title, quote(f"{folder}/{_file(number)}"), look))
        models.append(explanation.model)
        yield f"{folder}/{_file(number)}", _document(title, [explanation.model], look, index="", sections=section)
    if not cards:
        raise InputError("expected at least one explanation for the report, got none")
    yield name, _document(f"{len(cards)} images", models, look, index=gallery(cards), sections="")


def images_of(name: str) -> str:
    """The folder beside a page of this name in which each image has a page of its own.

    >>> from captum_vit.report import images_of
    >>> images_of("report.html")
    'report-images'
    """
    return f"{PurePosixPath(name).stem}-images"


def _with_last(explanations: Iterable[Explained]) -> Iterator[tuple[Explained, bool]]:
    """Each with whether it is the last."""
    coming = iter(explanations)
    for explanation in coming:
        for following in coming:
            yield explanation, False
            explanation = following
        yield explanation, True


def _file(number: int) -> str:
    return f"{number:05d}.html"


def _document(what: str, models: Iterable[str], look: Look, *, index: str, sections: str) -> str:
    named = ", ".join(dict.fromkeys(name or "a model" for name in models))
    abreast = filled("abreast.html", part=filled("part.html", n="0", heading="", lines="", still="data:,"))
    return document(
        title=f"{what}: what {named} looked at",
        heading="What the model looked at",
        models=named,
        fallback="the first map of each image, classes and facts are below.",
        scripts=SCRIPTS,
        look=look,
        index=index,
        body=filled(
            "desk.html",
            sections=sections,
            abreast=abreast,
            controls=static("controls.html"),
        ),
    )


def _part(explanation: Explained, number: int, count: int, look: Look) -> _Part:
    kind = explanation.frames.kind if explanation.frames else "image"
    named = {"image": "Image", "slice": "Volume"}.get(kind, "Video")
    title = explanation.source or (named if count == 1 else f"{named} {number}")
    around = _buttons(number, count) if count > 1 else ""
    section = _section(explanation, title, number, around, ATTENTION_BYTES // count, look)
    return _Part(title, explanation.model, Card.of(explanation, title, f"#image-{number}", look), section)


def _section(explanation: Explained, title: str, number: int, around: str, attention: int, look: Look) -> str:
    still, judged = explanation.still(), verdicts(explanation.attributions)
    first = still.attributions[0]
    width, height = explanation.image.size
    return filled(
        "section.html",
        n=number,
        title=text(title),
        shape=" upright" * (width <= UPRIGHT * height),
        around=around,
        kind=kind(explanation.targets),
        verdicts=f'<div class="unscripted">{judged}</div>' if judged else "",
        labels_title=labels_title(explanation),
        labels=label_rows(explanation),
        facts=facts(explanation),
        call=call(explanation, number),
        still=painted(still, first, STILL, look, lossless=exact(still.image)),
        frame="" if explanation.frames is None else explanation.frames.kind.capitalize(),
        caption=text(first.caption),
        data=json_block(viewer_data(explanation, attention, look)),
    )


WAYS = {"all": "All images", "previous": "Previous", "next": "Next"}


def _buttons(number: int, count: int) -> str:
    """The ways to the other images of the page."""
    shut = {"previous": number == 1, "next": number == count}
    return "".join(
        f'<button type="button" data-part="{way}"{" disabled" if shut.get(way) else ""}>{said}</button>'
        for way, said in WAYS.items()
    )


def _links(places: Mapping[str, str]) -> str:
    """The ways to other pages."""
    return "".join(f'<a data-part="{way}" href="{text(to)}">{WAYS[way]}</a>' for way, to in places.items())
