"""The data that the page's script draws from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..colours import FLAT, LOOK, SIGNS, Look, Scale, nearly_flat
from ..errors import InputError
from ..explained import Attribution, Explained, Label
from ..marks import Mark
from ..names import printable, safe_name
from ..sentence import Sentence
from ..visualization import DARKER, LINE, STRIPE
from ..wording import number
from .encoding import base64, data_url, exact, shrunk

LONGEST = 1024  # pixels of the photograph's longer side on the page
FEW = 32  # frames of a video that are kept so large
ATTENTION_BYTES = 12_000_000  # what the attention between patches may take on a page, before base64


def photo(explanation: Explained) -> str:
    """The photograph as the page holds it, once."""
    return data_url(shrunk(explanation.image, LONGEST), lossless=exact(explanation.image))


def colours(look: Look) -> dict[str, Any]:
    """How all maps on the page are painted at first, and the colours from which the script paints whatever is chosen.

    Tables are of 256 levels, red, green, blue and how strong each is, one after another, for maps of one and of two
    signs, without and with faint values boosted: those of `Look.table`, whole and without a threshold.
    """

    def tables(signed: bool) -> list[str]:
        whole = replace(look, alpha=1.0, fade=True, threshold=0.0)
        return [base64(replace(whole, boost_faint=boosted).table(signed), "u1") for boosted in (False, True)]

    return {
        "tables": {"positive": tables(signed=False), "signed": tables(signed=True)},
        "flat": FLAT,
        "lines": {"line": LINE, "stripe": STRIPE, "darker": DARKER},
        "scale": look.scale if isinstance(look.scale, str) else "given",
        **{name: getattr(look, name) for name in ("boost_faint", "alpha", "fade", "threshold", "contour")},
    }


def viewer_data(explanation: Explained, attention_bytes: int = ATTENTION_BYTES, look: Look = LOOK) -> dict[str, Any]:
    """All that the script needs of one explanation.

    Flows are float32, so that shares and ranges on the page are the numbers themselves and colours are computed from
    them as `visualization` does; five methods of twelve layers on 196 patches take 62 kB.

    Raises:
        InputError: NaN or infinite values in a flow, or maps of a video without its frames.
    """
    view, record, targets = explanation.view, explanation.attention, explanation.targets
    return {
        "name": safe_name(_stem(explanation.source), "explanation"),  # of a file
        "photo": photo(explanation.still()),
        "frames": _frames(explanation),
        "features": not explanation.labels,  # a model without classes
        "grid": explanation.grid,
        "original": view.original,
        "box": view.box,
        "window": view.window,
        "signs": SIGNS,
        "targets": [printable(label.title) for label in targets],
        "kinds": "classes" if all(label.index is not None for label in targets) else "targets",
        "attributions": [_attribution(explanation, a, targets, look) for a in explanation.attributions],
        "removals": _removals(explanation),
        "attention": _attention(record.patches, attention_bytes) if record else {},
        "heads": {printable(name): _weights(heads) for name, heads in record.heads.items()} if record else {},
    }


def _stem(source: str) -> str:
    """The name of a file without its ending, of which .nii.gz has two."""
    return source.removesuffix(".gz").rpartition(".")[0] or source


def _frames(explanation: Explained) -> dict[str, Any] | None:
    """Of a video its frames, what each is called, and which cells of a map it lies between; None of an image."""
    kept = explanation.frames
    if kept is None:
        return None
    cells = explanation.attributions[0].flow.shape[1]
    longest = LONGEST if len(kept.images) <= FEW else LONGEST // 2
    return {
        "kind": kept.kind,
        "first": explanation.strongest,
        "cells": cells,
        "photos": [data_url(shrunk(image, longest), lossless=exact(image)) for image in kept.images],
        "names": [printable(name) for name in kept.names],
        "mixes": [kept.mix(frame, cells) for frame in range(len(kept.images))],
    }


def _removals(explanation: Explained) -> list[dict[str, Any]]:
    """Of each target its scores without patches, or of the only value of a model; none where they were not measured."""
    found = [explanation.removals.get(label.title) for label in explanation.targets] or [explanation.removals.get("")]
    return [] if None in found else [each.to_dict() for each in found if each is not None]


def _attribution(
    explanation: Explained, attribution: Attribution, targets: Sequence[Label], look: Look
) -> dict[str, Any]:
    """One map with its flow, and of each block the scale of its colours as `Explained.scale` has it."""
    each = look if isinstance(look.scale, tuple) else replace(look, scale="own")
    places, common = range(len(attribution.layers)), replace(look, scale="common")
    if not torch.isfinite(attribution.flow).all():
        raise InputError(f"the flow of {attribution.title} holds NaN or infinite values: the model or its input do")
    return {
        "method": printable(attribution.method),
        "title": printable(attribution.method_title),
        "unit": printable(attribution.facts.unit),
        "accumulates": attribution.facts.accumulates,
        "signed": attribution.signed,
        "own": [scale_ends(explanation.scale(attribution, each, place)) for place in places],
        "common": scale_ends(explanation.scale(attribution, common)),
        "flat": [nearly_flat(slice_) for slice_ in attribution.flow],
        "target": None if attribution.target is None else targets.index(attribution.target),
        "verdict": "" if attribution.verdict is None else printable(attribution.verdict.text),
        "score": "" if attribution.target is None else attribution.target.measured,
        "judged": printable(attribution.judged),
        "warned": attribution.warning != "",
        "marks": rings(explanation, attribution.marks),
        "words": None if attribution.sentence is None else _words(attribution.sentence, attribution.signed, look),
        "layers": [printable(name) for name in attribution.layers],
        "flow": base64(attribution.flow.detach().float().cpu(), "<f4"),
    }


def rings(explanation: Explained, marks: Sequence[Mark]) -> list[list[list[float]]]:
    """Marks as closed lines over the picture, points as shares of its sides."""
    width, height = explanation.image.size
    closed = (ring for mark in marks for ring in mark.rings((width, height)))
    return [[[round(x / width, 5), round(y / height, 5)] for x, y in ring] for ring in closed]


def _words(sentence: Sentence, signed: bool, look: Look) -> dict[str, Any]:
    """A text word by word: shares with the scale of their colours, and what was kept without each."""
    maps = [word.map for word in sentence.words]
    return {
        "texts": [printable(word.text) for word in sentence.words],
        "shares": [word.share for word in sentence.words],
        "scale": scale_ends(sentence.scale(look, signed)),
        "apart": ", ".join(f"{printable(name)} {number(value)}" for name, value in sentence.apart.items()),
        "scores": ["" if word.score is None else f"cosine {number(word.score)}" for word in sentence.words],
        "maps": ["" if shown is None else base64(shown.detach().float().cpu(), "<f4") for shown in maps],
    }


def scale_ends(scale: Scale) -> dict[str, Any]:
    """What the script needs of a scale."""
    return {"low": scale.low, "high": scale.high, "signed": scale.signed}


def _attention(patches: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, str]]:
    """Of each layer what each patch looks at.

    Where all layers would take more than `limit` bytes, evenly spaced ones, the last among them.
    """
    names = list(patches)
    if not names:
        return {}
    fitting = max(1, min(len(names), limit // patches[names[0]].numel()))
    kept = np.unique(np.linspace(len(names) - 1, 0, fitting).round().astype(int))
    return {printable(name): _weights(patches[name]) for name in (names[i] for i in kept)}


def _weights(weights: Tensor) -> dict[str, str]:
    """Weights (rows, ...) in one byte each: parts of 255 of the greatest in their row, which is kept."""
    weights = weights.detach().float().cpu().flatten(1)
    tops = weights.amax(1)
    parts = (255 * weights / tops.where(tops > 0, 1).unsqueeze(1)).round()
    return {"tops": base64(tops, "<f4"), "parts": base64(parts, "u1")}
