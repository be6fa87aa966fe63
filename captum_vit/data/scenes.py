"""The embedded sample's scenes as a data set: nothing to download, and exact masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..errors import DataError
from ..sample import CLASSES, Scene, draw_scene
from .base import IndexedReader, Item, Row

_COUNT = 100
_INDEX_SIZE = 16  # a scene has the same objects at every size


class Drawn(IndexedReader):
    """A number of scenes that are drawn from seeds, of an option `size` in pixels."""

    @property
    def scenes(self) -> int:
        """How many scenes there are.

        Raises:
            DataError: that is no number, or the size is out of range.
        """
        if self.root and not (self.root.isascii() and self.root.isdigit() and 0 < int(self.root) < 10**6):
            raise DataError(f"{self.kind}: takes a number of scenes, as {self.kind}:500, got {self.root!r}")
        if not 16 <= self.options["size"] <= 4096:
            raise DataError(f"a scene has 16 to 4096 pixels on a side, got size={self.options['size']}")
        return int(self.root or _COUNT)

    def files(self, row: Row) -> list[Path]:
        return []


class Scenes(Drawn):
    """Scenes of two objects: one row an object, target the number of its class, masks exact.

    Scene 12 is what the seed 12 draws, at any size and in a set of any length.

    Args:
        root: number of scenes; 100 if empty.
        size: height and width in pixels.
        first: number of the first scene.
    """

    kind = "sample"

    def __init__(self, root: str | Path = "", *, size: int = 512, first: int = 0) -> None:
        super().__init__(root, size=size, first=first)

    @property
    def names(self) -> Mapping[int, str]:
        return dict(enumerate(CLASSES))

    def list_rows(self) -> list[Row]:
        first = self.options["first"]
        return [
            Row(f"scene-{seed:05d}/{CLASSES[label]}", label, seed, place)
            for seed in range(first, first + self.scenes)
            for place, label in enumerate(draw_scene(seed, objects=2, size=_INDEX_SIZE).labels)
        ]

    def read(self, row: Row) -> Item:
        scene = self._scene(row.source)
        return Item(row.id, Image.fromarray(scene.image), row.target, scene.masks[row.detail].copy())

    def _scene(self, seed: int) -> Scene:
        """A scene; the last one is kept, for its second object comes next."""
        kept = self.kept.get("scene")
        if kept is None or kept[0] != seed:
            kept = self.kept["scene"] = (seed, draw_scene(seed, objects=2, size=self.options["size"]))
        scene: Scene = kept[1]
        return scene
