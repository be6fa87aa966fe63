"""What came of explaining an image: maps, flows and labels, and where they lie on the photograph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from .attention_record import AttentionRecord as AttentionRecord
from .colours import NEARLY_FLAT, Look, Scale, check_look, nearly_flat, two_signs
from .errors import InputError, OptionError, brief
from .facts import Facts
from .frames import Frames
from .geometry import Size, View
from .labels import Label as Label
from .labels import label_among
from .marks import Mark
from .names import printable
from .removals import Removals
from .sentence import Sentence, Word
from .verdicts import Verdict

RANDOM = "random weights"  # how a note begins of a model that has learnt nothing


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one method says of one class or other target.

    method: the name that it was asked for by; `facts` has the one that is written over pictures.
    flow: (layers, rows, cols), the map as it stands after each layer; its last slice is the map.
    target: what was explained; None where a method gives one map for all classes.
    verdict: whether the map may be trusted, where that was asked.
    marks: what was asked about, in pixels of the image: the box of a detection, the outline of a region, a point.
    whole: of a frame out of a video the flow of all, whose colours it has; None of all else.
    sentence: of a text, which words its likeness to the image comes from, where the method can say that.
    """

    method: str
    target: Label | None
    flow: Tensor = field(repr=False)
    layers: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    verdict: Verdict | None = None
    marks: tuple[Mark, ...] = ()
    whole: Tensor | None = field(default=None, repr=False)
    sentence: Sentence | None = None

    @property
    def spanned(self) -> Tensor:
        """The flow whose values the colours span: its own, and of a frame that of the whole video."""
        return self.flow if self.whole is None else self.whole

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the text that was explained, with what each gives; none of another target."""
        return () if self.sentence is None else self.sentence.words

    @property
    def flat(self) -> bool:
        """Whether the map is nearly flat: its values differ by no more than a quarter of the greatest."""
        return nearly_flat(self.spanned[-1])

    @property
    def warning(self) -> str:
        """What has to stand beside its picture, as "no better than random"; empty where there is nothing to warn of."""
        told = "" if self.verdict is None else self.verdict.warning
        return told or NEARLY_FLAT * self.flat

    @property
    def judged(self) -> str:
        """The verdict in a few words, and whether the map is nearly flat; empty where there is nothing to say."""
        told = "" if self.verdict is None else self.verdict.words
        return ", ".join(part for part in (told, NEARLY_FLAT * self.flat) if part)

    @property
    def heading(self) -> str:
        """Method, target and score in words: "AGCAM: cat, 90.0 %"."""
        return self.title if self.target is None else f"{self.title}, {self.target.measured}"

    @property
    def caption(self) -> str:
        """The heading and the verdict on one line: "AGCAM: cat, 90.0 %, no better than random"."""
        return f"{self.heading}, {self.judged}" if self.judged else self.heading

    @property
    def method_title(self) -> str:
        """The method's name as papers write it."""
        return self.facts.title or self.method.replace("_", " ")

    @property
    def map(self) -> Tensor:
        """(rows, cols), in patch units."""
        return self.flow[-1]

    @property
    def signed(self) -> bool:
        """Whether the map has two signs: evidence for the target and against it, drawn in two colours around 0.

        So the method says, or a value below 0 by more than rounding.
        """
        return self.facts.signed or two_signs(self.spanned)

    @property
    def title(self) -> str:
        """Method and target in words."""
        return self.method_title if self.target is None else f"{self.method_title}: {self.target.title}"


@dataclass(frozen=True, eq=False)
class Explained:
    """What a model looked at in an image, by one or several methods, for one or several targets: the data alone.

    All maps lie on one grid: `InputError` names the first that does not.

    image: the original, upright, RGB.
    view: how the model looked at it: the way back from its patches to the photograph.
    attributions: in the order that was asked for, class by class.
    labels: the classes with the highest scores, best first, and all targets that were explained; there may be none.
    model, source: names of the model and of the image's file.
    versions, attention: of the packages that took part; the attention itself, where it was asked for.
    photographed: (width, height) of the original, where `image` is a reduced copy of it.
    notes: what a user should know: the preprocessing, weights that are random, outputs that are odd.
    call, truth: what makes these maps again, a program or command, and the class that is right, where they are known.
    removals: title of each target -> its scores without patches, where they were asked for; "" of a model's only value.
    frames: of a video or a volume its frames or slices, of which `image` is one; maps are (cells, rows, cols) then.
    """

    image: Image.Image
    view: View
    attributions: tuple[Attribution, ...]
    labels: tuple[Label, ...] = ()
    model: str = ""
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    attention: AttentionRecord | None = None
    photographed: Size | None = None
    notes: tuple[str, ...] = ()
    call: str = ""
    truth: str = ""
    removals: Mapping[str, Removals] = field(default_factory=dict)
    frames: Frames | None = None

    def __post_init__(self) -> None:
        grids = [tuple(a.flow.shape[1:]) for a in self.attributions]
        for i, grid in enumerate(grids):
            if grid != grids[0]:
                wanted, found = ("x".join(map(str, each)) for each in (grids[0], grid))
                raise InputError(
                    f"the grid of attributions[{i}], {self.attributions[i].title!r}, must be that of the first, "
                    f"{wanted}, got {found}: maps of different grids make explanations of their own"
                )

    @property
    def maps(self) -> Tensor:
        """The maps of all attributions, (attributions, 1, rows, cols), in patch units."""
        return torch.stack([a.map for a in self.attributions]).unsqueeze(1)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns); of a video or a volume those of a frame.

        Raises:
            InputError: the maps are of a video or a volume whose frames are not known.
        """
        found = tuple(self.attributions[0].flow.shape[1:])
        if len(found) != (2 if self.frames is None else 3):
            raise InputError(f"maps of videos and volumes are not drawn without their frames: got a grid {found}")
        return found[-2], found[-1]

    def still(self, frame: int | None = None) -> Self:
        """One frame of a video, or slice of a volume, as an image with maps, in the colours of the whole.

        Its maps lie between those of the cells before and after it, linearly. What is an image already stays as it is.

        Args:
            frame: its place among the frames, from 0, or from the end where negative; by default the strongest one.
        Raises:
            OptionError: there is no such frame.
        """
        if self.frames is None:
            if frame is not None:
                raise OptionError(f"frame={frame!r} is for videos and volumes, and this is an image")
            return self
        place = self.frames.place(self.strongest if frame is None else frame)
        maps = [replace(a, flow=self.frames.between(a.flow, place), whole=a.flow) for a in self.attributions]
        named = ", ".join(filter(None, (self.source, self.frames.names[place])))
        return replace(self, image=self.frames.images[place], attributions=tuple(maps), source=named, frames=None)

    def placed(self, number: int = 0) -> np.ndarray:
        """The map of an attribution, by its place, on every pixel of every frame: float32 (frames, height, width).

        Of a volume these are its voxels. NaN where the model saw nothing. An image is one frame.
        """
        stills = [self] if self.frames is None else [self.still(i) for i in range(len(self.frames.images))]
        return np.stack([one.view.place(one.attributions[number].map, one.image.size) for one in stills])

    @property
    def strongest(self) -> int:
        """The frame in which the first map is furthest from 0; 0 of an image."""
        return 0 if self.frames is None else self.frames.strongest(self.attributions[0].map)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, each once."""
        return tuple(dict.fromkeys(a.method for a in self.attributions))

    @property
    def targets(self) -> tuple[Label, ...]:
        """The classes or other targets that were explained, each once."""
        return tuple(dict.fromkeys(a.target for a in self.attributions if a.target is not None))

    def scale(self, attribution: Attribution, look: Look, layer: int = -1) -> Scale:
        """What the colours of a map stand for, its last slice or another: the same wherever it is painted.

        A common scale is of all maps in here by the same method, of all targets and all layers.
        """
        check_look(look)
        alike = [a for a in self.attributions if a.method == attribution.method]
        signed = any(a.signed for a in alike) if look.scale == "common" else attribution.signed
        return look.spanning(attribution.spanned[layer], [a.spanned for a in alike], signed)

    @property
    def untrained(self) -> bool:
        """Whether the model's weights are random, so that the maps show its architecture alone."""
        return any(note.startswith(RANDOM) for note in self.notes)

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Title of each map -> whether it may be trusted; empty where that was not asked.

        >>> for title, verdict in explanation.verdicts.items(): print(title, verdict.text, sep=": ")
        """
        return {a.title: a.verdict for a in self.attributions if a.verdict is not None}

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The options that each method was given."""
        return {a.method: dict(a.options) for a in self.attributions}

    @property
    def scores(self) -> dict[str, float]:
        """Title of each label -> its score; 0..1 of a class."""
        return {label.title: label.score for label in self.labels}

    def only(self, method: str | None = None, target: int | str | Label | None = None) -> Self:
        """The part for one method, one target, or both; a method that gives one map for all targets stays.

        >>> explanation.only("agcam", target="tabby/Egyptian cat")
        Explanation(photo.jpg 640x480, VisionTransformer: AGCAM: tabby rather than Egyptian cat)

        Args:
            method: by the name that it was asked for.
            target: a class by number or name; another target as it was asked for, by its title, or one of `targets`.
        Raises:
            OptionError, TargetError: it is not in here.
        """
        if method is not None and not (isinstance(method, str) and method in self.methods):
            raise OptionError(f"no method {brief(method)} in this explanation; it has {', '.join(self.methods)}")
        kept, removals = [a for a in self.attributions if method in (None, a.method)], self.removals
        if target is not None:
            label = label_among(target, self.targets, self.model)
            kept = [a for a in kept if a.target in (None, label)]
            removals = {title: found for title, found in removals.items() if title == label.title}
        return replace(self, attributions=tuple(kept), removals=removals)

    def reduced(self, side: int) -> Self:
        """The same on a copy of the photograph with no side longer than `side` pixels; a smaller one stays as it is."""
        if max(self.image.size) <= side:
            return self
        image = self.image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        view, frames = self.view.of_copy(image.size), self.frames and self.frames.resized(image.size)
        factors = image.width / self.image.width, image.height / self.image.height
        scaled = tuple(replace(a, marks=tuple(mark.scaled(*factors) for mark in a.marks)) for a in self.attributions)
        photographed = self.photographed or self.image.size
        return replace(self, image=image, view=view, attributions=scaled, photographed=photographed, frames=frames)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.attributions)

    def __len__(self) -> int:
        return len(self.attributions)

    def __repr__(self) -> str:
        shown = ", ".join(a.title for a in self.attributions)
        told = "".join(f"; {note}" for note in self.notes if not note.startswith("preprocessing: "))
        named = f"{self.source or 'image'} {self.image.width}x{self.image.height}, {self.model or 'model'}"
        return printable(f"{type(self).__name__}({named}: {shown}{told})")  # a terminal shows it
