"""The piece of HTML that a notebook shows for an explanation: no scripts, everything escaped."""

from ..colours import SIGNS
from ..explained import Attribution, Explained
from .encoding import painted, text
from .facts import kind, verdicts

SIDE = 192
SHOWN = 12  # overlays; a notebook is saved with all that it shows


def render_inline(explanation: Explained) -> str:
    """Overlays side by side under their titles, and the labels with their scores."""
    explanation = explanation.still()
    shown = explanation.attributions[:SHOWN]
    figures = "".join(_figure(explanation, attribution) for attribution in shown)
    signed = [a for a in shown if a.signed]
    key = f"<p>{text(', '.join(dict.fromkeys(a.method_title for a in signed)))}: {SIGNS}</p>" if signed else ""
    more = len(explanation) - SHOWN
    left_out = f"<p>{more} more: see to_html()</p>" if more > 0 else ""
    notes = "".join(f"<p>{text(note)}</p>" for note in explanation.notes if not note.startswith("preprocessing: "))
    heading = (explanation.source or "Image") + (f" ({explanation.model})" if explanation.model else "")
    return (
        f'<div class="captum-vit"><p><strong>{text(heading)}</strong></p>'
        f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-end">{figures}</div>{key}'
        f"{verdicts(shown)}{left_out}{notes}{_table(explanation)}</div>"
    )


def _figure(explanation: Explained, attribution: Attribution) -> str:
    title = text(attribution.title)
    emphasis = "strong" if attribution.warning else "span"
    judged = f"<br><{emphasis}>{text(attribution.judged)}</{emphasis}>" if attribution.judged else ""
    return (
        f'<figure style="margin:0;max-width:{SIDE}px"><figcaption style="overflow-wrap:anywhere">{title}{judged}'
        f"</figcaption>"
        f'<img src="{painted(explanation, attribution, SIDE)}" alt="{title}, drawn over the image"></figure>'
    )


def _table(explanation: Explained) -> str:
    if not explanation.labels:
        return ""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{text(label.title)}</th>'
        f'<td style="text-align:right">{text(label.measured)}</td></tr>'
        for label in explanation.labels
    )
    return (
        '<table style="margin-top:12px"><thead><tr>'
        f'<th scope="col" style="text-align:left">{kind(explanation.labels)}</th>'
        f'<th scope="col" style="text-align:right">Score</th></tr></thead><tbody>{rows}</tbody></table>'
    )
