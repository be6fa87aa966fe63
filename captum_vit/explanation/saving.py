"""Explanations on disk: a manifest as JSON, which names maps and image by their content."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..decoding import MAX_PIXELS
from ..errors import ExplanationLoadError, InputError
from ..explained import Explained
from ..files import make_folder, read_within, write_atomically, writing_to
from ..marks import to_dict
from ..pixels import png, to_rgb
from ..quiet import quiet
from .checked import mapping, text
from .manifest import DEEPEST, check_names, from_manifest
from .written import maps_of, written

MANIFEST = "explanation.json"
FORMAT = 2
KINDS = {"maps": "safetensors", "image": "png"}
TRIES = 5
MOST = {"manifest": 2**25, "maps": 2**32, "image": 2**29}  # bytes that are read, and so written
_OWN = re.compile(r"(maps-[0-9a-f]{16}\.safetensors|image-[0-9a-f]{16}\.png)")


def save(explanation: Explained, folder: str | Path) -> None:
    """Write an explanation: maps as safetensors, the image as PNG, all else as JSON; frames one below another.

    The manifest is put in place last and names files by their content, so that whoever reads the folder sees the old
    explanation or the new one, whole.

    Raises:
        InputError: it could not be loaded again, as for NaN in a map, or more than `load` reads.
        OutputError: the folder cannot be written.
    """
    from safetensors.torch import save as serialized

    folder = Path(folder)
    manifest, tensors = _manifest(explanation), _tensors(explanation)
    picture = explanation.image if explanation.frames is None else explanation.frames.strip()
    from_manifest(manifest, tensors, picture)
    _check_size("maps", sum(tensor.nbytes for tensor in tensors.values()))
    files = dict(zip(KINDS, (serialized(tensors), png(_pixels(picture))), strict=True))
    names = {kind: f"{kind}-{_digest(data)}.{KINDS[kind]}" for kind, data in files.items()}
    content = json.dumps({**manifest, "files": names}, indent=1, ensure_ascii=False)
    encoded = content.encode("utf-8", "backslashreplace")  # halves of characters, as JSON does
    for kind, data in {**files, "manifest": encoded}.items():
        _check_size(kind, len(data))
    make_folder(folder)
    with writing_to(folder):
        before = _own_files(folder)
    for kind, data in files.items():
        write_atomically(folder / names[kind], data)
    write_atomically(folder / MANIFEST, encoded)
    for path in before:
        if path.name not in names.values():
            path.unlink(missing_ok=True)


def load(folder: str | Path) -> Explained:
    """The explanation that `save` wrote.

    A folder may come from anybody: only regular files in it are opened, nothing is allocated for what is larger than
    explanations are, and whatever is not as `save` writes it is refused.

    Raises:
        ExplanationLoadError: there is none, or it is damaged, or of a later format.
    """
    from safetensors.torch import load as deserialized

    folder = Path(folder)
    manifest, data = _read(folder)
    try:
        check_names(manifest, data["maps"], MOST["manifest"])
        with quiet("PIL"), Image.open(BytesIO(data["image"]), formats=["PNG"]) as image:
            return from_manifest(manifest, deserialized(data["maps"]), _pixels(image))
    except InputError as error:
        raise ExplanationLoadError(f"the explanation in {str(folder)!r} is damaged: {error}") from error
    except Exception as error:  # whatever is missing in it
        raise ExplanationLoadError(f"the explanation in {str(folder)!r} is damaged: {error!r}") from error


def remove(folder: Path) -> None:
    """Take away the explanation that `save` wrote, the manifest first; other files stay."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in _own_files(folder):
        path.unlink(missing_ok=True)


def _check_size(kind: str, size: int) -> None:
    if size > MOST[kind]:
        most = MOST[kind]
        raise InputError(
            f"the {kind} of an explanation may have {most} bytes, got {size}: save less in a folder, see only()"
        )


def _pixels(image: Image.Image) -> Image.Image:
    """Without anything else, as RGB."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"the image is enormous ({image.width}x{image.height}): see reduced()")
    return to_rgb(image).image


def _own_files(folder: Path) -> list[Path]:
    """What `save` put into a folder beside the manifest."""
    return [path for path in folder.iterdir() if _OWN.fullmatch(path.name)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _tensors(explanation: Explained) -> dict[str, Tensor]:
    tensors = {f"flow.{i}": _own(a.flow) for i, a in enumerate(explanation)}
    for i, a in enumerate(explanation):
        tensors |= {name: _own(shown) for name, shown in (maps_of(i, a.sentence) if a.sentence else {}).items()}
        tensors |= {} if a.whole is None else {f"whole.{i}": _own(a.whole)}  # which a frame has its colours of
    if explanation.attention is not None:
        for kind in ("heads", "patches"):
            for name, tensor in getattr(explanation.attention, kind).items():
                tensors[f"{kind}.{name}"] = _own(tensor)
    return tensors


def _own(tensor: Tensor) -> Tensor:
    """In memory of its own, which safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _manifest(explanation: Explained) -> dict[str, Any]:
    kept = explanation.attention
    return {
        "format": FORMAT,
        "model": explanation.model,
        "source": explanation.source,
        "photographed": explanation.photographed and list(explanation.photographed),
        "versions": dict(explanation.versions),
        "notes": list(explanation.notes),
        "call": explanation.call,
        "truth": explanation.truth,
        "geometry": explanation.view.to_dict(),
        "frames": explanation.frames and explanation.frames.to_dict(),
        "labels": [asdict(label) for label in explanation.labels],
        "attributions": [
            {
                "method": a.method,
                "facts": asdict(a.facts),
                "target": a.target and asdict(a.target),
                "layers": list(a.layers),
                "options": {name: _plain(value) for name, value in a.options.items()},
                "marks": [to_dict(mark) for mark in a.marks],
                "verdict": a.verdict and {**asdict(a.verdict), "text": a.verdict.text},
                "sentence": a.sentence and written(a.sentence),
                "whole": a.whole is not None,
            }
            for a in explanation
        ],
        "removals": {title: found.to_dict() for title, found in explanation.removals.items()},
        "attention": kept and {"heads": list(kept.heads), "patches": list(kept.patches)},
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the content of the files that it names.

    A save may put another manifest in place and clear the old files away before they are read: then all anew.
    """
    for _ in range(TRIES):
        manifest = _read_manifest(folder)
        try:
            files = mapping(manifest.get("files"), "files")
            return manifest, {
                kind: _read_checked(folder, kind, text(files.get(kind), f"files.{kind}")) for kind in KINDS
            }
        except FileNotFoundError as error:
            missing = error
        except (OSError, InputError) as error:
            raise ExplanationLoadError(f"the explanation in {str(folder)!r} is damaged: {error}") from error
    raise ExplanationLoadError(
        f"the explanation in {str(folder)!r} is damaged: there is no {str(missing.filename)!r}"
    ) from missing


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_within(folder, MANIFEST, MOST["manifest"]).decode())
    except FileNotFoundError as error:
        raise ExplanationLoadError(f"no explanation in {str(folder)!r}: it holds no {MANIFEST}") from error
    except (OSError, ValueError, RecursionError) as error:  # InputError among them
        raise ExplanationLoadError(f"cannot read {str(folder / MANIFEST)!r}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ExplanationLoadError(f"{str(folder / MANIFEST)!r} has format {found!r}, this version reads {FORMAT}")
    return manifest


def _read_checked(folder: Path, kind: str, name: str) -> bytes:
    """The content of a file that the manifest names by its hash."""
    if not _OWN.fullmatch(name) or not name.startswith(f"{kind}-"):
        raise ExplanationLoadError(f"the explanation in {str(folder)!r} names a file that is not its own: {name!r}")
    data = read_within(folder, name, MOST[kind])
    if _digest(data) != Path(name).stem.rpartition("-")[2]:
        raise ExplanationLoadError(f"{str(folder / name)!r} is damaged: its content is not the one that was saved")
    return data


def _plain(value: Any, depth: int = 0) -> Any:
    """An option as JSON can hold it."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Sequence) and depth < DEEPEST:
        return [_plain(item, depth + 1) for item in value]
    return f"<{type(value).__name__}>"
