"""What figures hold, and what they leave alone."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import captum_vit
from captum_vit.colours import Look
from captum_vit.errors import OptionError
from captum_vit.explained import Label
from captum_vit.figures import drawing as figures
from captum_vit.figures.titles import block_names
from captum_vit.sample import draw_scene
from captum_vit.wording import number, percent
from tests.figures.made import CAT, DOG, explanation
from tests.figures.reading import bars, headings, pictures, titles

METHODS = ["agcam", "daam", "gradient_rollout", "rollout", "raw_attention"]
ALL = [figures.plot, figures.overlay, figures.classes, figures.methods, figures.layers, figures.heads, figures.flow]
SHAPES = [(60, 300), (1500, 300), (1, 1)]


@pytest.fixture(scope="module")
def sample() -> captum_vit.Explanation:
    """Of the embedded model: several methods, two classes."""
    image = draw_scene(15, objects=2, size=512).image
    return captum_vit.explain(image, "sample", method=METHODS, target=["triangle", "cross"], attention=True)


def test_one_overlay():
    figure = figures.plot(explanation())
    assert titles(figure) == ["cat, 90.0 %\nAGCAM"]
    assert bars(figure) == [("evidence per patch", "0.4", "4.06")]


def test_the_overlay_is_the_one_of_the_explanation():
    e = explanation()
    shown = pictures(figures.plot(e))[0].images[0]
    assert tuple(shown.get_extent()) == (-0.5, 239.5, 159.5, -0.5)
    large = np.asarray(e.overlay().resize(shown.get_size()[::-1])).astype(int)
    part = slice(len(large[0]) // 6 + 1, 5 * len(large[0]) // 6)  # what was seen: stripes beside it are not enlarged
    assert np.abs(np.asarray(shown.get_array()).astype(int) - large)[:, part].mean() < 2


def test_classes_each_in_its_own_scale():
    figure = figures.plot(explanation(classes=(CAT, DOG)))
    assert titles(figure) == ["cat, 90.0 %\nAGCAM", "dog, 0.10 %\nAGCAM"]
    assert [bar[1:] for bar in bars(figure)] == [("0.4", "4.06"), ("4.4", "44.1")]


def test_classes_in_one_scale():
    figure = figures.classes(explanation(classes=(CAT, DOG)), look=Look(scale="common"))
    assert bars(figure) == [("evidence per patch, one scale", "0.1", "44.1")] * 2
    first, second = (np.asarray(ax.images[0].get_array()).astype(int) for ax in pictures(figure))
    yellow = [(colours[..., 0] - colours[..., 2]).max() for colours in (first, second)]
    assert yellow[0] <= 0 < yellow[1]  # the smaller map has none of the highest colours


def test_methods_for_the_first_class():
    figure = figures.methods(explanation(("agcam", "daam", "rollout"), (CAT, DOG)))
    assert titles(figure) == ["cat, 90.0 %\nAGCAM", "cat, 90.0 %\nDAAM", "for any class\nattention rollout"]
    assert [bar[0].split()[0] for bar in bars(figure)] == ["evidence", "evidence", "attention"]


def test_methods_by_classes(sample):
    figure = figures.plot(sample)
    names = [title.splitlines() for title in titles(figure)]
    titled = {a.method: a.method_title for a in sample}
    assert [method for _, method in names[::2]] == [titled[method] for method in METHODS[:4]]
    assert [label.split(",")[0] for label, _ in names[:4]] == ["triangle", "cross"] * 2
    assert len(bars(figure)) == len(names) == 8


@pytest.mark.parametrize("methods", [2, 5, 24])
def test_many_methods_are_no_tower(methods):
    """Several stand side by side, each with its classes in their order."""
    e = explanation(("agcam",), (CAT, DOG))
    many = replace(e, attributions=[replace(a, method=f"m{i}") for i in range(methods) for a in e])
    figure = figures.plot(many)
    width, height = figure.get_size_inches()
    assert height <= 3 * width
    assert len(titles(figure)) == 2 * methods
    assert [title.split(",")[0] for title in titles(figure)] == ["cat", "dog"] * methods


def test_layers():
    figure = figures.layers(explanation(classes=(CAT, DOG)))
    assert [title.split("\n")[0] for title in titles(figure)] == [f"block {i}" for i in range(4)]
    assert titles(figure)[-1] == "block 3\nmax 4.06"
    assert headings(figure) == ["AGCAM: cat, 90.0 %"]
    assert bars(figure) == [("evidence per patch, each in its own scale", "lowest", "highest")]
    assert bars(figures.layers(explanation(), look=Look(scale="common"))) == [
        ("evidence per patch, one scale", "0.1", "4.06")
    ]


def test_what_each_block_adds():
    figure = figures.layers(explanation(), adds=True)
    assert [title.split()[-1] for title in titles(figure)] == ["0.3", "0.64", "1.14", "2.14"]
    e = explanation()
    falling = replace(e, attributions=(replace(e.attributions[0], flow=e.attributions[0].flow.flip(0)),))
    with pytest.raises(OptionError, match="maps of 'agcam' are no sum over blocks"):
        figures.layers(falling, adds=True)


def test_attention_is_of_each_block_by_itself(sample):
    alone = sample.only("raw_attention")
    assert headings(figures.layers(alone)) == [f"{alone.attributions[0].method_title}, of each block by itself"]
    with pytest.raises(OptionError, match="no sum over blocks"):
        figures.layers(sample.only("raw_attention"), adds=True)


def test_heads(sample):
    figure = figures.heads(sample, 2)
    assert [title.split("\n")[0] for title in titles(figure)] == [f"head {i}" for i in range(4)]
    assert headings(figure) == ["Attention of the heads, block 2"]
    assert headings(figures.heads(sample)) == headings(figures.heads(sample, "blocks.5.attn"))
    with pytest.raises(OptionError, match=r"no layer 6; there are 0 to 5: blocks\.0\.attn"):
        figures.heads(sample, 6)
    with pytest.raises(OptionError, match=r"kept no attention: pass attention=True to explain\(\)"):
        figures.heads(replace(sample, attention=None))


def test_the_strip():
    figure = figures.flow(explanation(("agcam", "rollout")))
    assert headings(figure) == ["AGCAM: cat, 90.0 %", "attention rollout"]
    assert titles(figure) == [f"block {i}" for i in range(4)] * 2
    thin = figures.flow(explanation(), count=2)
    assert titles(thin) == ["block 0", "block 3"]
    assert titles(figures.flow(explanation(), count=1)) == ["block 3"]
    with pytest.raises(OptionError, match="count must be at least 1, got 0"):
        figures.flow(explanation(), count=0)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_any_shape_of_image(draw, size):
    figure = draw(explanation(("agcam", "rollout"), (CAT, Label(5, "a very long name of a class " * 9, 0.5)), size))
    assert overlapping(figure) == []
    for ax in pictures(figure):
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(size[0] / size[1], rel=0.02)
        assert figure.bbox.contains(*box.min)
        assert figure.bbox.contains(*box.max)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: an overlap has to be noticed")
def test_a_title_over_two_pictures():
    figure = figures.plot(explanation(classes=(CAT, DOG)))
    pictures(figure)[0].set_title("a title as long as two pictures that are side by side, or longer")
    assert overlapping(figure) == []


def overlapping(figure: Figure) -> list[str]:
    """Texts that lie on another one, or outside."""
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    hidden = {text for ax in pictures(figure) for text in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown if text not in hidden]
    boxes = [(text, box.expanded(0.95, 0.9)) for text, box in boxes if box.width and box.height]
    outside = [t for t, box in boxes if not figure.bbox.contains(*box.min) or not figure.bbox.contains(*box.max)]
    return outside + [t for i, (t, box) in enumerate(boxes) if any(box.overlaps(other) for _, other in boxes[:i])]


def named(name: str) -> captum_vit.Explanation:
    return explanation(classes=(Label(3, name, 0.25), DOG))


@pytest.mark.parametrize("name", ["$\\frac$", "a_b^c $x$ \\undefined", "two\nlines", "<b>&amp;</b>", "x" * 500])
def test_names_are_set_as_they_are(name):
    figure = figures.plot(named(name))
    figure.draw_without_rendering()
    first = titles(figure)[0].splitlines()
    assert len(first) == 2
    shown = first[0].removesuffix(", 25.0 %")
    assert shown == " ".join(name.split()) or (shown.endswith("…") and name.startswith(shown[:-1]))
    figures.layers(named(name)).draw_without_rendering()
    figures.flow(named(name)).draw_without_rendering()


@pytest.mark.xfail(strict=True, raises=ValueError, reason="broken on purpose: what matplotlib makes of such a name")
def test_a_name_as_mathematics():
    figure = figures.plot(explanation())
    pictures(figure)[0].set_title("$\\frac$", parse_math=True)
    figure.draw_without_rendering()


def test_a_map_that_is_the_same_everywhere():
    e = explanation()
    flat = replace(e, attributions=(replace(e.attributions[0], flow=torch.full((4, 4, 4), 0.25)),))
    figure = figures.plot(flat)
    assert bars(figure) == [("0.25 everywhere", "0.25", "0.312")]
    for draw in ALL:
        draw(flat).draw_without_rendering()


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_somebodys_axes(draw):
    e = explanation(("agcam", "rollout"), (CAT, DOG))
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    axes[1].plot([0, 7], [0, 3])
    limits = axes[1].get_xlim()
    assert draw(e, ax=axes[0]) is figure
    figure.draw_without_rendering()
    assert not axes[0].axison
    assert axes[1].axison
    assert axes[1].get_xlim() == limits
    outer = axes[0].get_window_extent()
    inner = [child.get_window_extent() for child in axes[0].child_axes if child.images]
    assert inner
    assert all(outer.expanded(1.01, 1.01).contains(*corner) for box in inner for corner in (box.min, box.max))
    assert all(box.width / box.height == pytest.approx(1.5, rel=0.02) for box in inner)
    plt.close(figure)


def test_axes_of_a_part_of_a_figure():
    figure = plt.figure()
    part = figure.subfigures(1, 2)[0]
    assert figures.plot(explanation(), ax=part.subplots()) is figure
    figure.draw_without_rendering()
    plt.close(figure)


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_nothing_is_left_behind(draw, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("shown"))
    other = plt.figure()
    before = dict(matplotlib.rcParams), plt.get_fignums(), matplotlib.get_backend()
    draw(explanation(("agcam", "rollout"), (CAT, DOG))).draw_without_rendering()
    assert (dict(matplotlib.rcParams), plt.get_fignums(), matplotlib.get_backend()) == before
    assert plt.gcf() is other
    plt.close(other)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a figure of pyplot has to be noticed")
def test_a_figure_of_pyplot(monkeypatch):
    test_nothing_is_left_behind(lambda _: plt.figure(), monkeypatch)


def test_a_notebook_shows_it():
    figure = explanation().plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(figure, include=["image/png"])
    assert shown["image/png"]


def test_blocks_are_numbered_as_the_model_does():
    assert block_names(["vit.layers.3.attention", "vit.layers.4.attention"]) == ["block 3", "block 4"]
    assert block_names(["stages.0.1.attn", "stages.1.1.attn"]) == ["block 0.1", "block 1.1"]
    assert block_names(["blocks.0.attn1", "blocks.0.attn2"]) == ["blocks.0.attn1", "blocks.0.attn2"]
    assert block_names(["attention", "pool"]) == ["attention", "pool"]


@pytest.mark.parametrize(
    ("value", "shown"),
    {
        0.0: "0",
        12.83: "12.8",
        2.5e-5: "2.50e-5",
        0.0072: "0.0072",
        -3.0: "-3",
        0.21: "0.21",
        1290.4: "1290",
        99999.0: "1.00e+5",
        -1e-9: "-1.00e-9",
        0.00099999: "0.001",
    }.items(),
)
def test_numbers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0.0 %"), (1e-5, "< 0.01 %"), (0.0024, "0.24 %"), (0.012, "1.2 %"), (0.9, "90.0 %"), (1.0, "100.0 %")],
)
def test_shares(share, shown):
    assert percent(share) == shown
