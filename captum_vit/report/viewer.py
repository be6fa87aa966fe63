"""The data that the page's script draws from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..explained import Attribution, Explained, Label
from ..names import printable, safe_name
from ..visualization import ALPHA, SIGNS, cmap_for, palette
from .encoding import base64, data_url, shrunk

LONGEST = 1024  # pixels of the photograph's longer side on the page
EXACT = 256 * 256  # photographs of so few pixels are kept without loss
ATTENTION_BYTES = 12_000_000  # what the attention between patches may take on a page, before base64


def photo(explanation: Explained) -> str:
    """The photograph as the page holds it, once."""
    image = explanation.image
    return data_url(shrunk(image, LONGEST), lossless=image.width * image.height <= EXACT)


def viewer_data(explanation: Explained, attention_bytes: int = ATTENTION_BYTES) -> dict[str, Any]:
    """All that the script needs of one explanation.

    Flows are float32, so that shares and ranges on the page are the numbers themselves and colours are computed from
    them as `visualization` does; five methods of twelve layers on 196 patches take 62 kB.

    Raises:
        InputError: NaN or infinite values in a flow, or maps of a video.
    """
    view, record, targets = explanation.view, explanation.attention, explanation.targets
    return {
        "name": safe_name(explanation.source.rpartition(".")[0] or explanation.source, "explanation"),  # of a file
        "features": not explanation.labels,  # a model without classes
        "grid": explanation.grid,
        "original": view.original,
        "box": view.box,
        "window": view.window,
        "opacity": ALPHA,
        "colours": base64(palette(cmap_for(signed=False)), "u1"),  # (256, 3), from the lowest to the highest
        "signed_colours": base64(palette(cmap_for(signed=True)), "u1"),
        "signs": SIGNS,
        "targets": [printable(label.title) for label in targets],
        "kinds": "classes" if all(label.index is not None for label in targets) else "targets",
        "attributions": [_attribution(a, targets) for a in explanation.attributions],
        "attention": _attention(record.patches, attention_bytes) if record else {},
    }


def _attribution(attribution: Attribution, targets: Sequence[Label]) -> dict[str, Any]:
    if not torch.isfinite(attribution.flow).all():
        raise InputError(f"the flow of {attribution.title} holds NaN or infinite values: the model or its input do")
    return {
        "method": printable(attribution.method),
        "title": printable(attribution.method_title),
        "unit": printable(attribution.facts.unit),
        "accumulates": attribution.facts.accumulates,
        "signed": attribution.signed,
        "target": None if attribution.target is None else targets.index(attribution.target),
        "verdict": "" if attribution.verdict is None else printable(attribution.verdict.text),
        "warning": printable(attribution.warning),
        "layers": [printable(name) for name in attribution.layers],
        "flow": base64(attribution.flow.detach().float().cpu(), "<f4"),
    }


def _attention(patches: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, str]]:
    """Of each layer what each patch looks at, in one byte a weight: parts of 255 of its greatest one, which is kept.

    Where all layers would take more than `limit` bytes, evenly spaced ones, the last among them.
    """
    names = list(patches)
    if not names:
        return {}
    fitting = max(1, min(len(names), limit // patches[names[0]].numel()))
    kept = np.unique(np.linspace(len(names) - 1, 0, fitting).round().astype(int))
    found = {}
    for name in (names[i] for i in kept):
        weights = patches[name].detach().float().cpu()
        tops = weights.amax(1)
        parts = (255 * weights / tops.where(tops > 0, 1).unsqueeze(1)).round()
        found[printable(name)] = {"tops": base64(tops, "<f4"), "parts": base64(parts, "u1")}
    return found
