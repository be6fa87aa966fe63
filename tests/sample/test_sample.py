"""The scenes, the sample model trained on them, and the script that trains it."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from captum_vit import sample
from captum_vit.adapters.sample_vit import build
from captum_vit.sample import scenes, train
from captum_vit.sample.plan import draw_plan

trains = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch.optim.Muon")

FRESH = 7_000_001  # a seed that no training run uses
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("timm")


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sample.draw_batch(FRESH, 500, objects=2)


@torch.no_grad()
def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    return model(train.normalise(images)).numpy()


# --- scenes


def test_a_seed_fixes_the_scene():
    first, again, other = sample.draw_scene(5), sample.draw_scene(5), sample.draw_scene(6)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    assert first.labels == again.labels
    assert not np.array_equal(first.image, other.image)


def test_the_draws_are_those_of_every_platform():
    assert [sample.draw_scene(seed).labels for seed in range(6)] == [(2, 3), (2, 4), (3, 7), (0, 4, 7), (3, 5, 7), (7,)]
    y, x = np.argwhere(sample.draw_scene(0).masks[0]).mean(axis=0)
    assert (x, y) == pytest.approx((44.1, 42.8), abs=0.2)


@pytest.mark.parametrize("seed", range(12))
def test_a_scene_does_not_depend_on_its_size(seed):
    small, large = sample.draw_scene(seed, size=64), sample.draw_scene(seed, size=512)
    assert large.image.shape == (512, 512, 3)
    assert small.labels == large.labels
    areas = small.masks.mean(axis=(1, 2)), large.masks.mean(axis=(1, 2))
    assert areas[0] == pytest.approx(areas[1], rel=0.08)
    shrunk = large.image.reshape(64, 8, 64, 8, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.image).mean() < 3.0
    assert np.abs(shrunk[:, ::-1] - small.image).mean() > 3.0  # a wrong picture would show


def test_a_scene_is_a_batch_of_one():
    scene = sample.draw_scene(11)
    images, labels, masks = sample.draw_batch(11, 1)
    assert np.array_equal(scene.image, images[0])
    assert scene.labels == tuple(np.flatnonzero(labels[0]))
    assert np.array_equal(scene.masks, masks[0, list(scene.labels)])


def test_rendering_in_parts_changes_nothing(monkeypatch):
    whole = sample.draw_batch(3, 20)
    monkeypatch.setattr(scenes, "_CHUNK", 7 * 64 * 64)
    for one, other in zip(whole, sample.draw_batch(3, 20), strict=True):
        assert np.array_equal(one, other)


def test_a_generator_moves_on():
    rng = np.random.default_rng(0)
    assert not np.array_equal(sample.draw_batch(rng, 2)[0], sample.draw_batch(rng, 2)[0])


def test_masks_are_disjoint_and_belong_to_the_labels():
    images, labels, masks = sample.draw_batch(FRESH, 1000)
    assert images.dtype == np.uint8
    assert masks.dtype == bool
    assert masks.sum(axis=1).max() == 1
    assert np.array_equal(masks.any(axis=(2, 3)), labels > 0)
    assert masks.sum(axis=(2, 3))[labels > 0].min() >= 64  # no less than a patch
    assert set(labels.sum(axis=1)) == {1, 2, 3}


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_the_number_of_objects_can_be_forced(objects):
    _, labels, masks = sample.draw_batch(FRESH, 300, objects=objects)
    assert (labels.sum(axis=1) == objects).all()
    assert (masks.any(axis=(2, 3)).sum(axis=1) == objects).all()
    scene = sample.draw_scene(FRESH, objects=objects)
    assert len(set(scene.labels)) == len(scene.masks) == objects


def test_every_class_is_as_frequent_as_the_others():
    shares = sample.draw_batch(FRESH, 4000)[1].mean(axis=0)
    assert shares == pytest.approx(np.full(8, 0.25), abs=0.03)


def test_objects_stand_out_from_the_background(pairs):
    images, _, masks = pairs
    brightness = images @ BRIGHTNESS
    for picture, objects in zip(brightness, masks, strict=True):
        background = np.median(picture[~objects.any(axis=0)])
        for mask in objects[objects.any(axis=(1, 2))]:
            assert abs(np.median(picture[mask]) - background) > 35.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"objects": 4}, "expected 1 to 3 objects, got 4"), ({"size": 8}, "at least 16 pixels, got 8")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample.draw_scene(0, **arguments)


def colours(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Histogram of each channel under the mask, its mean and its spread: (N, 30)."""
    rows = []
    for image, mask in zip(images, masks, strict=True):
        pixels = image[mask] / 255.0
        counts = [np.histogram(channel, bins=8, range=(0.0, 1.0))[0] / len(pixels) for channel in pixels.T]
        rows.append(np.concatenate([*counts, pixels.mean(axis=0), pixels.std(axis=0)]))
    return np.array(rows)


def colours_of_objects(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of the object without its edge, whose length depends on the shape."""
    inside = masks.any(axis=1)
    for axis in (1, 2):
        inside = inside & np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    return colours(images, inside)


def colours_of_images(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of the whole image."""
    return colours(images, np.ones(images.shape[:3], bool))


def probe(features: np.ndarray, classes: np.ndarray) -> float:
    """Accuracy of a linear probe on the second half of the scenes."""
    half = len(classes) // 2
    scaled = StandardScaler().fit(features[:half]).transform(features)
    linear = LogisticRegression(C=0.1, max_iter=300).fit(scaled[:half], classes[:half])
    return linear.score(scaled[half:], classes[half:])


def test_nothing_is_drawn_by_class():
    things, _ = draw_plan(np.random.default_rng(FRESH), 16_000, objects=1)
    drawn = things[:, 0]
    names = ("x", "y", "radius", "angle", "direction", "frequency", "phase", "stripes")
    features = np.column_stack([drawn["colour"], *(drawn[name] for name in names)])
    features = np.column_stack([features, features**2])
    assert probe(features, drawn["kind"]) < 0.14  # chance is 0.125
    features[:, 0] += 0.1 * drawn["kind"]
    assert probe(features, drawn["kind"]) > 0.15


@pytest.mark.parametrize("features", [colours_of_objects, colours_of_images])
def test_colour_does_not_tell_the_class(features: Callable):
    images, labels, masks = sample.draw_batch(FRESH, 3000, objects=1)
    classes = labels.argmax(axis=1)
    assert probe(features(images, masks), classes) < 0.19  # chance is 0.125
    tinted = (images * (1.0 - 0.05 * classes[:, None, None, None])).astype(np.uint8)
    tinted[..., 0] //= 1 + (classes % 2)[:, None, None].astype(np.uint8)
    assert probe(features(tinted, masks), classes) > 0.3  # the probe finds a tint


# --- the shipped model


def test_the_model_names_the_objects_of_fresh_scenes(model):
    images, labels, _ = sample.draw_batch(FRESH, 1500)
    scores = logits(model, images)
    by_class = average_precision_score(labels, scores, average=None)
    assert by_class.mean() >= 0.95
    assert by_class.min() >= 0.9
    assert train.average_precision(scores, labels) == pytest.approx(by_class, abs=1e-6)
    untrained = logits(build("timm", pretrained=False), images[:300])
    assert average_precision_score(labels[:300], untrained) < 0.5


def test_a_logit_depends_on_its_own_object(model, pairs):
    images, labels, masks = pairs
    first, second = labels.argmax(axis=1), 7 - labels[:, ::-1].argmax(axis=1)
    rows = np.arange(len(images))
    covered = images.copy()
    for image, mask in zip(covered, masks[rows, first], strict=True):
        image[mask] = np.median(image[~mask], axis=0)
    drop = logits(model, images) - logits(model, covered)
    assert (drop[rows, first] > drop[rows, second]).mean() > 0.9


def test_both_libraries_give_the_same_logits(model):
    pixels = train.normalise(sample.draw_batch(FRESH, 32)[0])
    other = build("transformers")
    assert not other.training
    with torch.no_grad():
        expected, found = model(pixels), other(pixels).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)
    assert expected.std() > 1.0
    assert other.config.id2label == dict(enumerate(sample.CLASSES))


def test_swapped_queries_and_keys_would_show(model):
    pixels = train.normalise(sample.draw_batch(FRESH, 8)[0])
    other = build("transformers")
    for layer in other.vit.layers:
        attention = layer.attention
        attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    with torch.no_grad():
        assert (model(pixels) - other(pixels).logits).abs().max() > 0.1


def test_unknown_layouts_are_named():
    with pytest.raises(ValueError, match="expected the layout 'timm' or 'transformers', got 'jax'"):
        sample.state_dict("jax")
    with pytest.raises(ValueError, match="expected the library 'timm' or 'transformers', got 'jax'"):
        build("jax")


def test_the_weights_are_small_and_say_how_they_came_about():
    assert sample.WEIGHTS.stat().st_size <= 4 * 2**20
    with safe_open(sample.WEIGHTS, "pt") as file:
        facts = file.metadata()
    assert float(facts["mean_average_precision"]) >= 0.95
    assert int(facts["recipe.scenes"]) == train.Recipe().scenes
    assert {value.dtype for value in sample.state_dict().values()} == {torch.float32}


def test_the_package_needs_no_model_library():
    code = "import sys, captum_vit.sample; sys.exit('timm' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- training


def losses_of_a_run(recipe: train.Recipe) -> np.ndarray:
    """Class and patch loss of every step: (steps, 2)."""
    seen = []
    train.train(build("timm", pretrained=False), recipe, lambda _, *losses: seen.append(losses[:2]))
    return np.array(seen)


@trains
def test_training_lowers_both_losses():
    recipe = train.Recipe(scenes=40 * 32, batch=32)
    losses = losses_of_a_run(recipe)
    assert len(losses) == 40
    fall = losses[:5].mean(axis=0) - losses[-5:].mean(axis=0)
    assert (fall > 0.05).all()
    frozen = losses_of_a_run(train.Recipe(scenes=10 * 32, batch=32, matrix_rate=0.0, other_rate=0.0))
    assert np.abs(frozen[:5].mean(axis=0) - frozen[-5:].mean(axis=0)).max() < 0.05


@trains
def test_a_run_can_be_repeated():
    torch.manual_seed(0)
    first = losses_of_a_run(train.Recipe(scenes=64, batch=32))
    torch.manual_seed(0)
    assert losses_of_a_run(train.Recipe(scenes=64, batch=32)) == pytest.approx(first, rel=1e-4)


def test_patches_are_named_after_what_covers_them():
    masks = np.zeros((1, 8, 64, 64), bool)
    masks[0, 3, :8, :4] = True
    targets = train.patch_targets(masks)
    assert targets.shape == (1, 64, 9)
    assert targets[0, 0].tolist() == [0, 0, 0, 0.5, 0, 0, 0, 0, 0.5]
    assert (targets[0, 1:, 8] == 1).all()


@trains
def test_the_command_writes_weights_that_fit(tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    train.main(["--out", str(path), "--scenes", "192", "--test-scenes", "250"])
    assert "mean_average_precision" in capsys.readouterr().out
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(sample.state_dict())
        assert file.metadata()["recipe.scenes"] == "192"
