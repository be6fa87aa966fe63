"""An explained image with all that can be done with it: pictures, figures, animation, report, files."""

from dataclasses import fields
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..colours import LOOK, Look
from ..errors import InputError
from ..explained import Explained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .film import Film
    from .flow import Flow


class Explanation(Explained):
    """What a model looked at in an image, with all that can be done with it: pictures, animation, report, files.

    >>> explanation.only("agcam").overlay().size
    (640, 480)

    The data are those of `Explained`.
    """

    @cached_property
    def flow(self) -> "Flow":
        """The maps from block to block, as an animation of all attributions side by side; of a video at a frame."""
        from .flow import Flow

        return Flow(self)

    @cached_property
    def film(self) -> "Film":
        """The frames of a video, or slices of a volume, under their maps, as an animation of all attributions.

        Raises:
            InputError: it is an image.
        """
        from .film import Film

        return Film(self)

    def overlay(self, look: Look = LOOK, *, frame: int | None = None) -> Image.Image:
        """The photograph under its map, RGB in its own size; of several attributions the first (see `only`).

        A map with two signs is drawn in two colours around 0: orange is evidence for, blue is evidence against.

        >>> explanation.overlay(Look(boost_faint=True, contour=0.5)).save("photo-map.png")

        Args:
            look: how the map is painted: range of the colours, opacity, threshold and more.
            frame: which one of a video, from 0 or from the end where negative; by default that with the strongest map.
        Raises:
            OptionError: there is no such frame.
        """
        from ..visualization import overlay

        still = self.still(frame)
        first = still.attributions[0]
        return overlay(still.image, first.map, still.view, look, scale=still.scale(first, look), marks=first.marks)

    def for_captum(self) -> tuple[np.ndarray, np.ndarray]:
        """The first map and the photograph as Captum's `visualize_image_attr` takes them, alone and `_multiple`.

        Returns:
            The map laid on the photograph, float32 (height, width, 1), 0 where the model saw nothing; and the
            photograph, uint8 (height, width, 3); of a video its strongest frame.
        """
        still = self.still()
        placed = still.view.place(still.attributions[0].map, still.image.size)
        return np.nan_to_num(placed, nan=0.0)[..., None], np.array(still.image)

    def plot(self, ax: "Axes | None" = None, look: Look = LOOK) -> "Figure":
        """The figure that suits: one overlay, a row of them for each class, or of a video a strip of frames."""
        from .. import figures

        return (figures.plot if self.frames is None else figures.frames)(self, ax, look=look)

    def show(self, look: Look = LOOK) -> None:
        """Show the figure of `plot`: below the cell in a notebook, elsewhere in the viewer of images that there is.

        >>> explanation.show()
        """
        with BytesIO() as png:
            self.plot(look=look).savefig(png, format="png", bbox_inches="tight")
            Image.open(png).show()

    def to_html(self, path: str | Path | None = None, look: Look = LOOK) -> str:
        """The report, one page that needs nothing else; written to `path` if one is given.

        Args:
            look: how its maps are painted at first; its controls change that.

        Raises:
            OutputError: the file cannot be written.
        """
        from ..files import write_atomically
        from ..report import render

        page = render([self], look=look)
        if path is not None:
            write_atomically(Path(path), page.encode())
        return page

    def to_nifti(self, path: str | Path) -> None:
        """Write the first map of a volume as NIfTI, on the volume's own voxels and with its affine.

        After `e = explain("scan.nii.gz", model)`, what `e.only("agcam", "lesion").to_nifti("lesion.nii.gz")` writes can
        be laid over the scan in any viewer.

        Between the cells of the map it is linear; 0 where the model saw nothing.

        Raises:
            InputError: it is no volume.
            OptionError, ImageLoadError, OutputError: as `captum_vit.volumes.write_nifti`.
        """
        from ..volumes import write_nifti

        if self.frames is None or self.frames.kind != "slice":
            raise InputError("NIfTI is for maps of volumes, and this explanation is of none")
        write_nifti(path, np.nan_to_num(self.placed(), nan=0.0), self.frames.affine)

    def save(self, folder: str | Path) -> None:
        """Write the explanation: maps as safetensors, the image as PNG, all else as JSON.

        Whoever reads the folder meanwhile sees the old explanation or the new one, whole.

        Raises:
            InputError: it could not be loaded again, as for NaN in a map.
            OutputError: the folder cannot be written.
        """
        from .saving import save

        save(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """The explanation that `save` wrote.

        Raises:
            ExplanationLoadError: there is none, or it is damaged, or of a later format.
        """
        from .saving import load

        found = load(folder)
        return cls(**{part.name: getattr(found, part.name) for part in fields(found)})

    def _repr_html_(self) -> str:
        from ..report import render_inline

        return render_inline(self)
