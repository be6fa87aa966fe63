"""A module of somebody's own around a small ViT, and what the library says of it against the truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.attr import METHODS
from captum_vit.errors import CaptumViTError
from tests.helpers import DEPTH
from tests.owners.batches import BATCHES, FORMS, Batch, Form
from tests.owners.hands import HANDS
from tests.owners.heads import Pooling
from tests.owners.hooks import Hand, hand_on
from tests.owners.truth import MAPS, Reading, Seen, last_run, see
from tests.owners.vits import VITS, Vit
from tests.owners.ways import Change, Way, way_through

GRID = (4, 4)
PATCHES = 16
TARGETS = [1, 4, 2]
OPTIONS: dict[str, dict[str, Any]] = {"gradient_rollout": {"discard_ratio": 0.0}}
EXACT = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 0.2}


@dataclass(frozen=True)
class Situation:
    """What is explained.

    vit: the ViT.  pooling: the head; None for the ViT's own.  changes: to the images.  batch, form: what is done with
    the batch, and how scores are returned.  hand: what somebody else does.  count: of images.
    """

    vit: Vit = VITS[0]
    pooling: Pooling | None = None
    changes: tuple[Change, ...] = ()
    batch: Batch = BATCHES[0]
    form: Form = FORMS[0]
    hand: Hand = HANDS[0]
    count: int = 3
    training: bool = False
    dtype: torch.dtype = torch.float64

    def __repr__(self) -> str:
        head = "its own head" if self.pooling is None else self.pooling.name
        parts = [self.vit.name, head, *(change.name for change in self.changes), self.batch.name, self.form.name]
        rest = [self.hand.name, f"{self.count} images", "train" if self.training else "eval", str(self.dtype)[6:]]
        return " | ".join(parts + rest)

    @property
    def possible(self) -> bool:
        """Whether there is such a thing, and one truth about it."""
        vit, pooling, hand = self.vit, self.pooling, self.hand
        if sum(change.moves for change in self.changes) > 1 and any(change.alone for change in self.changes):
            return False
        if hand.timm and not vit.name.startswith("timm"):
            return False
        if hand.name == "fewer" and not vit.prefix:
            return False  # that is none
        if self.training and self.batch.name == "scores moved on":
            return False  # in train mode an image's scores may depend on the others
        if vit.name.startswith("nobody") and sum(change.name.startswith("zeros") for change in self.changes) > 1:
            return False  # with a whole row of padding the grid is what is left
        if pooling is None:
            return vit.native is not None
        if vit.streams is None or vit.prefix < pooling.needs:
            return False
        if pooling.deep_streams and hand.name not in ("nobody", "listening"):
            return False  # what a hand does then shows at some depths, and not at others
        if hand.at_door or (hand.mixing is not None and (pooling.by_content or "beside" in pooling.name)):
            return False
        # where no adapter knows the ViT, this is one more attention layer, an attention pool
        return not (pooling.name.startswith("attention of") and vit.name == "nobody's")


class Owner(nn.Module):
    """Changes images, runs its ViT on them, and pools the tokens."""

    def __init__(self, situation: Situation, changes: nn.ModuleList) -> None:
        super().__init__()
        kind = situation.vit
        self.changes, self.vit = changes, kind.build()
        self.head = None if situation.pooling is None else situation.pooling.build(kind.prefix, PATCHES)
        self.batch, self.form = situation.batch.call, situation.form.make
        deep = situation.pooling is not None and situation.pooling.deep_streams
        self.streams = kind.deep if deep else kind.streams

    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and scores of images as the ViT takes them."""
        if self.head is None:
            output = self.vit(x)
            scores = getattr(output, "logits", output)
            return scores.tanh()[:, :5], scores
        assert self.streams is not None
        return self.head(self.streams(self.vit, x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and scores."""
        for change in self.changes:
            x = change(x)
        kept = []

        def scores(images: Tensor) -> Tensor:
            features, found = self.scored(images)
            kept.append(features)
            return found

        found = self.batch(x, scores)
        return kept[-1], found

    def forward(self, x: Tensor) -> Any:
        return self.form(*self.both(x))


@dataclass
class Case:
    """A situation with its model, images and truth."""

    situation: Situation
    model: Owner
    x: Tensor
    way: Way
    rows: list[int] | None
    seen: Seen | None
    reading: Reading

    def grid(self, method: str) -> Tensor | None:
        """The map as it has to be, (B, 4, 4) in the order of the image; None if there is none."""
        if self.seen is None or self.rows is None:
            return None
        found = MAPS[method](self.seen, self.reading)
        if found is None:
            return None
        found = found[self.rows, self.situation.vit.prefix :].unflatten(1, GRID)
        return self.way.over_image(found)


def images(count: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Random images with more in them than noise."""
    draw = torch.Generator().manual_seed(1)
    rough = torch.randn(count, 3, 5, 6, generator=draw, dtype=dtype)
    fine = torch.randn(count, 3, *size, generator=draw, dtype=dtype)
    return nn.functional.interpolate(rough, size, mode="bilinear") + 0.5 * fine


def made(situation: Situation) -> tuple[Owner, Way]:
    """The model, in the mode and type that is wanted, and the way of its images."""
    changes, way = way_through(situation.changes)
    return Owner(situation, changes).train(situation.training).to(situation.dtype), way


def reading_of(situation: Situation) -> Reading:
    """What the score is read from."""
    prefix = situation.vit.prefix
    if situation.pooling is None:
        assert situation.vit.native is not None
        reading = Reading.of(situation.vit.native(prefix, PATCHES))
    else:
        reading = situation.pooling.reading(prefix, PATCHES)
    if situation.hand.unknown:
        rows = reading.rows.clone()
        rows[-1] = True
        return Reading(rows, None)
    if situation.hand.mixing is None:
        return reading
    tokens = prefix + PATCHES
    mixing = situation.hand.mixing(torch.eye(tokens, dtype=torch.float64)[None])[0]
    if reading.weights is None:
        rows = reading.rows.clone()
        rows[-1] = (rows[-1].double() @ mixing) != 0
        return Reading(rows, None)
    weights = reading.weights.clone()
    weights[-1] = weights[-1] @ mixing
    return Reading.of(weights)


def runs(situation: Situation) -> bool:
    """Whether the model itself takes its images."""
    model, way = made(situation)
    try:
        with torch.no_grad(), hand_on(situation.hand, model.vit, situation.vit):
            model(images(situation.count, way.given, situation.dtype))
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return True


def case(situation: Situation) -> Case:
    """The truth about a situation; hands are on while it is taken, and not after."""
    model, way = made(situation)
    way = situation.hand.way(way)
    x = images(situation.count, way.given, situation.dtype)
    reached = x
    with torch.no_grad():
        for change in model.changes:
            reached = change(reached)
    rows = situation.batch.rows(reached)
    seen = None if rows is None or situation.hand.moves else _seen(situation, x)
    return Case(situation, model, x, way, rows, seen, reading_of(situation))


def _seen(situation: Situation, x: Tensor) -> Seen | None:
    """What a copy of the model computes, written out; None where it runs in several parts."""
    (twin, _), (plain, _) = made(situation), made(situation)
    kind, hand = situation.vit, situation.hand
    with hand_on(hand, twin.vit, kind, twin=True):
        seen = see(twin, lambda y: scores_of(twin, y), x, TARGETS[: len(x)], kind.attention, kind.parts)
    with torch.no_grad(), hand_on(hand, plain.vit, kind):
        scores = scores_of(plain, x)
    off = float((scores - seen.scores).abs().max() / scores.abs().max())
    assert off < EXACT[situation.dtype], f"the truth is of another model: {situation}, off by {off}"
    seen = last_run(seen, situation.batch.runs)
    return seen if len(seen.steps) == DEPTH and len(seen.steps[0].a) == len(x) else None


def scores_of(model: Owner, x: Tensor) -> Tensor:
    """The scores, whatever the model returns them in."""
    scores = model.both(x)[1]
    return scores.softmax(1) if model.form is FORMS[-1].make else scores


WRONG = "WRONG"


def verdict(known: Case, method: str) -> str:
    """What the library says: "right", "refused ...", or what is wrong with it. The hand has to be on."""
    targets: Any = TARGETS[: len(known.x)] if len(known.x) > 1 else TARGETS[0]
    ours = METHODS[method]
    target = targets if ours.class_specific else None
    try:
        attribution = ours(known.model)
        found = attribution.attribute(known.x, target, **OPTIONS.get(method, {}))
        pixels = attribution.attribute(known.x, target, output_shape="spatial", **OPTIONS.get(method, {}))
    except CaptumViTError as error:
        return f"refused, {type(error).__name__}: {error}"
    except Exception as error:
        return f"{WRONG}: {type(error).__name__}: {error}"
    expected = known.grid(method)
    if expected is None:
        return f"{WRONG}: a map {tuple(found.shape)} where there is none"
    if found.shape != (len(known.x), 1, *GRID):
        return f"{WRONG}: {tuple(found.shape)}"
    exact = EXACT[known.situation.dtype]
    off = _off(found[:, 0], expected)
    if off > exact:
        return f"{WRONG}: {off:.2g} off"
    laid = known.way.over_pixels(expected.to(pixels))
    loose = any(change.loose for change in known.situation.changes)
    off = _off(pixels[:, 0], laid, _a_pixel(laid, known.way) if loose else None)
    return "right" if off <= max(exact, 1e-3) else f"{WRONG}: {off:.2g} off over pixels"


def _off(found: Tensor, expected: Tensor, allowed: Tensor | None = None) -> float:
    """The largest deviation beyond what is allowed, in units of the largest value."""
    if not torch.isfinite(found).all():
        return float("inf")
    difference = (found - expected).abs()
    if allowed is not None:
        difference = (difference - allowed).clamp(min=0)
    return float(difference.max() / expected.abs().max().clamp(min=1e-12))


def _a_pixel(maps: Tensor, way: Way) -> Tensor:
    """How much a map (B, H, W) changes from each pixel to those around it that one of the ViT's may cover."""
    reach = [range(-size, size + 1) for size in (math.ceil(max(1.0, abs(line[0]))) for line in way.lines)]
    around = torch.stack([maps.roll((down, across), (1, 2)) for down in reach[0] for across in reach[1]])
    return (around - maps).abs().amax(0)


def verdicts(situation: Situation, methods: Sequence[str] = tuple(MAPS)) -> dict[str, str]:
    """Of each method."""
    known = case(situation)
    with hand_on(situation.hand, known.model.vit, situation.vit):
        return {method: verdict(known, method) for method in methods}
