"""What came of explaining an image: maps, flows and labels with all that it takes to show them on the photograph."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .classes import class_index
from .errors import ExplanationLoadError, OptionError, OutputError, TargetError
from .geometry import View
from .models import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .flow import Flow

MANIFEST = "explanation.json"
FORMAT = 1


@dataclass(frozen=True)
class Label:
    """A class of the model, by number and name (empty if nobody knows it), with its score of the image in 0..1.

    title: what stands over pictures, different for all classes of a model; by default the name, or the number.
    """

    index: int
    name: str
    score: float
    title: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name.strip() or f"class {self.index}")


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one method says of one class.

    flow: (layers, rows, cols), the map as it stands after each layer; its last slice is the map.
    target: the class; None where a method gives one map for all classes.
    """

    method: str
    target: Label | None
    flow: Tensor
    layers: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def map(self) -> Tensor:
        """(rows, cols), in patch units."""
        return self.flow[-1]

    @property
    def title(self) -> str:
        """Method and class in words."""
        return self.method if self.target is None else f"{self.method}: {self.target.title}"


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """The attention itself, on the grid of the maps.

    heads: layer -> (heads, rows, cols), what the score's tokens look at.
    patches: layer -> (rows*cols, rows*cols), what each patch (row) looks at, the mean over heads; of the layers in
        which patches look at patches.
    """

    heads: Mapping[str, Tensor]
    patches: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model looked at in an image, by one or several methods, for one or several classes.

    image: the original, upright, RGB.
    view: how the model looked at it: the way back from its patches to the photograph.
    attributions: in the order that was asked for, class by class.
    labels: the classes with the highest scores, best first, and all that were explained; empty of a model of features.
    model, source: names of the model and of the image's file.
    versions: of the packages that took part.
    attention: kept where it was asked for.
    """

    image: Image.Image
    view: View
    attributions: tuple[Attribution, ...]
    labels: tuple[Label, ...] = ()
    model: str = ""
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    attention: AttentionRecord | None = None

    @property
    def maps(self) -> Tensor:
        """The maps of all attributions, (attributions, 1, rows, cols), in patch units."""
        return torch.stack([a.map for a in self.attributions]).unsqueeze(1)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        rows, cols = self.attributions[0].map.shape
        return rows, cols

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, each once."""
        return tuple(dict.fromkeys(a.method for a in self.attributions))

    @property
    def targets(self) -> tuple[Label, ...]:
        """The classes that were explained, each once."""
        found = {a.target.index: a.target for a in self.attributions if a.target is not None}
        return tuple(found.values())

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The options that each method was given."""
        return {a.method: dict(a.options) for a in self.attributions}

    @property
    def scores(self) -> dict[str, float]:
        """Title of each label -> its score in 0..1."""
        return {label.title: label.score for label in self.labels}

    def only(self, method: str | None = None, target: int | str | None = None) -> "Explanation":
        """The part for one method, one class, or both; a method that gives one map for all classes stays.

        Raises:
            OptionError, TargetError: it is not in here.
        """
        if method is not None and method not in self.methods:
            raise OptionError(f"no method {method!r} in this explanation; it has {', '.join(self.methods)}")
        kept = [a for a in self.attributions if method in (None, a.method)]
        if target is not None:
            label = self._label(target)
            kept = [a for a in kept if a.target is None or a.target.index == label.index]
        return replace(self, attributions=tuple(kept))

    def _label(self, target: int | str) -> Label:
        labels = {label.index: label for label in self.targets}
        for names in ({i: label.title for i, label in labels.items()}, {i: label.name for i, label in labels.items()}):
            try:
                return labels[class_index(target, names, max(labels, default=-1) + 1, self.model)]
            except (KeyError, TargetError):
                continue
        known = [label.title for label in labels.values()]
        raise TargetError(
            f"class {target!r} was not explained; explained: {', '.join(known) or 'none'}{nearest(str(target), known)}"
        )

    @cached_property
    def flow(self) -> "Flow":
        """The maps from block to block, as an animation of all attributions side by side."""
        from .flow import Flow

        return Flow(self)

    def overlay(self, *, alpha: float = 0.6, cmap: str | None = None) -> Image.Image:
        """The photograph under its map, RGB in its own size; of several attributions the first (see `only`)."""
        from .visualization import CMAP, overlay

        return overlay(self.image, self.attributions[0].map, self.view, alpha=alpha, cmap=cmap or CMAP)

    def for_captum(self) -> tuple[np.ndarray, np.ndarray]:
        """The first map and the photograph as Captum's `visualize_image_attr` takes them, alone and `_multiple`.

        Returns:
            The map laid on the photograph, float32 (height, width, 1), 0 where the model saw nothing; and the
            photograph, uint8 (height, width, 3).
        """
        placed = self.view.place(self.attributions[0].map, self.image.size)
        return np.nan_to_num(placed, nan=0.0)[..., None], np.array(self.image)

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """The figure that suits: one overlay, or a row of them for each class."""
        from . import figures

        return figures.plot(self, ax=ax)

    def to_html(self, path: str | Path | None = None) -> str:
        """The report, one page that needs nothing else; written to `path` if one is given.

        Raises:
            OutputError: the file cannot be written.
        """
        from .report import render

        page = render([self])
        if path is not None:
            write_atomically(Path(path), page.encode())
        return page

    def save(self, folder: str | Path) -> None:
        """Write the explanation: maps as safetensors, the image as PNG, all else as JSON.

        The manifest is put in place last and names files by their content, so that whoever reads the folder sees the
        old explanation or the new one, whole.

        Raises:
            OutputError: the folder cannot be written.
        """
        from safetensors.torch import save

        folder = Path(folder)
        png = BytesIO()
        self.image.save(png, "PNG")
        files = {"maps": (save(self._tensors()), "safetensors"), "image": (png.getvalue(), "png")}
        names = {kind: f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}.{end}" for kind, (data, end) in files.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = [path for kind in files for path in folder.glob(f"{kind}-{'?' * 16}.*")]
        except OSError as error:
            raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror}") from error
        for kind, (data, _) in files.items():
            write_atomically(folder / names[kind], data)
        text = json.dumps({**self._manifest(), "files": names}, indent=1, ensure_ascii=False)
        write_atomically(folder / MANIFEST, text.encode())
        for path in before:
            if path.name not in names.values():
                path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """The explanation that `save` wrote.

        Raises:
            ExplanationLoadError: there is none, or it is damaged, or of a later format.
        """
        from safetensors.torch import load

        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ExplanationLoadError(f"no explanation in {str(folder)!r}: it holds no {MANIFEST}") from error
        except (OSError, ValueError) as error:
            raise ExplanationLoadError(f"cannot read {str(folder / MANIFEST)!r}: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise ExplanationLoadError(f"{str(folder / MANIFEST)!r} has format {found!r}, this version reads {FORMAT}")
        try:
            data = {kind: _read_checked(folder, name) for kind, name in manifest["files"].items()}
            image = Image.open(BytesIO(data["image"]), formats=["PNG"]).convert("RGB")
            return cls._from_manifest(manifest, load(data["maps"]), image)
        except ExplanationLoadError:
            raise
        except Exception as error:  # whatever is missing or misshapen in it
            raise ExplanationLoadError(f"the explanation in {str(folder)!r} is damaged: {error!r}") from error

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"flow.{i}": a.flow.contiguous() for i, a in enumerate(self.attributions)}
        if self.attention is not None:
            for kind in ("heads", "patches"):
                for name, tensor in getattr(self.attention, kind).items():
                    tensors[f"{kind}.{name}"] = tensor.contiguous()
        return tensors

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "source": self.source,
            "versions": dict(self.versions),
            "geometry": self.view.to_dict(),
            "labels": [asdict(label) for label in self.labels],
            "attributions": [
                {
                    "method": a.method,
                    "target": a.target and asdict(a.target),
                    "layers": list(a.layers),
                    "options": {name: _plain(value) for name, value in a.options.items()},
                }
                for a in self.attributions
            ],
            "attention": None if self.attention is None else {
                "heads": list(self.attention.heads), "patches": list(self.attention.patches)
            },
        }  # fmt: skip

    @classmethod
    def _from_manifest(cls, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Image.Image) -> Any:
        attributions = tuple(
            Attribution(
                entry["method"],
                entry["target"] and Label(**entry["target"]),
                tensors[f"flow.{i}"],
                tuple(entry["layers"]),
                entry["options"],
            )
            for i, entry in enumerate(manifest["attributions"])
        )
        kept = manifest["attention"]
        attention = kept and AttentionRecord(
            *({name: tensors[f"{kind}.{name}"] for name in kept[kind]} for kind in ("heads", "patches"))
        )
        return cls(
            image,
            View.from_dict(manifest["geometry"]),
            attributions,
            tuple(Label(**label) for label in manifest["labels"]),
            manifest["model"],
            manifest["source"],
            manifest["versions"],
            attention,
        )

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.attributions)

    def __len__(self) -> int:
        return len(self.attributions)

    def __repr__(self) -> str:
        size = f"{self.image.width}x{self.image.height}"
        shown = ", ".join(a.title for a in self.attributions)
        return f"Explanation({self.source or 'image'} {size}, {self.model or 'model'}: {shown})"

    def _repr_html_(self) -> str:
        from .report import render_inline

        return render_inline(self)


def write_atomically(path: Path, data: bytes) -> None:
    """A file that appears whole under its name or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _read_checked(folder: Path, name: str) -> bytes:
    """The content of a file that the manifest names by its hash."""
    if Path(name).name != name:
        raise ExplanationLoadError(f"the explanation in {str(folder)!r} names a file elsewhere: {name!r}")
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest()[:16] != Path(name).stem.rpartition("-")[2]:
        raise ExplanationLoadError(f"{str(folder / name)!r} is damaged: its content is not the one that was saved")
    return data


def _plain(value: Any) -> Any:
    """An option as JSON can hold it."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"
