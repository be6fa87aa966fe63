"""Data sets by name: `voc:/path?year=2007&set=test`, `imagenet:/path:val`, `sample:500`."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ..errors import DataError, nearest
from .base import Reader, one_of

READERS = "captum_vit.readers"
"""Entry-point group of packages that bring kinds of their own: kind = "module:Class"."""

KINDS = {
    "coco": "captum_vit.data.coco:Coco",
    "cub": "captum_vit.data.cub:Cub",
    "folder": "captum_vit.data.folder:Folder",
    "hf": "captum_vit.data.huggingface:HuggingFace",
    "imagenet": "captum_vit.data.imagenet:ImageNet",
    "imagenet-s": "captum_vit.data.imagenet_s:ImageNetS",
    "imagenet-segmentation": "captum_vit.data.imagenet_segmentation:ImageNetSegmentation",
    "pets": "captum_vit.data.pets:Pets",
    "planted": "captum_vit.data.planted:Planted",
    "sample": "captum_vit.data.scenes:Scenes",
    "voc": "captum_vit.data.voc:Voc",
}

_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def open_data(spec: str) -> Reader:
    """The data set that `spec` names: `kind:path`, with options behind a question mark as in a web address.

    In the value of an option any character may be written as %XX. Kinds that have splits also take one behind the path,
    as in `imagenet:/data/ILSVRC:val`.

    Args:
        spec: imagenet:FOLDER, imagenet-s:FOLDER, imagenet-segmentation:FILE, voc:FOLDER, cub:FOLDER, coco:FOLDER,
            pets:FOLDER, folder:FOLDER, hf:NAME or hf:FOLDER, sample or sample:SCENES,
            planted or planted:SCENES.
    Raises:
        DataError: there is no such kind, option or path; the path holds something else; or a package is missing.
    """
    kind, _, rest = spec.partition(":")
    reader = _reader_class(kind, spec)
    path, query = (rest, "") if _is_path(rest) else rest.partition("?")[::2]
    if not path and kind not in ("planted", "sample"):
        raise DataError(f"{spec!r} names no path: write {kind}:PATH")
    options = _pairs(query, spec)
    path, options = _split_off(reader, path, options)
    return reader(str(Path(path).expanduser()) if path.startswith("~") else path, **_converted(reader, options, kind))


def _is_path(rest: str) -> bool:
    """Whether all of it is a path, perhaps with a split behind it, whatever characters are in its name."""
    head = rest.rpartition(":")[0]
    return Path(rest).exists() or bool(head and Path(head).exists())


def _reader_class(kind: str, spec: str) -> Any:
    others = {point.name: point for point in entry_points(group=READERS)}
    if kind in others and kind not in KINDS:
        return others[kind].load()
    known = sorted({*KINDS, *others})
    if kind not in KINDS:
        hint = nearest(kind, known) or (
            "; for a folder of your own write folder:" + spec if Path(spec).exists() else ""
        )
        raise DataError(f"unknown data set {spec!r}: it begins with {', '.join(known)}, as voc:FOLDER{hint}")
    module, _, name = KINDS[kind].partition(":")
    return getattr(import_module(module), name)


def _pairs(query: str, spec: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise DataError(f"cannot read the options of {spec!r}: write ?name=value&name=value") from error
    if len(dict(pairs)) < len(pairs):
        raise DataError(f"an option of {spec!r} stands there twice")
    return dict(pairs)


def _split_off(reader: Any, path: str, options: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A split behind the path, taken for the option that it is."""
    option = getattr(reader, "split_option", "")
    head, colon, tail = path.rpartition(":")
    if option and colon and head and re.fullmatch(r"[\w-]+", tail) and not Path(path).exists():
        return head, {option: tail, **options}
    return path, options


def _converted(reader: Any, options: dict[str, str], kind: str) -> dict[str, Any]:
    """Options from text to what the reader's signature has as defaults."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(reader).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return {
        one_of(name, list(defaults), f"option of {kind}"): _value(name, text, defaults[name])
        for name, text in options.items()
    }


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return _BOOLEANS[one_of(text.lower(), list(_BOOLEANS), f"value of {name},")]
    if isinstance(default, int):
        if not re.fullmatch("[0-9]{1,9}", text):
            raise DataError(f"the option {name} is a whole number of at least 0, got {text!r}")
        return int(text)
    return text
