"""What the command line does with its images: predict, explain, draw, write. Imports torch; cli.py does not."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .attr import DAAM, METHODS, FeatureImportance, ViTAttribution
from .errors import OptionError, OutputError, TargetError
from .images import open_image
from .models import LoadedModel, load_model, nearest
from .sample import draw_scene
from .visualization import Cell, overlay, sheet

SCENE = "scene"
_SCENE_SEED = 15
_SCENE_SIDE = 512


@dataclass(frozen=True)
class Options:
    """What was asked for; `methods` None chooses one that suits the model."""

    model: str
    checkpoint: Path | None
    methods: Sequence[str] | None
    targets: Sequence[str]
    layers: Sequence[str]
    device: str | None
    max_side: int


@dataclass(frozen=True)
class Prediction:
    """A class with its score in 0..1, and whether it was explained."""

    index: int
    name: str
    score: float
    explained: bool


@dataclass(frozen=True)
class Result:
    """What came of an image: predictions, best first (none of a headless model), and pictures by file name."""

    predictions: list[Prediction]
    pictures: dict[str, Image.Image]


def check_methods(names: Sequence[str]) -> list[str]:
    """The methods that the names stand for, each once.

    Raises:
        OptionError: an unknown name.
    """
    for name in names:
        if name != "all" and name not in METHODS:
            raise OptionError(f"no method {name!r}; there are all, {', '.join(METHODS)}{nearest(name, list(METHODS))}")
    return list(METHODS) if "all" in names else list(dict.fromkeys(names))


def picture(path: Path | None) -> Image.Image:
    """The image in a file, or the embedded scene."""
    if path is not None:
        return open_image(path)
    return Image.fromarray(draw_scene(_SCENE_SEED, objects=2, size=_SCENE_SIDE).image)


class Explainer:
    """A loaded model with its methods.

    Attributes:
        notes: what a user should know about the choice of methods.
    Raises:
        CaptumViTError: model, layer, method or device cannot be had.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = _device(options.device)
        self.loaded: LoadedModel = load_model(options.model, checkpoint=options.checkpoint)
        self.loaded.model.to(self.device)
        layers = [name if (number := _number(name)) is None else number for name in options.layers] or None
        probe = DAAM(self.loaded.model, layers)
        self.headless, self.adapter = probe.adapter.headless, probe.adapter
        self.names = dict(self.loaded.class_names or probe.adapter.class_names)
        self.notes: list[str] = []
        self.methods = {name: METHODS[name](self.loaded.model, layers) for name in self._suitable()}

    def _suitable(self) -> list[str]:
        """The methods that were asked for or suit the model, as far as it can have them."""
        asked = self.options.methods
        if not self.headless:
            chosen = list(asked or ["agcam"])
            if self.options.targets and not any(METHODS[name].class_specific for name in chosen):
                self.notes.append(f"--target is not used: {', '.join(chosen)} gives one map for all classes")
            return chosen
        if self.options.targets:
            raise TargetError(f"--target needs a classifier, and {self.options.model!r} gives features, not classes")
        chosen = list(asked or ["daam"])
        unfit = [name for name in chosen if METHODS[name].class_specific and name != "daam"]
        reason = (
            f"{' and '.join(unfit)} cannot be drawn: explaining a class needs a classifier, and {self.options.model!r} "
            f"gives features, not classes"
        )
        if unfit and len(chosen) < len(METHODS):
            others = [name for name in METHODS if name == "daam" or not METHODS[name].class_specific]
            raise OptionError(f"{reason}; choose among {', '.join(others)}")
        if unfit:
            self.notes.append(reason)
        return [name for name in chosen if name not in unfit]

    def explain(self, image: Image.Image, top_k: int) -> Result:
        """Overlays of all methods (and an overview) of one image.

        Raises:
            TargetError: a target that the model does not have.
            InputError: the image leads to values that cannot be drawn.
        """
        inputs = self.loaded.preprocess(image).unsqueeze(0).to(self.device)
        scores = None if self.headless else self._scores(inputs)
        targets: Sequence[int | None] = [None]
        if scores is not None and any(method.class_specific for method in self.methods.values()):
            targets = self._targets(scores, top_k)
        shown, (across, down) = _reduced(image, self.options.max_side)
        left, top, right, bottom = self.loaded.seen(image.size)
        box = (left * across, top * down, right * across, bottom * down)
        pictures: dict[str, Image.Image] = {}
        rows: list[list[Cell]] = []
        for target in targets:
            cells: list[Cell] = [None if rows else ("input", shown)]
            for name, shows in self._drawn_for(target, first=not rows):
                drawn = overlay(shown, self._map(self.methods[name], inputs, shows), box)
                pictures[self._file_name(name, shows)] = drawn
                cells.append((self._title(name, shows), drawn))
            rows.append(cells)
        pictures["overview.png"] = sheet(rows)
        return Result(self._predictions(scores, targets, top_k), pictures)

    def _drawn_for(self, target: int | None, *, first: bool) -> Iterator[tuple[str, int | None]]:
        """Methods with the class that they show; those that show none come last, and for the first target only."""
        yield from ((name, target) for name, method in self.methods.items() if method.class_specific)
        if first:
            yield from ((name, None) for name, method in self.methods.items() if not method.class_specific)

    def _scores(self, inputs: Tensor) -> Tensor:
        """Scores of the classes in 0..1, (classes,)."""
        with torch.no_grad():
            logits = self.adapter.scores(self.loaded.model(inputs))[0]
        return self.loaded.probabilities(logits.float()).cpu()

    def _targets(self, scores: Tensor, top_k: int) -> list[int]:
        """The asked classes; else those predicted: the best, and of a multi-label model others above one half."""
        if self.options.targets:
            return list(dict.fromkeys(self._index(text, len(scores)) for text in self.options.targets))
        best, *others = scores.argsort(descending=True)[:top_k].tolist()
        return [best, *(i for i in others if self.loaded.multi_label and scores[i] > 0.5)]

    def _index(self, text: str, classes: int) -> int:
        number = _number(text)
        if number is not None:
            if not 0 <= number < classes:
                raise TargetError(f"target {text} is out of range: {self.options.model!r} has 0 to {classes - 1}")
            return number
        wanted = text.strip().casefold()
        known: dict[str, set[int]] = {}
        for index, name in self.names.items():
            for part in {name, *name.split(",")}:  # ImageNet's names are lists of synonyms
                known.setdefault(part.strip().casefold(), set()).add(index)
        found = sorted(known.get(wanted, ()))
        if not found:
            containing = [name for name in known if wanted and wanted in name]
            if not known:
                hint = "; its classes have no names, give a number"
            elif len(self.names) <= 20:
                hint = f"; it has {', '.join(self.names.values())}{nearest(wanted, list(known))}"
            else:
                hint = f"; nearest: {', '.join(containing[:3])}" if containing else nearest(wanted, list(known))
            hint += "; for several, repeat the option" if "," in text else ""
            raise TargetError(f"no class {text!r} in {self.options.model!r}{hint}")
        if len(found) > 1:
            raise TargetError(f"class {text!r} is not unique: give one of the numbers {', '.join(map(str, found))}")
        return found[0]

    def _map(self, method: ViTAttribution, inputs: Tensor, target: int | None) -> Tensor:
        options = {"importance": FeatureImportance()} if method.class_specific and target is None else {}
        return method.attribute(inputs, target=target, **options)[0, 0]

    def _predictions(self, scores: Tensor | None, targets: Sequence[int | None], top_k: int) -> list[Prediction]:
        if scores is None:
            return []
        best = scores.argsort(descending=True).tolist()
        explained = set(targets)
        shown = [i for rank, i in enumerate(best) if rank < top_k or i in explained]
        return [Prediction(i, self.names.get(i, ""), scores[i].item(), i in explained) for i in shown]

    def _title(self, method: str, target: int | None) -> str:
        return method if target is None else f"{method}: {self.names.get(target) or f'class {target}'}"

    def _file_name(self, method: str, target: int | None) -> str:
        if target is None:
            return f"{method}.png"
        name = safe_name(self.names.get(target, "").split(",")[0], "")
        return f"{method}-{target}{'-' if name else ''}{name}.png"


def safe_name(text: str, default: str) -> str:
    """A name for a file or folder, of letters, digits, `-` and `_`, whatever the text holds."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:50].strip("_")  # 50 letters fit 255 bytes
    return kept or default


def folder_names(files: Iterable[Path]) -> list[str]:
    """A name for each file from its stem, all different, also where upper and lower case are the same."""
    used: set[str] = set()
    names = []
    for file in files:
        base = name = safe_name(file.stem, "image")
        count = 2
        while name.casefold() in used:
            name, count = f"{base}-{count}", count + 1
        used.add(name.casefold())
        names.append(name)
    return names


def check_folder(folder: Path) -> None:
    """Make the folder and a file in it, so that a failure comes before the work, and remove both.

    Raises:
        OutputError: it cannot be made or written.
    """
    if folder.is_file():
        raise OutputError(f"cannot write to {str(folder)!r}: it is a file, --out takes a folder")
    probe, new = folder / f".{os.getpid()}.tmp", not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if new:
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror}") from error


def save(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write PNG files; each appears under its name when it is complete.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in pictures.items():
            part = folder / f".{os.getpid()}.tmp"
            try:
                image.save(part, "PNG")
                part.replace(folder / name)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from error


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text) else None


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # a device may have a name and not be there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def _reduced(image: Image.Image, longest: int) -> tuple[Image.Image, tuple[float, float]]:
    """The image with its longest side at most so long, and by how much it shrank across and down."""
    if max(image.size) <= longest:
        return image, (1, 1)
    shown = image.copy()
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return shown, (shown.width / image.width, shown.height / image.height)
