"""The piece of HTML that a notebook shows for an explanation: no scripts, everything escaped."""

from ..explained import Attribution, Explained
from .encoding import text, thumbnail
from .facts import percent

SIDE = 192
SHOWN = 12  # overlays; a notebook is saved with all that it shows


def render_inline(explanation: Explained) -> str:
    """Overlays side by side under their titles, and the predicted labels with their scores."""
    figures = "".join(_figure(explanation, attribution) for attribution in explanation.attributions[:SHOWN])
    more = len(explanation) - SHOWN
    left_out = f"<p>{more} more: see to_html()</p>" if more > 0 else ""
    heading = (explanation.source or "Image") + (f" ({explanation.model})" if explanation.model else "")
    return (
        f'<div class="captum-vit"><p><strong>{text(heading)}</strong></p>'
        f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-end">{figures}</div>{left_out}'
        f"{_table(explanation)}</div>"
    )


def _figure(explanation: Explained, attribution: Attribution) -> str:
    title = text(attribution.title)
    return (
        f'<figure style="margin:0;max-width:{SIDE}px"><figcaption style="overflow-wrap:anywhere">{title}</figcaption>'
        f'<img src="{thumbnail(explanation, attribution, SIDE)}" alt="{title}, drawn over the image"></figure>'
    )


def _table(explanation: Explained) -> str:
    if not explanation.labels:
        return ""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{text(label.title)}</th>'
        f'<td style="text-align:right">{percent(label.score)}</td></tr>'
        for label in explanation.labels
    )
    return (
        '<table style="margin-top:12px"><thead><tr><th scope="col" style="text-align:left">Class</th>'
        f'<th scope="col" style="text-align:right">Score</th></tr></thead><tbody>{rows}</tbody></table>'
    )
