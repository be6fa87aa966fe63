"""The words of a text below its map in figures."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from captum_vit import Sentence, Word
from captum_vit.colours import LOOK
from captum_vit.figures import drawing
from tests.figures.made import explanation as made

SENTENCE = Sentence("a cat sleeps", (Word("a", 0.0, (0, 1)), Word("cat", 0.5, (2, 5)), Word("sleeps", 1.0, (6, 12))))


def told():
    whole = made()
    first, *others = whole.attributions
    return replace(whole, attributions=(replace(first, sentence=SENTENCE), *others))


def drawn(figure) -> dict[str, tuple]:
    """Word -> the colour of its ground, and of its letters."""
    found = {}
    for axes in figure.axes:
        for text in axes.texts:
            if axes.patches and text.get_text():
                found[text.get_text()] = (to_rgb(axes.patches[0].get_facecolor()), text.get_color())
    return found


def test_words_stand_below_the_map_in_its_colours():
    explanation = told()
    found = drawn(drawing.overlay(explanation))
    assert list(found) == ["a", "cat", "sleeps"]
    scale = SENTENCE.scale(LOOK, explanation.attributions[0].signed)
    colours = LOOK.on_grey(scale.signed)[scale.levels(SENTENCE.shares.numpy())]
    for (ground, _), colour in zip(found.values(), colours, strict=True):
        assert np.abs(np.array(ground) - colour).max() < 1e-6
    assert found["a"][0] != found["sleeps"][0]


def test_a_figure_has_room_for_words_and_else_none():
    without, figure = drawing.overlay(made()), drawing.overlay(told())
    assert figure.get_figheight() > without.get_figheight()
    assert drawn(without) == {}


@pytest.mark.parametrize("word", ["a", "cat", "sleeps"])
def test_letters_can_be_read_on_their_ground(word):
    ground, ink = drawn(drawing.overlay(told()))[word]

    def light(colour) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    darker, brighter = sorted((light(ground), light(ink)))
    assert (brighter + 0.05) / (darker + 0.05) > 4.5
