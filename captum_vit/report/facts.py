"""What the report says in words and numbers: predicted classes, and what was computed from what."""

from collections.abc import Iterable, Mapping

from ..explained import Attribution, Explained, Label
from ..geometry import Size, View
from ..wording import percent
from .document import filled
from .encoding import text


def label_rows(explanation: Explained) -> str:
    """The table of predicted classes with bars and of other targets with their numbers, or why there is none."""
    if not explanation.labels:
        return '<p class="quiet">The model gives features, not classes.</p>'
    rows = "".join(
        f"<tr{' class=explained' if label in explanation.targets else ''}>"
        f'<th scope="row">{text(label.title)}</th>{_score_cells(label)}</tr>'
        for label in explanation.labels
    )
    return (
        f'<table class="labels"><thead class="unseen"><tr><th scope="col">{kind(explanation.labels)}</th><td></td>'
        f'<th scope="col">Score</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def kind(labels: Iterable[Label]) -> str:
    """What they are, in one word."""
    return "Class" if all(label.index is not None for label in labels) else "Target"


def labels_title(explanation: Explained) -> str:
    """What stands over the table of labels."""
    known = {label.index is not None for label in explanation.labels}
    return "Predicted classes" if known <= {True} else "Classes and targets" if True in known else "Targets"


def verdicts(attributions: Iterable[Attribution]) -> str:
    """What is to be thought of each map, one paragraph each; empty where none was judged."""
    told = {a.title: a.verdict.text for a in attributions if a.verdict is not None}
    return "".join(f"<p>{text(title)}: {text(verdict)}</p>" for title, verdict in told.items())


def _score_cells(label: Label) -> str:
    if label.index is None:
        return f'<td class="number" colspan="2">{text(label.measured)}</td>'
    width = 100 * min(max(label.score, 0), 1)
    return (
        f'<td class="bar"><svg aria-hidden="true"><rect width="{width:.1f}%"/></svg></td>'
        f'<td class="number">{text(label.measured)}</td>'
    )


def facts(explanation: Explained) -> str:
    """Terms and descriptions."""
    rows, cols = explanation.grid
    width, height = explanation.view.size
    known = [
        ("Model", text(explanation.model or "unnamed")),
        ("Right class", text(explanation.truth)),
        ("Image", text(image_size(explanation))),
        ("Seen by the model", text(seen(explanation.view))),
        ("Input", text(f"{width} × {height} pixels, {rows} × {cols} patches (rows × columns)")),
        (f"{explanation.frames.kind}s".capitalize() if explanation.frames else "", text(_frames(explanation))),
        ("Methods", _listed(dict.fromkeys(a.method_title + _options(a.options) for a in explanation))),
        ("Words", "<br>".join(text(f"{a.title}: {a.sentence.told}") for a in explanation if a.sentence is not None)),
        ("Notes", text("; ".join(explanation.notes))),
        ("Versions", _listed(f"{name} {version}" for name, version in explanation.versions.items())),
    ]
    return "".join(f"<div><dt>{term}</dt><dd>{said}</dd></div>" for term, said in known if said)


def _frames(explanation: Explained) -> str:
    """How many frames there are, and how many the map has; empty of an image."""
    if explanation.frames is None:
        return ""
    shown, cells = len(explanation.frames.images), explanation.attributions[0].flow.shape[1]
    return f"{shown} {explanation.frames.kind}s, of which the map has {cells}; what lies between is mixed linearly"


def image_size(explanation: Explained) -> str:
    """The photograph's size, and that of the copy that was kept of it."""
    original, kept = explanation.photographed, f"{_sides(explanation.view.original)} pixels"
    return kept if original is None else f"{_sides(original)} pixels, kept as {kept}"


def seen(view: View) -> str:
    """What part of the image was in the model's input."""
    left, top, right, bottom = view.window
    width, height = view.original
    share = (right - left) * (bottom - top) / (width * height)
    outer = view.box
    padded = (
        ", with padding around it"
        if outer[0] < -0.5 or outer[1] < -0.5 or outer[2] > width + 0.5 or outer[3] > height + 0.5
        else ""
    )
    if round(share, 3) == 1:
        return f"all of the image{padded}"
    return (
        f"{percent(share)} of the image: x from {left:.0f} to {right:.0f}, y from {top:.0f} to {bottom:.0f} "
        f"(pixels){padded}"
    )


def _sides(size: Size) -> str:
    return " × ".join(map(str, size))


def _options(given: Mapping[str, object]) -> str:
    said = ", ".join(f"{name}={_shown(value)}" for name, value in given.items())
    return f" ({said})" if said else ""


def _shown(value: object) -> str:
    plain = isinstance(value, (str, int, float, bool, list, tuple, type(None)))
    return str(value) if plain else type(value).__name__


def _listed(entries: Iterable[str]) -> str:
    """With no break inside an entry, as far as there is room."""
    return ", ".join(f'<span class="entry">{text(entry)}</span>' for entry in entries)


def call(explanation: Explained, number: int) -> str:
    """The call that makes the maps again; empty where it is not known."""
    return filled("call.html", n=number, call=text(explanation.call)) if explanation.call else ""
