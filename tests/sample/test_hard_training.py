"""The training of the hard sample: what is asked of it, and that it goes on where it was stopped."""

from functools import partial

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from captum_vit.sample.hard import CLASSES, CONFIG, SKIED, Plan
from captum_vit.sample.hard.train import PATCHES, Recipe, Training, answers, draw_kept, run, with_twins

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch.optim.Muon")
RECIPE = Recipe(scenes=16, batch=4, polish=8)


def begun(recipe: Recipe = RECIPE) -> Training:
    torch.manual_seed(0)
    return Training(VisionTransformer(**CONFIG), recipe)


def test_a_run_goes_on_where_it_was_stopped(tmp_path, capsys):
    whole = begun()
    for _ in range(4):
        whole.forward()
    stopped = begun()
    for _ in range(2):
        stopped.forward()
    stopped.write(tmp_path / "run.pt")
    again = begun()
    again.read(tmp_path / "run.pt")
    assert again.step == 2
    for _ in range(2):
        again.forward()
    pairs = zip(whole.average.parameters(), again.average.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(whole.average.parameters(), stopped.average.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(ValueError, match="by another recipe"):
        begun(Recipe(scenes=48, batch=4, polish=8)).read(tmp_path / "run.pt")


def test_the_state_is_written_as_it_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("captum_vit.sample.hard.train.evaluate", lambda model: np.ones(6))
    monkeypatch.setattr("captum_vit.sample.hard.train.interventions", lambda model, scenes: {"reason": 1.0})
    run(begun(Recipe(scenes=8, batch=4, polish=4)), tmp_path / "run.pt", every=2)
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 3


def test_what_is_asked_follows_from_what_is_seen():
    batch = Plan.draw(11, 80).render(CONFIG["img_size"])
    ask = partial(answers, batch, recipe=Recipe())
    labels, counts = ask(None)
    assert torch.equal(labels, torch.from_numpy(batch.labels))
    assert counts.all()
    everything = torch.arange(PATCHES).expand(len(batch), -1)
    assert torch.equal(ask(everything)[0], labels)
    few = draw_kept(np.random.default_rng(0), len(batch), 8)
    seen, sure = ask(few)
    assert (seen <= labels).all()
    assert seen.sum() < labels.sum() / 2
    assert (sure < 1).any()
    starry = torch.from_numpy(batch.sky)
    assert seen[starry, SKIED].all()  # any part of the sky tells


@pytest.mark.parametrize("keep", [1, 16, PATCHES])
def test_as_many_patches_as_asked_stay(keep):
    kept = draw_kept(np.random.default_rng(1), 5, keep)
    assert kept.shape == (5, keep)
    assert all(len(set(row.tolist())) == keep for row in kept)
    assert int(kept.max()) < PATCHES
    assert len(CLASSES) == 6


def test_twins_lack_one_thing_and_nothing_else():
    plan = Plan.draw(5, 12)
    both = with_twins(plan, 4, reasons=True)
    assert len(both) == 16
    first, last = both.things["kind"][:4], both.things["kind"][12:]
    assert (last[0::2, 2:4] == -1).all()
    assert np.array_equal(np.delete(last[0::2], [2, 3], 1), np.delete(first[0::2], [2, 3], 1))
    assert (last[1::2, 0] == -1).all()
    assert np.array_equal(last[1::2, 1:], first[1::2, 1:])
    of_negatives = with_twins(plan, 4, reasons=False).things["kind"][12:]
    assert (of_negatives[:, 2:4] == -1).all()
    assert np.array_equal(of_negatives[:, :2], first[:, :2])


def test_the_end_of_a_run_goes_through_the_last_rates_again():
    recipe = Recipe(scenes=400, batch=4, polish=80)
    assert recipe.steps == 120
    told = [recipe.progress(step) for step in (50, 100, 101, 120)]
    assert told == pytest.approx([0.5, 1.0, 0.81, 1.0])
    weights = [recipe.steadiness(step) for step in (1, 20, 60, 100, 101)]
    assert weights == pytest.approx([0.1, 0.1, 1.05, 2.0, 8.0])
