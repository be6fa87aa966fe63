"""Owners, heads, hooks and replaced methods around a ViT: each map is the right one, or there is none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, note
from hypothesis import strategies as st

from captum_vit.capture import depths, examine, keeping, listeners, meeting, readout, stem, trunk, weighing
from tests.owners.batches import BATCHES, FORMS
from tests.owners.hands import HANDS
from tests.owners.owner import Situation, runs, verdicts
from tests.owners.poolings import POOLINGS
from tests.owners.truth import MAPS
from tests.owners.vits import VITS
from tests.owners.ways import CHANGES

pytestmark = pytest.mark.filterwarnings("ignore::captum_vit.unusual.ModelNote")
HEADS, WAYS, HOOKS, VIT = ({part.name: part for part in parts} for parts in (POOLINGS, CHANGES, HANDS, VITS))
BATCH, FORM = ({part.name: part for part in parts} for parts in (BATCHES, FORMS))
QUICK = ("agcam", "rollout")  # one that goes back by gradients, one that begins with the weights of tokens


def check(situation: Situation, methods: tuple[str, ...] = tuple(MAPS)) -> dict[str, str]:
    """Each map is right, or refused by an error of the library's."""
    found = verdicts(situation, methods)
    wrong = {method: said for method, said in found.items() if not said.startswith(("right", "refused"))}
    assert not wrong, f"{situation}: {wrong}"
    return found


def by_turns(name: str) -> Situation:
    """One of the ViTs, always the same for a name."""
    return Situation(vit=VITS[sum(map(ord, name)) % len(VITS)])


# One thing at a time


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str):
    vits = [vit for vit in VITS if Situation(vit=vit, pooling=HEADS[name]).possible]
    check(Situation(vit=vits[sum(map(ord, name)) % len(vits)], pooling=HEADS[name]), QUICK)


@pytest.mark.parametrize("name", WAYS)
def test_changes_of_images(name: str):
    situation = by_turns(name)
    pooling = HEADS["mean"] if situation.vit.streams is not None else None
    check(replace(situation, pooling=pooling, changes=(WAYS[name],)), QUICK)


@pytest.mark.parametrize("name", BATCH)
def test_batches(name: str):
    check(replace(Situation(), batch=BATCH[name]), QUICK)


@pytest.mark.parametrize("name", FORM)
def test_forms_of_scores(name: str):
    check(replace(Situation(), form=FORM[name], count=1), QUICK[:1])


@pytest.mark.parametrize("name", HOOKS)
def test_hands_of_others(name: str):
    check(replace(Situation(), hand=HOOKS[name], count=1), QUICK)


# Several at once


@st.composite
def situations(draw: Callable) -> Situation:
    """Few of the many things at once: else most are refused."""

    def some(parts: Any, usual: int) -> Any:
        return draw(st.sampled_from(parts)) if draw(st.integers(0, usual)) == 0 else parts[0]

    vit = draw(st.sampled_from(VITS))
    poolings = [p for p in (None, *POOLINGS) if Situation(vit=vit, pooling=p).possible]
    changes = draw(st.lists(st.sampled_from(CHANGES), max_size=2))
    return Situation(
        vit,
        draw(st.sampled_from(poolings)),
        tuple(changes),
        some(BATCHES, 4),
        some(FORMS, 4),
        some(HANDS, 2),
        draw(st.sampled_from([1, 3])),
        draw(st.booleans()),
        draw(st.sampled_from([torch.float64, torch.float32])),
    )


@given(situations())
def test_maps_are_right_or_refused(situation: Situation):
    assume(situation.possible and runs(situation))
    note(repr(situation))
    check(situation)


# What everybody does is explained

USUAL = {
    "its own head": Situation(),
    "its own mean": Situation(VIT["timm, mean"]),
    "registers": Situation(VIT["timm, registers"], HEADS["class token"]),
    "linear probe": Situation(VIT["HF"], HEADS["class token"]),
    "mean, norm and MLP": Situation(VIT["HF"], HEADS["mean, MLP"]),
    "class token beside mean": Situation(VIT["timm, registers"], HEADS["class token beside mean"]),
    "four depths": Situation(VIT["timm, class token"], HEADS["depths side by side"]),
    "depths added": Situation(VIT["HF"], HEADS["depths, added unequally"]),
    "depths of patches": Situation(VIT["HF"], HEADS["depths, patches unequally"]),
    "a region": Situation(VIT["timm, class token"], HEADS["a region"]),
    "nobody's": Situation(VIT["nobody's"], HEADS["mean, MLP"]),
    "resized": Situation(changes=(WAYS["made smaller"],)),
    "enlarged": Situation(changes=(WAYS["enlarged"],)),
    "normalised": Situation(changes=(WAYS["normalised"],)),
    "resized, cropped, normalised": Situation(
        changes=(WAYS["made smaller"], WAYS["centre crop by 4"], WAYS["normalised"])
    ),
    "of bytes": Situation(changes=(WAYS["rounded"], WAYS["normalised"])),
    "mirrored": Situation(changes=(WAYS["flip of axis 1"],)),
    "padded": Situation(changes=(WAYS["zeros around"],)),
    "partly black": Situation(changes=(WAYS["blackened"],)),
    "standardised": Situation(changes=(WAYS["standardised"],)),
    "a logger": Situation(hand=HOOKS["listening"]),
    "a logger on hidden states": Situation(VIT["HF"], HEADS["depths, mean"], hand=HOOKS["listening"]),
    "a hook where nobody's tokens lie": Situation(
        VIT["nobody's"], HEADS["mean"], (WAYS["zeros below and right"],), hand=HOOKS["mirrored before the patches"]
    ),
    "nearest pixels": Situation(changes=(WAYS["nearest"],)),
    "a named tuple": Situation(form=FORM["named tuple"]),
    "a dict": Situation(form=FORM["dict with features first"]),
    "train mode": Situation(VIT["HF"], HEADS["mean, MLP"], training=True),
    "single precision": Situation(VIT["HF"], HEADS["mean, MLP"], (WAYS["centre crop by 32"],), dtype=torch.float32),
    "a mask by hooks": Situation(hand=HOOKS["windows"]),
    "a sharper class": Situation(hand=HOOKS["sharper by the class"]),
}


@pytest.mark.parametrize("name", USUAL)
def test_what_everybody_does_is_explained(name: str):
    assert set(check(USUAL[name], QUICK).values()) == {"right"}


def test_half_precision():
    found = check(replace(Situation(VIT["HF"], HEADS["mean, MLP"]), dtype=torch.bfloat16), QUICK)
    assert set(found.values()) == {"right"}


# The checks, and what passes without them


def nothing(*_: Any, **__: Any) -> None:
    return None


def true(*_: Any, **__: Any) -> bool:
    return True


def unexamined(*_: Any, **__: Any) -> examine.Examined:
    return examine.Examined(compared=99)


class AlikeInEach(depths.Alike):
    """Another token at each depth."""

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        self.tokens.clear()
        return super().__call__(stream)


EXAMINED = [(keeping, "examine", unexamined), (readout, "examine", unexamined)]
TWINS: dict[str, tuple[list[tuple[Any, str, Any]], Situation, str]] = {
    "a crop": (EXAMINED, Situation(changes=(WAYS["crop off the middle"],)), "agcam"),
    "a mirror": (EXAMINED, Situation(changes=(WAYS["flip of axis 1"],)), "agcam"),
    "padding": (EXAMINED, Situation(changes=(WAYS["zeros below and right"],)), "agcam"),
    "a quarter turn": (EXAMINED, Situation(changes=(WAYS["a quarter turn"],)), "rollout"),
    "shuffled patches": (EXAMINED, Situation(changes=(WAYS["shuffled"],)), "raw_attention"),
    "images in another order": (EXAMINED, Situation(batch=BATCH["reversed"]), "daam"),
    "images by brightness": (EXAMINED, Situation(batch=BATCH["by brightness"]), "rollout"),
    "one image for all": (EXAMINED, Situation(batch=BATCH["first for all"]), "rollout"),
    "scores in another order": (EXAMINED, Situation(batch=BATCH["scores moved on"]), "agcam"),
    "pruned tokens": (EXAMINED, Situation(VIT["timm, registers"], hand=HOOKS["fewer"]), "rollout"),
    "exchanged tokens": (EXAMINED, Situation(hand=HOOKS["two exchanged"]), "rollout"),
    "exchanged by a patched class": (EXAMINED, Situation(hand=HOOKS["rolled by the class"]), "agcam"),
    "along the blocks": ([(examine, "tokens_stay", true)], Situation(hand=HOOKS["two exchanged"]), "rollout"),
    "behind the last attention": (
        [(trunk.TrunkTap, "look_at_end", nothing)],
        Situation(hand=HOOKS["rolled behind the last attention"]),
        "raw_attention",
    ),
    "in the last MLP": (
        [(trunk.TrunkTap, "look_at_end", nothing)],
        Situation(hand=HOOKS["mean added in the last MLP"]),
        "agcam",
    ),
    "some pixels off": ([(stem, "_compare_edges", nothing)], Situation(changes=(WAYS["reflected"],)), "agcam"),
    "written to .data": ([(listeners, "_hold", true)], Situation(hand=HOOKS["two exchanged in place"]), "agcam"),
    "patches that are chosen": (
        [(weighing, "_choices", nothing)],
        Situation(VIT["HF"], HEADS["the largest"], count=1),
        "daam",
    ),
    "depths": ([(weighing, "Alike", AlikeInEach)], Situation(VIT["HF"], HEADS["depths, added unequally"]), "rollout"),
    "tokens first": (
        [(meeting.Meeting, "_look", nothing)],
        Situation(VIT["HF"], HEADS["attention of a query"]),
        "rollout",
    ),
    "by content": ([(weighing, "_by_content", nothing)], Situation(VIT["HF"], HEADS["gated attention"]), "rollout"),
}


@pytest.mark.parametrize("name", TWINS)
def test_each_look_is_needed(name: str, monkeypatch: pytest.MonkeyPatch):
    changes, situation, method = TWINS[name]
    check(situation, (method,))
    for owner, attribute, instead in changes:
        monkeypatch.setattr(owner, attribute, instead)
    with pytest.raises(AssertionError, match="WRONG"):
        check(situation, (method,))
