"""The data that the page's script draws from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..explained import Attribution, Explained
from ..visualization import ALPHA, heatmap
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
        InputError: NaN or infinite values in a flow.
    """
    view, record = explanation.view, explanation.attention
    return {
        "name": explanation.source.rpartition(".")[0] or explanation.source or "explanation",
        "features": not explanation.labels,  # a model without classes
        "grid": explanation.grid,
        "original": view.original,
        "box": view.box,
        "window": view.window,
        "opacity": ALPHA,
        "colours": base64(_colours(), "u1"),
        "classes": [{"index": label.index, "title": label.title} for label in explanation.targets],
        "attributions": [_attribution(a) for a in explanation.attributions],
        "attention": _attention(record.patches, attention_bytes) if record else {},
    }


def _attribution(attribution: Attribution) -> dict[str, Any]:
    if not torch.isfinite(attribution.flow).all():
        raise InputError(f"the flow of {attribution.title} holds NaN or infinite values: the model or its input do")
    return {
        "method": attribution.method,
        "target": attribution.target and attribution.target.index,
        "layers": attribution.layers,
        "flow": base64(attribution.flow.detach().float().cpu(), "<f4"),
    }


def _attention(patches: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, str]]:
    """Layer -> each row's greatest weight, and the row in 255ths of it; of evenly spaced layers where all are too much.

    The last layer is always among them.
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
        found[name] = {"tops": base64(tops, "<f4"), "parts": base64(parts, "u1")}
    return found


def _colours() -> np.ndarray:
    """The colours of the overlay from the lowest to the highest, (256, 3)."""
    ramp = heatmap(np.arange(256, dtype=np.float32)[None], (256, 1), smooth=False)
    return np.asarray(ramp)[0, :, :3]
