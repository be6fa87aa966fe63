"""The gallery of a page: a card for each image, with what the model says of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..colours import Look
from ..explained import Explained, Label
from .document import filled
from .encoding import painted, text

THUMBNAIL = 192


@dataclass(frozen=True)
class Card:
    """What the gallery shows of one image.

    predicted: the class with the highest score; None of a model without classes.
    warning: what is to be held against the map that is shown.
    error: which class is right, where another one is predicted.
    """

    name: str
    link: str
    thumb: str
    size: tuple[int, int]
    caption: str
    predicted: Label | None
    warning: str
    error: str

    @classmethod
    def of(cls, explanation: Explained, name: str, link: str, look: Look) -> "Card":
        """The card of one explanation, whose photograph and maps may go."""
        explanation = explanation.still()
        first = explanation.attributions[0]
        best = next((label for label in explanation.labels if label.index is not None), None)
        wrong = best is not None and explanation.truth not in ("", best.title)
        shown = first.method_title if first.target in (None, best) else first.heading
        told = "" if first.warning or first.verdict is None else f", {first.verdict.words}"
        return cls(
            name,
            link,
            painted(explanation, first, THUMBNAIL, look),
            explanation.image.size,
            shown + told,
            best,
            first.warning,
            f"wrong: it is {explanation.truth}" if wrong else "",
        )

    def html(self, number: int) -> str:
        """Its place in the gallery."""
        best, beside = self.predicted, self.link.startswith("#")
        width, height = self.size
        return filled(
            "card.html",
            name=text(self.name),
            link=text(self.link),
            thumb=self.thumb,
            width=width,
            height=height,
            caption=text(self.caption),
            predicted=text(best.title if best else ""),
            score=best.score if best else "",
            doubt=int(bool(self.warning)),
            prediction=f'<span class="predicted">{text(best.title)}, {text(best.measured)}</span>' if best else "",
            wrong=int(bool(self.error)),
            badges="".join(f'<span class="badge">{text(said)}</span>' for said in (self.error, self.warning) if said),
            pick=filled("pick.html", n=number, name=text(self.name)) if beside else "",
        )


def gallery(cards: Sequence[Card]) -> str:
    """All cards, and what orders and filters them."""
    scored = any(card.predicted for card in cards)
    predicted = sorted({card.predicted.title for card in cards if card.predicted})
    orders = [("surest", "surest first"), ("unsure", "least sure first")] if scored else []
    orders += [("wrong", "wrong ones first")] if any(card.error for card in cards) else []
    return filled(
        "gallery.html",
        orders="".join(f'<option value="{order}">{said}</option>' for order, said in orders),
        classless="" if scored else "hidden",
        predicted="".join(f'<option value="{text(name)}">{text(name)}</option>' for name in predicted),
        alone="" if all(card.link.startswith("#") for card in cards) else "hidden",
        cards="".join(card.html(number) for number, card in enumerate(cards, 1)),
    )
