"""The figures against pictures that a person has looked at.

`pytest tests/figures/test_pictures.py --mpl-generate-path=tests/figures/baseline` draws them anew.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from captum_vit.colours import Look
from captum_vit.figures import drawing as figures
from captum_vit.geometry import View
from tests.figures.made import CAT, DOG, explanation

# Text is left out, so that no font counts. What is left differs between versions of matplotlib by the edges of
# pictures, which fall on one pixel or the next: between 3.9 and 3.11 by a root mean square of up to 7.4 of 255. The
# wrong pictures below are 20 and more away.
COMPARED = {"style": "default", "remove_text": True, "tolerance": 10, "savefig_kwargs": {"dpi": 60}}

EVEN = Look(fade=False)


def picture(filename: str):
    return pytest.mark.mpl_image_compare(filename=filename, baseline_dir="baseline", **COMPARED)


def bare(figure: Figure) -> Figure:
    for text in figure.findobj(Text):
        text.set_visible(False)
    return figure


@picture("overlay.png")
def test_overlay():
    return bare(figures.plot(explanation()))


@picture("classes.png")
def test_classes():
    return bare(figures.plot(explanation(classes=(CAT, DOG))))


@picture("shared.png")
def test_classes_in_one_scale():
    return bare(figures.classes(explanation(classes=(CAT, DOG)), look=Look(scale="common")))


@picture("methods.png")
def test_methods():
    return bare(figures.plot(explanation(("agcam", "daam", "rollout"))))


@picture("grid.png")
def test_methods_by_classes():
    return bare(figures.plot(explanation(("agcam", "daam", "rollout"), (CAT, DOG), (100, 160))))


@picture("layers.png")
def test_layers():
    return bare(figures.layers(explanation()))


@picture("heads.png")
def test_heads():
    return bare(figures.heads(explanation(size=(300, 60))))


@picture("flow.png")
def test_flow():
    return bare(figures.flow(explanation(("agcam", "rollout"))))


@picture("signed.png")
def test_a_map_of_two_signs():
    return bare(figures.plot(explanation(("signed",)), look=EVEN))


@picture("signed_methods.png")
def test_maps_of_one_and_of_two_signs():
    return bare(figures.plot(explanation(("agcam", "signed", "rollout"))))


@picture("signed_layers.png")
def test_layers_of_two_signs():
    return bare(figures.layers(explanation(("signed",)), look=Look(scale="common")))


@picture("signed_flow.png")
def test_a_flow_of_one_and_of_two_signs():
    return bare(figures.flow(explanation(("agcam", "signed"))))


@picture("axes.png")
def test_axes_of_somebody():
    figure, axes = plt.subplots(1, 2, figsize=(6, 3))
    figures.plot(explanation(), ax=axes[0])
    figures.layers(explanation(), ax=axes[1])
    return bare(figure)


@pytest.fixture
def _only_compared(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--mpl-generate-path"):
        pytest.skip("a wrong picture must not become the expected one")


def wrong(reason: str, filename: str = "overlay.png"):
    marks = [
        pytest.mark.usefixtures("_only_compared"),
        pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason=f"broken on purpose: {reason}"),
        picture(filename),
    ]

    def marked(test):
        for mark in marks:
            test = mark(test)
        return test

    return marked


@wrong("the crop has to be noticed")
def test_without_the_crop():
    e = explanation()
    return bare(figures.plot(replace(e, view=View.of(e.image.size))))


@wrong("the map has to be noticed")
def test_upside_down():
    e = explanation()
    turned = replace(e.attributions[0], flow=e.attributions[0].flow.flip(1))
    return bare(figures.plot(replace(e, attributions=(turned,))))


@wrong("the colours have to be noticed")
def test_other_colours():
    return bare(figures.overlay(explanation(), look=Look(cmap="viridis")))


@wrong("evidence against has to be noticed", "signed.png")
def test_two_signs_in_one_colour():
    return bare(figures.overlay(explanation(("signed",)), look=replace(EVEN, cmap="plasma")))


@wrong("the place of zero has to be noticed", "signed.png")
def test_zero_somewhere_else():
    e = explanation(("signed",))
    moved = replace(e.attributions[0], flow=e.attributions[0].flow - 0.8)
    return bare(figures.plot(replace(e, attributions=(moved,)), look=EVEN))
