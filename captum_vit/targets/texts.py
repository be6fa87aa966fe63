"""Masks and queries as a person writes them on a line."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import TargetError, brief
from .base import Target
from .mask import PEAK, Mask
from .query import EDGES, Query


def of_text(text: str) -> Target | None:
    """The target that a text like "query:17/car" or "mask:person" stands for; None where it begins otherwise.

    >>> from captum_vit.targets.texts import of_text
    >>> of_text("query:17/car"), of_text("query:17/left"), of_text("mask:person"), of_text("mask:nose/peak")
    (Query(17, 'car'), Query(17, box='left'), Mask('person'), Mask('nose', 'peak'))

    query:NUMBER, query:NUMBER/CLASS or query:NUMBER/EDGE: a detector's query; the edge of its box is left, top, right,
        bottom, width or height. query:NUMBER/mask: the mask of a segmenter's query.
    mask:CLASS: a class where the model finds it; mask:CLASS/peak the pixel where it is clearest; mask:CLASS@FILE the
        pixels that are not black in a picture as large as the photograph. Without classes, as of depth, CLASS is left
        out.
    Raises:
        TargetError: it begins so, and goes on in another way; or the picture cannot be read.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon or kind not in ("query", "mask"):
        return None
    if kind == "query":
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:/\s*(.+))?", rest)
        if found is None:
            raise TargetError(f"a query is query:NUMBER or query:NUMBER/CLASS, as query:17/car, got {brief(text)}")
        named = (found[2] or "").strip()
        if named == "mask":
            return Mask(Query(int(found[1])))
        return Query(int(found[1]), box=named) if named in EDGES else Query(int(found[1]), _class(named))
    named, at, path = rest.partition("@")
    if at:
        return Mask(_class(named), _pixels(path.strip()))
    named, slash, peak = rest.rpartition("/")
    return Mask(_class(named), PEAK) if slash and peak.strip() == PEAK else Mask(_class(rest))


def _class(text: str) -> int | str | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text) else text or None


def _pixels(path: str) -> np.ndarray:
    try:
        with Image.open(Path(path)) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError) as error:
        raise TargetError(f"the mask {brief(path)} cannot be read: {error}") from error
