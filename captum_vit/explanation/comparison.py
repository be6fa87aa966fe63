"""Maps side by side with all that can be done with them: a figure, and a page with one slider."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..colours import Look
from ..compared import Compared
from ..explained import Explained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_SCALE = Look(scale="common")


class Comparison(Compared):
    """Two to six maps side by side: a figure, and a page on which one slider moves them all. See `compare_maps`.

    >>> comparison = captum_vit.compare_maps(captum_vit.explain("photo.jpg", method=["agcam", "daam"]))
    >>> comparison.plot().savefig("two.png")
    """

    def plot(self, ax: "Axes | None" = None, look: Look = ONE_SCALE) -> "Figure":
        """The maps side by side, and the second less the first where these are two of one image.

        Args:
            look: how maps are painted. With a common scale, the default, those of one method share their colours.
        """
        from ..figures.comparing import compared

        return compared(self, ax, look=look)

    def to_html(self, path: str | Path | None = None, look: Look = ONE_SCALE) -> str:
        """One page that needs nothing else, on which the maps stand under one slider; written to `path` if given.

        Args:
            look: how maps are painted at first; the page's controls change that.
        Raises:
            OutputError: the file cannot be written.
        """
        from ..files import write_atomically
        from ..report import render_comparison

        page = render_comparison(self, look)
        if path is not None:
            write_atomically(Path(path), page.encode())
        return page

    def _repr_png_(self) -> bytes:
        found: bytes = self.plot()._repr_png_()  # type: ignore[attr-defined]
        return found


def compare_maps(*explanations: Explained, names: Sequence[str] | None = None) -> Comparison:
    """Maps side by side: of any two to six methods, classes, images, models or checkpoints.

    >>> before = captum_vit.explain("photo.jpg", "timm/vit_base_patch16_224", target="tabby")
    >>> after = captum_vit.explain("photo.jpg", "timm/vit_base_patch16_224", target="tabby")  # by another checkpoint
    >>> comparison = captum_vit.compare_maps(before, after, names=["before", "after"])
    >>> comparison.plot().savefig("tabby.png")  # before, after, and after less before
    >>> page = comparison.to_html("tabby.html")  # the same under one slider of blocks

    All maps of the explanations are shown, in their order; choose some by `Explanation.only`. Each stands under its
    image, model, method and class. Maps of one method share a colour scale, unless `look` says otherwise; maps of
    two methods count in different units and never do.

    Maps with different numbers of blocks stand at the same share of their depth, which the slider then goes over.

    Where there are two maps by one method of the same image on the same grid, their difference is shown too: the second
    less the first (`Comparison.difference`, float (steps, rows, cols), in the method's units), orange where the second
    has more. Where there is none, `Comparison.undivided` says why.

    Args:
        explanations: what `explain` gave.
        names: of each explanation, such as "before" and "after", beside the letters A to F.
    Raises:
        InputError: fewer than two or more than six maps, maps of a video, NaN or infinite values.
        OptionError: not a name for each explanation.
    """
    found = Compared.of(explanations, names)
    return Comparison(found.parts)
