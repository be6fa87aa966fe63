"""What goes into HTML: text that stays text, pictures as data URLs, arrays as base64."""

import html
import json
from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..colours import LOOK, Look
from ..explained import Attribution, Explained
from ..names import printable
from ..pixels import png, to_rgb
from ..visualization import overlay

EXACT = 256 * 256  # photographs of so few pixels are kept without loss
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def text(value: Any) -> str:
    """Anything as HTML text or as the value of an attribute in quotes, on which nothing acts or hides."""
    return html.escape(printable(str(value)))


def json_block(data: Any) -> str:
    """JSON for a script element, which nothing in it can end."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def base64(values: np.ndarray | Tensor, dtype: str) -> str:
    """An array's numbers one after another as bytes, in base64; `dtype` as numpy names it, such as "<f4"."""
    return b64encode(np.ascontiguousarray(np.asarray(values), dtype).tobytes()).decode()


def data_url(image: Image.Image, *, lossless: bool) -> str:
    """A picture as the source of an `<img>`: PNG, or of photographs much smaller, JPEG."""
    kind, encoded = ("png", png) if lossless else ("jpeg", _jpeg)
    return f"data:image/{kind};base64,{b64encode(encoded(to_rgb(image).image)).decode()}"


def _jpeg(image: Image.Image) -> bytes:
    data = BytesIO()
    image.save(data, "JPEG", quality=88)
    return data.getvalue()


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """A copy with no side longer than `side`; a small image stays as it is."""
    copy = to_rgb(image).image
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def painted(
    explanation: Explained, attribution: Attribution, side: int, look: Look = LOOK, *, lossless: bool = False
) -> str:
    """An overlay with no side longer than `side` as a data URL."""
    photo, scale = shrunk(explanation.image, side), explanation.scale(attribution, look)
    return data_url(
        overlay(photo, attribution.map, explanation.view, look, scale=scale, marks=attribution.marks), lossless=lossless
    )


def exact(image: Image.Image) -> bool:
    """Whether a photograph is so small that the page keeps it without loss."""
    return image.width * image.height <= EXACT
