"""From the words and numbers of a saved explanation to the explanation, with every one of them checked."""

import json
import math
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
from ..frames import Frames
from ..geometry import View
from ..removals import Removals, unpacked
from ..verdicts import FINDINGS, Verdict
from .checked import flag, many, mapping, mark, number, side, text, whole, wrong
from .written import names_of, read

T = TypeVar("T")
DEEPEST = 8  # lists in lists, in an option
MOST_REMOVALS = 512  # what is estimated from them takes time for their third power
MOST_FRAMES = 4096
LONGEST_GRID = 4096  # patches a side; laying a map on a photograph takes memory for all of them
SHOWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def from_manifest(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Image.Image) -> Explained:
    """The explanation that a manifest describes, together with its tensors and its image.

    Raises:
        InputError: something in them that no explanation has.
    """
    attributions, frames = _attributions(manifest), _frames(manifest.get("frames"), image)
    image = image if frames is None else frames.middle
    cells = 2 if frames is None else 3
    flows = [tensors.get(f"flow.{i}") for i in range(len(attributions))]
    versions = mapping(manifest.get("versions"), "versions")
    explanation = Explained(
        image,
        _view(mapping(manifest.get("geometry"), "geometry")),
        tuple(
            replace(
                _attribution(entry, f"attributions[{i}]", flow, cells),
                sentence=read(entry.get("sentence"), i, tensors, _cells(flow)),
                whole=_whole(entry, f"attributions[{i}]", flow, tensors.get(f"whole.{i}")),
            )
            for i, (entry, flow) in enumerate(zip(attributions, flows, strict=True))
        ),
        many(manifest.get("labels"), "labels", _label),
        text(manifest.get("model"), "model"),
        text(manifest.get("source"), "source"),
        {name: text(version, f"versions.{name}") for name, version in versions.items()},
        notes=many(manifest.get("notes", []), "notes", text),
        call=text(manifest.get("call", ""), "call"),
        truth=text(manifest.get("truth", ""), "truth"),
        frames=frames,
    )
    _check_size(explanation)
    without = mapping(manifest.get("removals", {}), "removals")  # of earlier versions there are none
    if without:
        each = {title: _removals(found, f"removals.{title}", explanation.grid) for title, found in without.items()}
        explanation = replace(explanation, removals=each)
    photographed = manifest.get("photographed")
    if photographed is not None:
        width, height = many(photographed, "photographed", side, 2)
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
    attributions = _attributions(manifest)
    named = {f"flow.{i}" for i in range(len(attributions))} | names_of(attributions)
    named |= {f"whole.{i}" for i, entry in enumerate(attributions) if entry.get("whole")}
    kept = manifest.get("attention")
    for kind in () if kept is None else ("heads", "patches"):
        named |= {f"{kind}.{name}" for name in many(mapping(kept, "attention").get(kind), f"attention.{kind}", text)}
    others = mapping(json.loads(data[8 : 8 + length]), "the header of the maps").keys() - named - {"__metadata__"}
    if others:
        raise wrong("the maps", "those that the manifest names", min(others))


def _attributions(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    found = many(manifest.get("attributions"), "attributions", mapping)
    if not found:
        raise InputError("attributions must hold at least one, got none")
    return found


def _frames(value: Any, strip: Image.Image) -> Frames | None:
    """The frames of a video, cut out of the picture that holds them all; None of an image."""
    if value is None:  # of earlier versions too
        return None
    given = mapping(value, "frames")
    places = many(given.get("places"), "frames.places", number)
    names = many(given.get("names"), "frames.names", text, len(places))
    if not 0 < len(places) <= MOST_FRAMES:
        raise wrong("frames.places", f"a list of 1 to {MOST_FRAMES}", list(places[:3]))
    kind, affine = text(given.get("kind"), "frames.kind"), given.get("affine")
    if affine is not None:
        affine = many(affine, "frames.affine", lambda row, where: many(row, where, number, 4), 4)
    return Frames(Frames.cut(strip, len(places)), tuple(places), names, kind, affine)


def _label(value: Any, where: str) -> Label:
    given = mapping(value, where)
    index = given.get("index", "nothing")  # null is a target that is no class, and has to be written
    return Label(
        None if index is None else whole(index, f"{where}.index"),
        text(given.get("name"), f"{where}.name"),
        number(given.get("score"), f"{where}.score"),
        text(given.get("title"), f"{where}.title"),
        text(given.get("unit"), f"{where}.unit"),
        None if given.get("probability") is None else number(given["probability"], f"{where}.probability"),
        whole(given.get("among", 0), f"{where}.among"),  # of earlier versions there is none
    )


def _option(value: Any, where: str, depth: int = 0) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if not isinstance(value, list) or depth == DEEPEST:
        raise wrong(where, f"words, numbers and lists of them, {DEEPEST} deep at most", type(value).__name__)
    return [_option(item, where, depth + 1) for item in value]


def _facts(value: Any, where: str) -> Facts:
    given = mapping(value, where)

    def yes(name: str) -> bool:
        return flag(given.get(name), f"{where}.{name}")

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

    (width, height), size = several("original", side), several("size", side)
    (across, down), (x, y) = several("scale", number), several("offset", number)
    if min(across, down) <= 0:
        raise wrong("geometry.scale", "positive", given["scale"])
    left, top, right, bottom = several("window", number, 4)
    if size[0] * size[1] > MAX_PIXELS:
        raise wrong("geometry.size", f"at most {MAX_PIXELS} pixels", size)
    slack = 1e-6 * max(width, height)  # of rounding
    if not (-slack <= left < right <= width + slack and -slack <= top < bottom <= height + slack):
        raise wrong("geometry.window", f"left < right and top < bottom within {width}x{height}", given["window"])
    view = View((width, height), (size[0], size[1]), (across, down), (x, y), (left, top, right, bottom))
    if not all(map(math.isfinite, view.box)):
        raise wrong("geometry.offset", "a finite number of the image's pixels", given["offset"])
    return view


def _cells(flow: Tensor | None) -> tuple[int, ...]:
    """The grid of a flow, as far as it has one."""
    return () if flow is None else tuple(flow.shape[1:])


def _whole(entry: dict[str, Any], where: str, flow: Tensor | None, found: Tensor | None) -> Tensor | None:
    """Of a frame the flow of its video; None of all else, and in what earlier versions wrote."""
    if flow is None or not flag(entry.get("whole", False), f"{where}.whole"):
        return None
    return _tensor(found, f"the whole of {where}", (flow.shape[0], None, *flow.shape[1:]))


def _attribution(entry: dict[str, Any], where: str, flow: Tensor | None, sides: int) -> Attribution:
    target = entry.get("target")
    layers = many(entry.get("layers"), f"{where}.layers", text)
    return Attribution(
        text(entry.get("method"), f"{where}.method"),
        None if target is None else _label(target, f"{where}.target"),
        _tensor(flow, f"the flow of {where}", (len(layers), *[None] * sides)),
        layers,
        {
            name: _option(value, f"{where}.options")
            for name, value in mapping(entry.get("options"), f"{where}.options").items()
        },
        _facts(entry.get("facts"), f"{where}.facts"),
        _verdict(entry.get("verdict"), f"{where}.verdict"),
        many(entry.get("marks", []), f"{where}.marks", mark),  # of earlier versions there are none
    )


def _verdict(value: Any, where: str) -> Verdict | None:
    """The verdict of a map, its line made anew; None where none was asked."""
    if value is None:
        return None
    given = mapping(value, where)

    def of(name: str, check: Callable[[Any, str], T]) -> T:
        return check(given.get(name), f"{where}.{name}")

    numbers = ("score", "without_map", "sum", "likeness", "agreement", "artifact_share", "artifact_tokens")
    found: dict[str, Any] = {name: None if given.get(name) is None else of(name, number) for name in numbers}
    found |= {name: of(name, whole) for name in ("tokens", "patches", "draws", "others")}
    found |= {name: of(name, text) for name in ("of", "unit", "reason", "second")}
    found |= {name: of(name, flag) for name in ("painted", "flat", "for_all", "untrained")}
    if given.get("without_random") is not None:
        found["without_random"] = many(given["without_random"], f"{where}.without_random", number, 2)
    finding = given.get("finding")
    known = None not in (found["score"], found["without_map"], found.get("without_random"))
    if finding not in FINDINGS or (finding != "untested" and not known):
        raise wrong(f"{where}.finding", f"one of {', '.join(FINDINGS)}, with its numbers", finding)
    return Verdict(**found, finding=finding)


def _removals(value: Any, where: str, grid: tuple[int, int]) -> Removals:
    """What was measured; what is estimated from it is computed anew."""
    given = mapping(value, where)

    def of(name: str, check: Callable[[Any, str], T]) -> T:
        return check(given.get(name), f"{where}.{name}")

    def removal(word: Any, at: str) -> Tensor:
        digits = text(word, at)
        try:
            return unpacked(digits, grid)
        except ValueError as error:
            raise wrong(at, f"a removal of {grid[0]}x{grid[1]} patches, {error}", word) from error

    words = given.get("removed")
    if not isinstance(words, list) or not 0 < len(words) <= MOST_REMOVALS:
        raise wrong(f"{where}.removed", f"a list of 1 to {MOST_REMOVALS}", words)
    removed = torch.stack(many(words, f"{where}.removed", removal))
    values = many(given.get("values"), f"{where}.values", number, len(removed))
    found, odds, unit, painted = (
        torch.tensor(values, dtype=torch.float64),
        of("odds", flag),
        of("unit", text),
        of("painted", flag),
    )
    try:
        return Removals(removed, found, odds, unit, painted)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


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
        raise wrong("geometry.original", f"the size of the image, {explanation.image.size}", explanation.view.original)
