"""What owners do with the batch around their ViT, and in what form they return scores."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput

Scores = Callable[[Tensor], Tensor]  # images -> scores


def in_order(x: Tensor) -> list[int]:
    return list(range(len(x)))


def nowhere(x: Tensor) -> None:
    """Several times, or not at all."""


def alone(x: Tensor) -> list[int] | None:
    """Only where there is no other image."""
    return [0] if len(x) == 1 else None


def turned_round(x: Tensor) -> list[int]:
    return in_order(x)[::-1]


@dataclass(frozen=True)
class Batch:
    """What is done with a batch.

    call: of the images and what scores them, the scores.
    rows: where each image stands among those that the ViT is given; None where no map is right.
    runs: how often the ViT runs; the score is of the last time.
    """

    name: str
    call: Callable[[Tensor, Scores], Tensor]
    rows: Callable[[Tensor], list[int] | None] = in_order
    runs: int = 1


def _views(x: Tensor, f: Scores) -> Tensor:
    return f(torch.cat([x.flip(-1), x])).unflatten(0, (2, -1)).mean(0)


def _interleaved(x: Tensor, f: Scores) -> Tensor:
    return f(torch.stack([x, x.roll(8, -1)], 1).flatten(0, 1)).unflatten(0, (-1, 2)).mean(1)


def _weighed_views(x: Tensor, f: Scores) -> Tensor:
    scores = f(torch.cat([x, x.flip(-1)]))
    return scores[: len(x)] + 0 * scores[len(x) :]


def _in_turn(x: Tensor, f: Scores) -> Tensor:
    return (f(x) + f(x.flip(-1))) / 2


def _only_last_view(x: Tensor, f: Scores) -> Tensor:
    f(x.flip(-1))
    return f(x)


def _crops(x: Tensor, f: Scores) -> Tensor:
    return torch.stack([f(x.roll(shift, -1)) for shift in (0, 8, 16)]).amax(0)


def _one_by_one(x: Tensor, f: Scores) -> Tensor:
    return torch.cat([f(one) for one in x.split(1)])


def _first_alone(x: Tensor, f: Scores) -> Tensor:
    return f(x[:1]).expand(len(x), -1)


def _first_for_all(x: Tensor, f: Scores) -> Tensor:
    return f(x[:1].expand_as(x))


def _darkness(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3)).argsort()


def _by_brightness(x: Tensor, f: Scores) -> Tensor:
    order = _darkness(x)
    return f(x[order])[order.argsort()]


def _pairs_mixed(x: Tensor, f: Scores) -> Tensor:
    scores = f(x)
    return scores + 0.5 * scores.roll(1, 0)


BATCHES = [
    Batch("plain", lambda x, f: f(x)),
    Batch("views in one batch", _views, nowhere),
    Batch("views in turn in one batch", _interleaved, nowhere),
    Batch("views of weight 0", _weighed_views, nowhere),
    Batch("views one after another", _in_turn, nowhere),
    Batch("a view for nothing", _only_last_view, runs=2),
    Batch("maximum of crops", _crops, nowhere),
    Batch("one by one", _one_by_one),
    Batch("first alone", _first_alone, alone),
    Batch("first for all", _first_for_all, alone),
    Batch("reversed", lambda x, f: f(x.flip(0)).flip(0), turned_round),
    Batch("moved on", lambda x, f: f(x.roll(1, 0)).roll(-1, 0), lambda x: [*range(1, len(x)), 0]),
    Batch("by brightness", _by_brightness, lambda x: _darkness(x).argsort().tolist()),
    Batch("reversed without way back", lambda x, f: f(x.flip(0)), alone),
    Batch("scores moved on", lambda x, f: f(x).roll(1, 0), alone),
    Batch("scores mixed", _pairs_mixed),
    Batch("less the mean of the batch", lambda x, f: f(x - 0.3 * x.mean(0, keepdim=True))),
    Batch("on top of those before it", lambda x, f: f(x.cumsum(0)), alone),  # the first is as it is by itself
    Batch("on top of those behind it", lambda x, f: f(x.flip(0).cumsum(0).flip(0)), alone),
    Batch("divided by the batch", lambda x, f: f(x / x.std())),
]

Named = namedtuple("Named", "embedding logits")
Odd = namedtuple("Odd", "prediction embedding")


@dataclass
class Plain:
    """An output of somebody's own."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Form:
    """How scores are returned, of features and scores."""

    name: str
    make: Callable[[Tensor, Tensor], Any]


FORMS = [
    Form("scores", lambda f, s: s),
    Form("features, scores", lambda f, s: (f, s)),
    Form("scores, features", lambda f, s: (s, f)),
    Form("a list", lambda f, s: [s, f]),
    Form("a list, features first", lambda f, s: [f, s]),
    Form("loss, scores", lambda f, s: (s.sum(), s)),
    Form("nothing, scores", lambda f, s: (None, s)),
    Form("named tuple", lambda f, s: Named(f, s)),
    Form("named tuple, odd names", lambda f, s: Odd(s, f)),
    Form("dict", lambda f, s: {"logits": s}),
    Form("dict with features first", lambda f, s: {"features": f, "logits": s}),
    Form("dict, odd names", lambda f, s: {"features": f, "prediction": s}),
    Form("dict of torchvision", lambda f, s: {"out": s, "aux": 2 * s.flip(1)}),
    Form("data class", lambda f, s: Plain(f, s)),
    Form("Hugging Face's", lambda f, s: ImageClassifierOutput(logits=s, hidden_states=(f,))),
    Form("nested", lambda f, s: ((f, f), {"logits": s})),
    Form("nested, scores first", lambda f, s: {"logits": {"a": s}, "b": f}),
    Form("shares", lambda f, s: s.softmax(1)),
]
