"""Heads that models are met with, by name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers import DEPTH, WIDTH
from tests.owners.heads import (
    Head,
    Pooling,
    Streams,
    at,
    beside,
    every,
    first,
    last_patches,
    mean_at,
    none,
)


def slope(x: Tensor) -> Tensor:
    """Unequal weights of a sequence of tokens, (tokens,)."""
    return (1 + torch.arange(x.shape[1], dtype=x.dtype) % 5) / 10


def sloped(prefix: int, patches: int) -> Tensor:
    weights = none(prefix, patches)
    weights[-1, prefix:] = 1 + torch.arange(patches, dtype=torch.float64) % 5
    return weights


def by_attention(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    return (head.one(tokens).softmax(1) * tokens).sum(1)


def gated(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    weights = head.one(head.a(tokens).tanh() * head.b(tokens).sigmoid()).softmax(1)
    return (weights * tokens).sum(1)


def by_sigmoid(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    weights = head.one(tokens).sigmoid()
    return (weights * tokens).sum(1) / weights.sum(1)


def by_norm(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    weights = tokens.norm(dim=2, keepdim=True)
    return (weights * tokens).sum(1) / weights.sum(1)


def chosen(head: Head, streams: Streams, prefix: int, count: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    index = head.one(tokens).squeeze(2).topk(count, 1).indices
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2])).mean(1)


def by_class_token(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1]
    weights = (head.a(tokens[:, :1]) @ tokens[:, prefix:].mT / 9).softmax(-1)
    return (weights @ tokens[:, prefix:])[:, 0]


def by_query(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    return head.attention(head.query.expand(len(tokens), -1, -1), tokens, tokens)[0][:, 0]


def generalised_mean(head: Head, streams: Streams, prefix: int) -> Tensor:
    return streams[-1][:, prefix:].clamp(min=1e-3).pow(3).mean(1).pow(1 / 3)


def deviation(head: Head, streams: Streams, prefix: int) -> Tensor:
    return streams[-1][:, prefix:].std(1)


def per_token(head: Head, streams: Streams, prefix: int) -> Tensor:
    return head.b(head.a(streams[-1][:, prefix:]).relu()).mean(1)


def as_picture(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    side = round(tokens.shape[1] ** 0.5)
    return F.adaptive_avg_pool2d(head.a(tokens).mT.unflatten(2, (side, side)), 1).flatten(1)


def unlike(head: Head, streams: Streams, prefix: int) -> Tensor:
    tokens = streams[-1][:, prefix:]
    return tokens[:, :4].mean(1) - tokens[:, 8:].mean(1)


POOLINGS = [
    Pooling("class token", lambda head, s, n: s[-1][:, 0], first(0, 0, 1), needs=1),
    Pooling("class token, MLP", lambda head, s, n: s[-1][:, 0], first(0, 0, 1), deep=True, needs=1),
    Pooling("mean", lambda head, s, n: s[-1][:, n:].mean(1), mean_at(0, 0, 1)),
    Pooling("mean, MLP", lambda head, s, n: s[-1][:, n:].mean(1), mean_at(0, 0, 1), deep=True),
    Pooling("mean of all", lambda head, s, n: s[-1].mean(1), every),
    Pooling(
        "a region", lambda head, s, n: s[-1][:, [n + 1, n + 2, n + 6]].mean(1), at((-1, 1, 1), (-1, 2, 1), (-1, 6, 1))
    ),
    Pooling("one patch", lambda head, s, n: s[-1][:, n + 5], at((-1, 5, 1))),
    Pooling("last prefix token", lambda head, s, n: s[-1][:, n - 1], at((-1, -1, 1)), needs=2),
    Pooling("unequal weights", lambda head, s, n: (slope(s[-1][:, n:])[:, None] * s[-1][:, n:]).sum(1), sloped),
    Pooling(
        "class token and mean, added",
        lambda head, s, n: 0.7 * s[-1][:, 0] + 0.3 * s[-1][:, n:].mean(1),
        beside(first(0, 0, 0.7), mean_at(0, 0, 0.3)),
        needs=1,
    ),
    Pooling(
        "class token beside mean",
        lambda head, s, n: torch.cat([s[-1][:, 0], s[-1][:, n:].mean(1)], 1),
        beside(first(0, 0, 0.5), mean_at(0, 0, 0.5)),
        width=2 * WIDTH,
        needs=1,
    ),
    Pooling(
        "class token beside mean, MLP",
        lambda head, s, n: torch.cat([s[-1][:, 0], s[-1][:, n:].mean(1)], 1),
        beside(first(0, 0, 0.5), mean_at(0, 0, 0.5)),
        width=2 * WIDTH,
        deep=True,
        needs=1,
    ),
    Pooling("depths, mean", lambda head, s, n: torch.stack(s)[:, :, 0].mean(0), first(1, 1, 1), needs=1),
    Pooling(
        "depths, added unequally",
        lambda head, s, n: 0.2 * s[0][:, 0] + 0.1 * s[1][:, 0] + 0.7 * s[2][:, 0],
        first(0.2, 0.1, 0.7),
        needs=1,
    ),
    Pooling(
        "depths side by side",
        lambda head, s, n: torch.cat([s[1][:, 0], s[2][:, 0]], 1),
        first(0, 1, 1),
        width=2 * WIDTH,
        needs=1,
    ),
    Pooling("depths, patches", lambda head, s, n: (s[1][:, n:] + s[2][:, n:]).mean(1), mean_at(0, 1, 1)),
    Pooling(
        "depths, patches unequally",
        lambda head, s, n: (0.9 * s[0][:, n:] + 0.3 * s[2][:, n:]).mean(1),
        mean_at(0.75, 0, 0.25),
    ),
    Pooling(
        "mean of one depth beside class token of another",
        lambda head, s, n: torch.cat([s[0][:, n:].mean(1), s[2][:, 0]], 1),
        beside(mean_at(1, 0, 0), first(0, 0, 1)),
        width=2 * WIDTH,
        needs=1,
    ),
    Pooling("penultimate", lambda head, s, n: s[-2][:, 0], first(0, 1, 0), needs=1),
    Pooling("penultimate, mean", lambda head, s, n: s[-2][:, n:].mean(1), mean_at(0, 1, 0)),
    Pooling("first block", lambda head, s, n: s[0][:, n:].mean(1), mean_at(1, 0, 0)),
    Pooling("a layer on each token", per_token, last_patches),
    Pooling(
        "a neuron on each token",
        lambda head, s, n: head.b(head.one(s[-1][:, n:]).relu() * head.query).mean(1),
        last_patches,
    ),
    Pooling("as a picture", as_picture, last_patches),
    Pooling("maximum", lambda head, s, n: s[-1][:, n:].amax(1)),
    Pooling("maximum of a class", lambda head, s, n: head.a(s[-1][:, n:]).amax(1)),
    Pooling("generalised mean", generalised_mean, last_patches),
    Pooling("attention", by_attention),
    Pooling("gated attention", gated),
    Pooling("sigmoid weights", by_sigmoid),
    Pooling("weights by norm", by_norm),
    Pooling("largest three", lambda head, s, n: chosen(head, s, n, 3)),
    Pooling("attention of a query", by_query),
    Pooling(
        "attention of the class token",
        by_class_token,
        rows=lambda n, p: last_patches(n, p) + first(0, 0, 1)(n, p),
        needs=1,
    ),
    Pooling("standard deviation", deviation),
    Pooling("flattened", lambda head, s, n: s[-1][:, n:].flatten(1), wide=lambda patches: patches * WIDTH),
    Pooling(
        "difference",
        unlike,
        rows=lambda n, p: torch.cat(
            [torch.zeros(DEPTH - 1, n + p), torch.tensor([[0.0] * n + [1.0] * 4 + [0.0] * 4 + [1.0] * (p - 8)])]
        ),
    ),
    Pooling("the largest", lambda head, s, n: chosen(head, s, n, 1)),
    Pooling("log of the sum", lambda head, s, n: head.a(s[-1][:, n:]).logsumexp(1)),
    Pooling(
        "largest beside mean",
        lambda head, s, n: torch.cat([s[-1][:, n:].amax(1), s[-1][:, n:].mean(1)], 1),
        width=2 * WIDTH,
    ),
]
