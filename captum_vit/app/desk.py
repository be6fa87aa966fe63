"""What the app does with what was filled in: nothing here knows of a browser."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..calling import program
from ..errors import InputError, OptionError, nearest
from ..names import distinct, safe_name

if TYPE_CHECKING:
    from ..explanation.explaining import Explainer
    from ..explanation.explanation import Explanation

MOST = 24  # photographs at once
SIDE = 1024  # of the photographs on the page, in pixels
HUBS = ("timm/", "hf/", "open_clip/")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wish:
    """What was filled in.

    photos: files of images, as they were uploaded.
    model: one of those on offer, or a name as timm/NAME or hf/ID.
    methods: names; none stands for the one that suits the model.
    classes: one a line, by name or number, or two with a slash between them for why the one and not the other; none
        stands for what is predicted.
    texts: one a line, for a model of images and texts.
    patches: whether the attention is kept, which a click on a patch and the table of heads show.
    removals: whether scores without parts of a photograph are measured, so that a brush can take some away.
    """

    photos: Sequence[str]
    model: str
    methods: Sequence[str] = ()
    classes: str = ""
    texts: str = ""
    patches: bool = False
    removals: bool = False


class Desk:
    """Explains what is asked for, by models that stay loaded.

    Args:
        models: on offer, as for `explain`.
        typed: whether a name of timm or Hugging Face that is not on offer is taken too. A name that would run code, as
            `module:object`, or read a folder is taken only where it is on offer.
    """

    def __init__(self, models: Sequence[str], typed: bool = True) -> None:
        self.models, self.typed = tuple(models), typed
        self._explainer = lru_cache(maxsize=2)(_load)

    def explain(self, wish: Wish, progress: Progress) -> list[Explanation]:
        """An explanation for each photograph, in their order.

        Raises:
            CaptumViTError: something of it cannot be had.
        """
        from ..explanation.explain import explain
        from ..targets import Text

        if not wish.photos:
            raise InputError("no photograph yet: drop one into the field above, or several")
        if len(wish.photos) > MOST:
            raise InputError(
                f"at most {MOST} photographs at once, got {len(wish.photos)}: a folder of more goes "
                "through the command captum-vit explain"
            )
        self._check_model(wish.model)
        explainer = self._explainer(wish.model)
        targets: list[Any] = [_target(line.strip()) for line in wish.classes.splitlines() if line.strip()]
        texts = [Text(line.strip()) for line in wish.texts.splitlines() if line.strip()]
        targets = [*targets, *texts]
        question: dict[str, Any] = {"method": list(wish.methods) or None, "target": targets or None, "verdict": True}
        question |= {"attention": wish.patches, "removals": wish.removals, "words": bool(texts)}
        asked = explainer.ask(**question)
        seen = (explainer.see(Path(photo)) for photo in wish.photos)
        found = []
        for explanation in explainer.several(seen, asked, batch_size=1):
            call = program(explain, explanation.source, {"model": wish.model, **question})
            found.append(replace(explanation.reduced(SIDE), call=call))
            progress(len(found), len(wish.photos))
        return found

    def _check_model(self, name: str) -> None:
        if name in self.models:
            return
        hint = nearest(name, self.models)
        if not self.typed:
            raise OptionError(f"the model {name!r} is not on offer here; there are {', '.join(self.models)}{hint}")
        hub = next((hub for hub in HUBS if name.startswith(hub)), None)
        if hub is None or ":" in name or Path(name.removeprefix(hub)).exists():
            raise OptionError(
                f"the model {name!r} is none of those on offer ({', '.join(self.models)}), and no name as "
                f"timm/vit_base_patch16_224 or hf/google/vit-base-patch16-224{hint}; files, folders and code of your "
                "own are named when the app is started: captum-vit app --model NAME"
            )


def _load(name: str) -> Explainer:
    from ..explanation.explaining import Explainer

    return Explainer(name)


def _target(line: str) -> str | int:
    return int(line) if line.isascii() and line.isdigit() else line


def pack(page: str, explanations: Sequence[Explanation], path: Path) -> None:
    """Write a zip archive with the report as it is shown, and each saved explanation in a folder of its own."""
    names = distinct([safe_name(Path(e.source).stem if e.source else "", "image") for e in explanations])
    with TemporaryDirectory() as folder, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.html", page)
        for name, explanation in zip(names, explanations, strict=True):
            kept = Path(folder) / name
            explanation.save(kept)
            for file in sorted(kept.iterdir()):
                archive.write(file, f"{name}/{file.name}")
