"""Planted scenes: what is asked of them stands in them, and only that is taken out."""

import numpy as np
import pytest

from captum_vit.data import open_data
from captum_vit.errors import DataError
from captum_vit.sample.hard import CLASSES, MARKED, SKIED, Plan

SIZE = 96


@pytest.fixture(scope="module")
def plan():
    return Plan.draw(3, 60)


def test_a_seed_gives_the_same_scene_at_every_size(plan):
    small, large = plan.render(48), Plan.draw(3, 60).render(96)
    halved = large.images.reshape(60, 48, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(halved - small.images).mean() < 6
    assert (small.labels == large.labels).all()
    assert np.array_equal(large.images, plan.render(96).images)


def _far(things: np.ndarray, label: int) -> np.ndarray:
    """Pixels outside the squares that cut-outs of a class are drawn in."""
    axis = (np.arange(SIZE) + 0.5) / SIZE
    own = things[things["kind"] == label]
    away = [np.hypot(axis[None] - t["x"], axis[:, None] - t["y"]) > 1.45 * t["radius"] for t in own]
    return np.all(away, 0)


@pytest.mark.parametrize(("kind", "slots"), [("objects", slice(0, 2)), ("distractors", slice(2, 4))])
def test_without_a_thing_all_else_is_the_same(plan, kind, slots):
    batch = plan.render(SIZE)
    own = batch.masks if kind == "objects" else batch.distractors
    for label in range(len(CLASSES)):
        there = own[:, label].any((1, 2))
        assert there.any()
        changed = getattr(plan, f"without_{kind}")(label).render(SIZE)
        left = changed.masks if kind == "objects" else changed.distractors
        assert not left[:, label].any()
        others = [other for other in range(len(CLASSES)) if other != label]
        assert np.array_equal(left[:, others], own[:, others])
        assert np.array_equal(changed.images[~there], batch.images[~there])
        differs = (changed.images != batch.images).any(-1)
        for row in np.flatnonzero(there):
            assert differs[row][own[row, label]].mean() > 0.9  # a grey thing on grey ground may come out alike
            assert not differs[row][_far(plan.things[row][slots], label)].any()


def test_shortcuts_are_in_the_labels_and_go():
    plan = Plan.draw(5, 40, mark=1.0, sky=1.0, beside=0.0)
    batch = plan.render(SIZE)
    assert batch.labels[:, [MARKED, SKIED]].all()
    assert not batch.masks[:, [MARKED, SKIED]].any()
    assert batch.shortcuts[:, [MARKED, SKIED]].any((2, 3)).all()
    gone = plan.without_shortcut(MARKED).without_shortcut(SKIED)
    assert not gone.labels[:, [MARKED, SKIED]].any()
    assert not gone.render(SIZE).shortcuts.any()


def test_objects_do_not_lie_on_each_other(plan):
    batch = plan.render(SIZE)
    layers = np.concatenate([batch.masks, batch.distractors, batch.marks[:, None]], 1)
    assert (layers.sum(1) > 1).mean() < 0.002  # corners of their squares may meet


@pytest.mark.parametrize("truth", ["reason", "distractor", "shortcut", "background"])
def test_what_is_asked_stands_in_the_scene(truth):
    reader = open_data(f"planted:12?truth={truth}&size={SIZE}")
    for item in reader:
        assert item.mask.any()
        assert item.id.startswith(truth)
        if truth == "distractor":
            assert item.valid is not None
            assert (item.valid & ~item.mask).any()
            assert not (item.mask & ~item.valid).any()
        else:
            assert item.valid is None
    if truth in ("shortcut", "background"):
        assert {item.target for item in reader} == {MARKED if truth == "shortcut" else SKIED}
    else:
        assert len({item.target for item in reader}) > 3


def test_wrong_wishes():
    with pytest.raises(DataError, match="no truth 'reasons'"):
        open_data("planted:3?truth=reasons")
    with pytest.raises(DataError, match="takes a number of scenes"):
        open_data("planted:many")
    with pytest.raises(TypeError):
        Plan.draw(0, stars=1)
