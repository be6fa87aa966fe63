"""The frames of a video and the slices of a volume, and where they lie among the cells of its maps."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import InputError, OptionError
from .geometry import Size
from .volumes import Affine


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a video, or slices of a volume, in their order.

    >>> from captum_vit.frames import Frames
    >>> pictures = (photo,) * 4
    >>> frames = Frames(pictures, Frames.spread(4, 2))  # of two cells, with two frames each
    >>> frames.between(torch.tensor([[1.0, 3.0]]).view(1, 2, 1, 1), 1)  # a quarter of the way
    tensor([[[1.5000]]])

    images: RGB, all of one size.
    places: where each lies among the cells of a map, whose centres are 0, 1, 2, ...; before the first and behind the
        last the map goes on as it is.
    names: what each is called, as "frame 12, 0.40 s"; by default its number.
    kind: "frame", or "slice" of a volume.
    affine: of a volume, from its voxels (slice, row, column) to the world, 4 x 4 as of NIfTI; None where nobody says.
    """

    images: tuple[Image.Image, ...]
    places: tuple[float, ...]
    names: tuple[str, ...] = ()
    kind: str = "frame"
    affine: Affine | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if not count or len(self.places) != count or len(self.names or self.images) != count:
            raise InputError(f"frames need an image, a place and a name each, got {count} and {len(self.places)}")
        if any(image.size != self.images[0].size for image in self.images):
            raise InputError(f"all frames must be of one size, got {sorted({image.size for image in self.images})}")
        if not self.names:
            object.__setattr__(self, "names", tuple(f"{self.kind} {i}" for i in range(count)))

    @staticmethod
    def spread(count: int, cells: int) -> tuple[float, ...]:
        """The places of `count` frames that `cells` cover evenly.

        >>> from captum_vit.frames import Frames
        >>> Frames.spread(4, 2)
        (-0.25, 0.25, 0.75, 1.25)
        """
        return tuple((i + 0.5) * cells / count - 0.5 for i in range(count))

    def place(self, frame: int) -> int:
        """The frame's number from 0; negative ones count from the end.

        Raises:
            OptionError: there is no such frame.
        """
        count = len(self.images)
        if not isinstance(frame, int) or isinstance(frame, bool) or not -count <= frame < count:
            raise OptionError(f"frame must be 0 to {count - 1}, of {count} {self.kind}s, got {frame!r}")
        return frame % count

    def mix(self, frame: int, cells: int) -> tuple[int, int, float]:
        """The cells that a frame lies between, and the share of the second."""
        at = min(max(self.places[frame], 0.0), cells - 1.0)
        low = min(int(at), max(cells - 2, 0))
        return low, min(low + 1, cells - 1), at - low

    def between(self, flow: Tensor, frame: int) -> Tensor:
        """Maps (..., cells, rows, cols) at a frame, (..., rows, cols), linear between the cells beside it."""
        low, high, share = self.mix(frame, flow.shape[-3])
        if not share:
            return flow.select(-3, low)
        return flow.select(-3, low) * (1 - share) + flow.select(-3, high) * share

    def strongest(self, values: Tensor) -> int:
        """The frame in which a map (cells, rows, cols) is furthest from 0; the middle one of a map that is 0."""
        if not values.abs().max():
            return len(self.images) // 2
        return int(torch.stack([self.between(values, i).abs().max() for i in range(len(self.images))]).argmax())

    @property
    def middle(self) -> Image.Image:
        """The one that stands for all where there is room for a single picture."""
        return self.images[len(self.images) // 2]

    def resized(self, size: Size) -> "Frames":
        """Smaller copies of (width, height), whose voxels lie where those of the originals lay."""
        images = tuple(image.resize(size, Image.Resampling.LANCZOS) for image in self.images)
        return replace(self, images=images, affine=self.affine and self._stretched(size, self.affine))

    def _stretched(self, size: Size, affine: Affine) -> Affine:
        """Of voxels that are larger by what rows and columns get fewer: their outer edges stay."""
        larger = [1.0, *(old / new for old, new in zip(self.images[0].size[::-1], size[::-1], strict=True))]
        into = np.diag([*larger, 1.0])
        into[:3, 3] = np.array(larger) / 2 - 0.5  # of the first voxel's centre
        return tuple(tuple(map(float, row)) for row in np.array(affine) @ into)

    def to_dict(self) -> dict[str, Any]:
        """All but the images, as JSON."""
        told = {"kind": self.kind, "places": list(self.places), "names": list(self.names)}
        return {**told, "affine": self.affine and [list(row) for row in self.affine]}

    def strip(self) -> Image.Image:
        """All of them in one picture, one below another."""
        return Image.fromarray(np.concatenate([np.asarray(image) for image in self.images]))

    @staticmethod
    def cut(strip: Image.Image, count: int) -> tuple[Image.Image, ...]:
        """The frames that `strip` has put below one another.

        Raises:
            InputError: it does not hold so many.
        """
        if not 0 < count <= strip.height or strip.height % count:
            raise InputError(f"a picture {strip.height} pixels high cannot be cut into {count} frames")
        high = strip.height // count
        return tuple(strip.crop((0, i * high, strip.width, (i + 1) * high)) for i in range(count))
