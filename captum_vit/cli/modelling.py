"""The model that was asked for on the command line, with its preprocessing and its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..explanation.answering import notes_of
from ..explanation.explaining import Explainer
from ..models import load_model
from ..preprocessing import shown_as, squashed
from .options import choice, numbers

OTHERS = "--preprocess, --mean, --std, --img-size, --squash"


@dataclass(frozen=True)
class ModelOptions:
    """What was said of the model; the fields are the options of the command."""

    model: str = "sample"
    checkpoint: Path | None = None
    checkpoint_key: str | None = None
    random: bool = False
    img_size: int | None = None
    preprocess: str | None = None
    mean: str | None = None
    std: str | None = None
    squash: bool = False
    class_names: Path | None = None
    output: str | None = None
    device: str | None = None

    @property
    def of_sample(self) -> bool:
        """Whether it is the sample model with the weights that come with it."""
        return self.model.split("/")[0] == "sample" and self.checkpoint is None and not self.random

    @property
    def of_its_own(self) -> str:
        """What the sample model is to be told of where it is shown a photograph."""
        knows = "six things of a few photographs" if self.model == "sample/hard" else "drawn shapes"
        return f"the sample model knows {knows} alone; name a --model for photographs"

    @property
    def loaded_now(self) -> str:
        """What is said while it is loaded."""
        return f"Loading {self.model}" + (f" with {self.checkpoint}" if self.checkpoint else "")

    def load(self, layers: Sequence[int | str] | None) -> Explainer:
        """The model, ready to explain.

        Raises:
            CaptumViTError: it, or a part of what was said of it, cannot be had.
        """
        mean, std = numbers("--mean", self.mean), numbers("--std", self.std)
        loaded = load_model(self.model, checkpoint=self.checkpoint, **self.loading)
        preprocess = shown_as(loaded.preprocess, self.preprocess, mean, std)
        if preprocess is not None and self.squash:
            preprocess = squashed(preprocess)
        reading: dict[str, Any] = {"layer": layers, "output": choice(self.output), "device": self.device}
        return Explainer(loaded, preprocess=preprocess, class_names=self.class_names, **reading)

    def notes(self, explainer: Explainer) -> list[str]:
        """What a user should know of the model before its maps: how it was loaded, and what it is shown."""
        own = not (self.preprocess or self.mean or self.std or self.squash)
        shown = f"preprocessing: {explainer.preprocess}"
        told = [] if self.of_sample else list(notes_of(explainer.loaded, None))
        if own and self.model.split("/")[0] == "sample":
            return told
        return [*told, f"{shown}; yours differs? {OTHERS}" if own else shown]

    @property
    def loading(self) -> dict[str, Any]:
        """Options of the loader, those alone that were given: not every loader has all."""
        given: dict[str, Any] = {}
        if self.checkpoint_key is not None:
            given["checkpoint_key"] = self.checkpoint_key
        if self.random:
            given["pretrained"] = False
        if self.img_size is not None:
            given["img_size"] = self.img_size
        return given
