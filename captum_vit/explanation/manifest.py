"""From the words and numbers of a saved explanation to the explanation, with every one of them checked."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..decoding import MAX_PIXELS
from ..errors import InputError
from ..explained import AttentionRecord, Attribution, Explained, Label
from ..facts import Facts
from ..geometry import View

T = TypeVar("T")
LARGEST = 2**31 - 1
DEEPEST = 8  # lists in lists, in an option
LONGEST_GRID = 4096  # patches a side; laying a map on a photograph takes memory for all of them
SHOWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def from_manifest(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Image.Image) -> Explained:
    """The explanation that a manifest describes, together with its tensors and its image.

    Raises:
        InputError: something in them that no explanation has.
    """
    attributions = _attributions(manifest)
    flows = [tensors.get(f"flow.{i}") for i in range(len(attributions))]
    versions = mapping(manifest.get("versions"), "versions")
    explanation = Explained(
        image,
        _view(mapping(manifest.get("geometry"), "geometry")),
        tuple(
            _attribution(entry, f"attributions[{i}]", flow)
            for i, (entry, flow) in enumerate(zip(attributions, flows, strict=True))
        ),
        many(manifest.get("labels"), "labels", _label),
        text(manifest.get("model"), "model"),
        text(manifest.get("source"), "source"),
        {name: text(version, f"versions.{name}") for name, version in versions.items()},
        notes=many(manifest.get("notes", []), "notes", text),
    )
    _check_size(explanation)
    photographed = manifest.get("photographed")
    if photographed is not None:
        width, height = many(photographed, "photographed", _side, 2)
        explanation = replace(explanation, photographed=(width, height))
    kept = manifest.get("attention")
    if kept is None:
        return explanation
    return replace(explanation, attention=_attention(mapping(kept, "attention"), tensors, explanation.grid))


def check_names(manifest: Mapping[str, Any], data: bytes, most: int) -> None:
    """That a safetensors file holds the tensors that the manifest names and no others, before any is made.

    Args:
        manifest: as it was read.
        data: what the file holds.
        most: bytes that its header may have.
    Raises:
        InputError: it holds others.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, most):
        raise InputError(f"the maps begin with a header of {length} bytes, and at most {most} are read")
    named = {f"flow.{i}" for i in range(len(_attributions(manifest)))}
    kept = manifest.get("attention")
    for kind in () if kept is None else ("heads", "patches"):
        named |= {f"{kind}.{name}" for name in many(mapping(kept, "attention").get(kind), f"attention.{kind}", text)}
    others = mapping(json.loads(data[8 : 8 + length]), "the header of the maps").keys() - named - {"__metadata__"}
    if others:
        raise _wrong("the maps", "those that the manifest names", min(others))


def _attributions(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    found = many(manifest.get("attributions"), "attributions", mapping)
    if not found:
        raise InputError("attributions must hold at least one, got none")
    return found


def text(value: Any, where: str) -> str:
    """The value, if it is text; otherwise an InputError that says where it stands, as from all checks below."""
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a mapping of names to values."""
    if not isinstance(value, dict):
        raise _wrong(where, "values by name", value)
    return value


def many(value: Any, where: str, of: Callable[[Any, str], T], count: int | None = None) -> tuple[T, ...]:
    """The entries of a list, each through the check `of`; `count` is how many there must be."""
    if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
        raise _wrong(where, "a list" if count is None else f"a list of {count}", value)
    return tuple(of(item, f"{where}[{i}]") for i, item in enumerate(value))


def _whole(value: Any, where: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise _wrong(where, f"a whole number from {least}", value)
    return value


def _side(value: Any, where: str) -> int:
    return _whole(value, where, 1)


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise _wrong(where, "a finite number", value)
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _wrong(where: str, wanted: str, value: Any) -> InputError:
    shown = repr(value)
    return InputError(f"{where} must be {wanted}, got {shown if len(shown) <= 60 else f'{shown[:60]}...'}")


def _label(value: Any, where: str) -> Label:
    given = mapping(value, where)
    index = given.get("index", "nothing")  # null is a target that is no class, and has to be written
    return Label(
        None if index is None else _whole(index, f"{where}.index"),
        text(given.get("name"), f"{where}.name"),
        _number(given.get("score"), f"{where}.score"),
        text(given.get("title"), f"{where}.title"),
        text(given.get("unit"), f"{where}.unit"),
    )


def _option(value: Any, where: str, depth: int = 0) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if not isinstance(value, list) or depth == DEEPEST:
        raise _wrong(where, f"words, numbers and lists of them, {DEEPEST} deep at most", type(value).__name__)
    return [_option(item, where, depth + 1) for item in value]


def _facts(value: Any, where: str) -> Facts:
    given = mapping(value, where)

    def yes(name: str) -> bool:
        return _flag(given.get(name), f"{where}.{name}")

    return Facts(
        text(given.get("title"), f"{where}.title"),
        text(given.get("unit"), f"{where}.unit"),
        yes("class_specific"),
        yes("signed"),
        yes("accumulates"),
    )


def _view(given: dict[str, Any]) -> View:
    def several(name: str, of: Callable[[Any, str], T], count: int = 2) -> tuple[T, ...]:
        return many(given.get(name), f"geometry.{name}", of, count)

    (width, height), size = several("original", _side), several("size", _side)
    (across, down), (x, y) = several("scale", _number), several("offset", _number)
    if min(across, down) <= 0:
        raise _wrong("geometry.scale", "positive", given["scale"])
    left, top, right, bottom = several("window", _number, 4)
    if size[0] * size[1] > MAX_PIXELS:
        raise _wrong("geometry.size", f"at most {MAX_PIXELS} pixels", size)
    slack = 1e-6 * max(width, height)  # of rounding
    if not (-slack <= left < right <= width + slack and -slack <= top < bottom <= height + slack):
        raise _wrong("geometry.window", f"left < right and top < bottom within {width}x{height}", given["window"])
    view = View((width, height), (size[0], size[1]), (across, down), (x, y), (left, top, right, bottom))
    if not all(map(math.isfinite, view.box)):
        raise _wrong("geometry.offset", "a finite number of the image's pixels", given["offset"])
    return view


def _attribution(entry: dict[str, Any], where: str, flow: Tensor | None) -> Attribution:
    target = entry.get("target")
    layers = many(entry.get("layers"), f"{where}.layers", text)
    return Attribution(
        text(entry.get("method"), f"{where}.method"),
        None if target is None else _label(target, f"{where}.target"),
        _tensor(flow, f"the flow of {where}", (len(layers), None, None)),
        layers,
        {
            name: _option(value, f"{where}.options")
            for name, value in mapping(entry.get("options"), f"{where}.options").items()
        },
        _facts(entry.get("facts"), f"{where}.facts"),
    )


def _attention(kept: dict[str, Any], tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> AttentionRecord:
    cells = grid[0] * grid[1]
    shapes: dict[str, tuple[int | None, ...]] = {"heads": (None, *grid), "patches": (cells, cells)}
    found: dict[str, dict[str, Tensor]] = {}
    for kind, shape in shapes.items():
        names = many(kept.get(kind), f"attention.{kind}", text)
        found[kind] = {name: _tensor(tensors.get(f"{kind}.{name}"), f"{kind}.{name}", shape) for name in names}
    return AttentionRecord(**found)


def _tensor(tensor: Tensor | None, where: str, shape: tuple[int | None, ...]) -> Tensor:
    """The tensor, if it holds finite floats and has this shape, in which None is any length but 0."""
    if tensor is None:
        raise InputError(f"{where} is not among the tensors")
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(n in (None, m) for n, m in zip(shape, found, strict=True))
    if not fits or not tensor.numel() or tensor.dtype not in SHOWN:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{where} must be floats of shape ({wanted}), got {tensor.dtype} of shape {found}")
    if max(found[1:]) > LONGEST_GRID:
        raise InputError(f"{where} must have at most {LONGEST_GRID} patches a side, got shape {found}")
    if not tensor.float().isfinite().all():
        raise InputError(f"{where} holds NaN or infinite values")
    return tensor


def _check_size(explanation: Explained) -> None:
    """That view and image are of one size."""
    if explanation.view.original != explanation.image.size:
        raise _wrong("geometry.original", f"the size of the image, {explanation.image.size}", explanation.view.original)
